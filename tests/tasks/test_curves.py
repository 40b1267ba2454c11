"""Families of curves: formulas and ranges, their noise, and what the oracle knows."""

import math

import pytest
import torch
from problems import points_task

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Draw, Split, TaskDistribution, draw_sha256, draw_slice
from metalearn_cli.tasks.harmonics import Harmonics
from metalearn_cli.tasks.sinusoid import Sinusoid, SinusoidFrequency
from metalearn_cli.tasks.sinusoid_or_line import SinusoidOrLine
from metalearn_cli.tasks.steps import Steps

CPU = torch.device("cpu")
FAMILIES = (Sinusoid, SinusoidFrequency, SinusoidOrLine, Harmonics, Steps)


def gathered(task: TaskDistribution, tasks: int = 2000) -> tuple[Draw, Batch]:
    draw = task.draw(tasks, "train", generator(0, "train", 0))
    return draw, task.gather(draw, torch.device("cpu"))


def check_ranges(*uniform: tuple[torch.Tensor, float, float]) -> None:
    for values, low, high in uniform:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.parametrize(("turns", "end"), [(0.5, math.pi), (1.0, 2 * math.pi)])
def test_mamls_and_reptiles_family(turns: float, end: float) -> None:
    draw, batch = gathered(points_task(Sinusoid, train_shot=7, train_query=3, turns=turns))
    expected = draw["amplitude"] * torch.sin(batch.support_x - draw["phase"])
    assert torch.equal(batch.support_y, expected)
    assert torch.equal(batch.query_y, draw["amplitude"] * torch.sin(batch.query_x - draw["phase"]))
    assert batch.support_x.shape == (2000, 7, 1)
    assert batch.query_x.shape == (2000, 3, 1)
    check_ranges((draw["amplitude"], 0.1, 5), (draw["phase"], 0, end), (batch.support_x, -5, 5))


def test_meta_sgds_family() -> None:
    draw, batch = gathered(SinusoidFrequency())
    curve = draw["amplitude"] * torch.sin(draw["frequency"] * batch.support_x + draw["phase"])
    assert torch.equal(batch.support_y, curve)
    assert torch.equal(batch.query_y, draw["amplitude"] * torch.sin(draw["frequency"] * batch.query_x + draw["phase"]))
    check_ranges((draw["amplitude"], 0.1, 5), (draw["phase"], 0, math.pi), (draw["frequency"], 0.8, 1.2))
    check_ranges((batch.support_x, -5, 5), (batch.query_x, -5, 5))


def test_half_are_sinusoids_and_half_are_lines() -> None:
    draw, batch = gathered(points_task(SinusoidOrLine, noise=0.0))
    for t in range(200):
        x = batch.query_x[t]
        if draw["is_line"][t]:
            expected = draw["slope"][t] * x + draw["intercept"][t]
        else:
            expected = draw["amplitude"][t] * torch.sin(x - draw["phase"][t])
        torch.testing.assert_close(batch.query_y[t], expected)
    assert abs(draw["is_line"].double().mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)
    check_ranges((draw["slope"], -3, 3), (draw["intercept"], -3, 3), (batch.support_x, -5, 5))
    check_ranges((draw["amplitude"], 0.1, 5), (draw["phase"], 0, math.pi))
    assert SinusoidOrLine().points.noise == 0.3


def test_harmonics_are_two_sines_in_a_window() -> None:
    draw, batch = gathered(points_task(Harmonics, train_query=50), tasks=4000)
    for t in range(100):
        a1, a2, b1, b2, w = (
            draw[name][t].item() for name in ("amplitude_1", "amplitude_2", "phase_1", "phase_2", "frequency")
        )
        x = batch.query_x[t].double()
        expected = a1 * torch.sin(w * x + b1) + a2 * torch.sin(2 * w * x + b2)
        torch.testing.assert_close(batch.query_y[t].double(), expected, atol=1e-4, rtol=0)
    check_ranges((draw["phase_1"], 0, 2 * math.pi), (draw["phase_2"], 0, 2 * math.pi), (draw["frequency"], 5, 7))
    for name in ("amplitude_1", "amplitude_2"):
        assert draw[name].mean().item() == pytest.approx(0, abs=0.05)
        assert draw[name].std().item() == pytest.approx(1, abs=0.05)
    window = batch.query_x.mean(1)
    assert (batch.query_x.std(1) - 1).mean().item() == pytest.approx(0, abs=0.02)
    assert window.mean().item() == pytest.approx(0, abs=0.15)
    assert window.std().item() == pytest.approx(math.sqrt(64 / 12 + 1 / 50), abs=0.05)
    assert 3.9 < window.abs().max() < 4.6


@pytest.mark.parametrize("jumps", [1, 2, 3])
def test_steps_change_sign_at_each_place(jumps: int) -> None:
    draw, batch = gathered(Steps(jumps=jumps))
    for t in range(100):
        for x, y in zip(batch.query_x[t].flatten().tolist(), batch.query_y[t].flatten().tolist(), strict=True):
            below = sum(place < x for place in draw["places"][t].flatten().tolist())
            assert y == (1 if below % 2 else -1)
    check_ranges((draw["places"], -2.5, 2.5), (batch.support_x, -5, 5))
    # Left of all places -1, right of all of them -1 or 1 by their number.
    assert (batch.query_y[batch.query_x < -2.5] == -1).all()
    assert (batch.query_y[batch.query_x > 2.5] == (1 if jumps % 2 else -1)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_is_added_to_support_and_query_and_moves_nothing_else(family: type[TaskDistribution]) -> None:
    clean, noisy = points_task(family, noise=0.0), points_task(family, noise=0.25)
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        draws = [task.draw(500, split, generator(0)) for task in (clean, noisy)]
        assert all(torch.equal(value, draws[1][name]) for name, value in draws[0].items())
        batches = [task.gather(draw, CPU) for task, draw in zip((clean, noisy), draws, strict=True)]
        for before, after in zip(*((batch.support_y, batch.query_y) for batch in batches), strict=True):
            noise = after - before
            assert noise.std().item() == pytest.approx(0.25, rel=0.05)
            assert noise.mean().item() == pytest.approx(0, abs=0.02)
        # The oracle is the curve without noise, also for a slice of the tasks.
        assert torch.equal(noisy.oracle(draws[1], CPU)[1], batches[0].query_y)
        assert torch.equal(noisy.oracle(draw_slice(draws[1], 3, 7), CPU)[1], batches[0].query_y[3:7])
    assert clean.fingerprint != noisy.fingerprint


def test_each_family_has_a_fingerprint_of_its_own() -> None:
    tasks = [family() for family in FAMILIES]
    assert len({task.fingerprint for task in [*tasks, Steps(jumps=1), Sinusoid(turns=1.0)]}) == len(FAMILIES) + 2
    assert all(task.splits == ("train", "val", "test") for task in tasks)


def test_episodes_are_those_of_all_versions_before() -> None:
    """Hashes of 25 tasks each, from the commit before there was noise (4a03afb): runs of both can be compared."""
    expected = {
        Sinusoid(): "5b1122ea462d2cdd e072179594fc5806",
        Sinusoid(turns=1.0): "46d384eb9b721be7 3e5cbbfa5fb01be6",
        SinusoidFrequency(): "a6620fe85fd7a1f9 f21bada7b4fd0b3f",
    }
    for task, hashes in expected.items():
        draws = [task.draw(25, split, generator(0, split, 3)) for split in ("train", "test")]
        assert " ".join(draw_sha256([draw], task.fingerprint)[:16] for draw in draws) == hashes


def test_settings_out_of_range_are_refused() -> None:
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"task\.noise=.* must be a finite number, 0 or above"):
            points_task(Steps, noise=noise)
    with pytest.raises(UserError, match=r"task\.jumps=0 must be a whole number, 1 or above"):
        Steps(jumps=0)
    with pytest.raises(UserError, match=r"task\.train_shot=0 must be a whole number, 1 or above"):
        points_task(Sinusoid, train_shot=0)
    with pytest.raises(UserError, match=r"task\.turns=nan"):
        Sinusoid(turns=float("nan"))
