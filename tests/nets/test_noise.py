"""Dropped units: functions of the task's key, with the published shares."""

import torch

from metalearn_cli.nets.base import PLAIN, Call, Noise, Pass
from metalearn_cli.nets.layers import fold
from metalearn_cli.nets.noise import DropBlock, drop_block, dropout

KEYS = torch.tensor([5, 9, 2**62])
ONES = fold(torch.ones(3, 40, 6, 10, 10))  # [B, T*C, H, W] of 3 tasks with 40 images of 6 channels


def at_step(step: int, keys: torch.Tensor = KEYS, examples: Pass = Pass.support) -> Call:
    return Call(step=step, noise=Noise(keys, examples, torch.full((len(keys),), 0.25)))


def by_task(x: torch.Tensor) -> torch.Tensor:
    return x.view(len(x), len(KEYS), -1, *x.shape[2:]).transpose(0, 1)


def test_nothing_is_dropped_without_noise_or_at_share_0() -> None:
    noise = at_step(0)
    assert dropout(ONES, 0.5, PLAIN, 1) is ONES
    assert torch.equal(dropout(ONES, 0.0, noise, 1), ONES)
    assert drop_block(ONES, DropBlock(0.5, 3, 0.0), PLAIN, 1) is ONES
    assert torch.equal(drop_block(ONES, DropBlock(0.0, 3, 0.0), noise, 1), ONES)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropped = dropout(ONES, 0.25, at_step(0), 1)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs((dropped == 0).float().mean() - 0.25) < 0.01
    assert ONES.is_contiguous(memory_format=torch.channels_last)
    assert dropped.is_contiguous(memory_format=torch.channels_last)


def test_a_mask_is_of_the_task_the_forward_and_the_layer_alone() -> None:
    squares = DropBlock(0.2, 3, ramp=0.5)
    for drop in (lambda *at: dropout(at[0], 0.5, *at[1:]), lambda *at: drop_block(at[0], squares, *at[1:])):
        whole = drop(ONES, at_step(7), 2)
        assert torch.equal(whole, drop(ONES, at_step(7), 2))
        part = drop(ONES[:, 6:12].contiguous(memory_format=torch.channels_last), at_step(7, KEYS[1:2]), 2)
        assert torch.equal(whole[:, 6:12], part)  # as a chunk or a rank computes it
        assert not torch.equal(whole, drop(ONES, at_step(8), 2))
        assert not torch.equal(whole, drop(ONES, at_step(7), 3))
        assert not torch.equal(whole, drop(ONES, at_step(7, examples=Pass.query), 2))
        assert not torch.equal(by_task(whole)[0], by_task(whole)[1])


def test_drop_block_drops_whole_squares_and_about_its_share() -> None:
    kept = by_task(drop_block(ONES, DropBlock(0.1, 3, 0.0), at_step(0), 1)) > 0
    squares = torch.nn.functional.max_pool2d(kept.flatten(0, 1).float(), 3, stride=1) == 0  # wholly dropped
    covered = torch.nn.functional.max_pool2d(torch.nn.functional.pad(squares.float(), [2] * 4), 3, stride=1)
    assert torch.equal(covered.view(kept.shape) == 0, kept)  # each dropped pixel lies in a dropped square
    # Squares overlap: the share that is dropped is below gamma * 9, and not by much.
    assert 0.08 < 1 - kept.float().mean().item() < 0.1


def test_drop_block_scales_what_is_left_of_each_task() -> None:
    dropped = by_task(drop_block(ONES, DropBlock(0.1, 3, 0.0), at_step(0), 1))
    torch.testing.assert_close(dropped.double().mean((1, 2, 3, 4)), torch.ones(3).double(), rtol=1e-6, atol=0)


def test_a_square_as_large_as_the_image_drops_all_of_a_channel_or_nothing() -> None:
    for size in (10, 99):
        kept = by_task(drop_block(ONES, DropBlock(0.3, size, 0.0), at_step(0), 1)) > 0
        shares = kept.float().mean((3, 4))
        assert set(shares.unique().tolist()) == {0.0, 1.0}
        assert abs(shares.mean() - 0.7) < 0.05


def test_the_share_of_squares_grows_over_the_first_part_of_the_training() -> None:
    """At a quarter of the training: half of the share over the first half, none at the start, all without a ramp."""
    shares = []
    for progress, ramp in ((0.25, 0.5), (0.0, 0.5), (0.9, 0.5), (0.0, 0.0)):
        call = at_step(0)
        assert call.noise is not None
        call = call._replace(noise=call.noise._replace(progress=torch.full((3,), progress)))
        shares.append((drop_block(ONES, DropBlock(0.2, 1, ramp), call, 1) == 0).float().mean().item())
    assert abs(shares[0] - 0.1) < 0.01
    assert shares[1] == 0
    assert abs(shares[2] - 0.2) < 0.01
    assert shares[3] == shares[2]


def test_examples_that_are_not_real_do_not_count_in_the_scale() -> None:
    mask = torch.arange(40).expand(3, -1) < torch.tensor([[40], [25], [1]])
    squares = DropBlock(0.3, 4, 0.0)
    dropped = by_task(drop_block(ONES, squares, at_step(0)._replace(mask=mask), 1)).double()
    for task, count in enumerate((40, 25, 1)):
        assert abs(dropped[task, :count].mean() - 1) < 1e-6
        alone = drop_block(ONES[:count, :6], squares, at_step(0, KEYS[task : task + 1]), 1).double()
        torch.testing.assert_close(dropped[task, :count], alone, rtol=1e-6, atol=0)
