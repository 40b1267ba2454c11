"""Gaussian processes: their sizes, their covariance, and posteriors beside those of a loop in numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import nightly

from metalearn_cli.learning.baselines import baselines
from metalearn_cli.learning.draws import EpisodeRange, draw_block
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import drawn_sizes
from metalearn_cli.tasks.base import draw_slice
from metalearn_cli.tasks.gaussian_process import GaussianProcess, Kernel
from metalearn_cli.tasks.likelihood import EXACT

CPU = torch.device("cpu")


def sizes(task: GaussianProcess, split: str, tasks: int, seed: int = 0) -> list[tuple[int, int]]:
    batch = task.gather(task.draw(tasks, split, generator(seed)), CPU)  # type: ignore[arg-type]
    if batch.support_mask is None or batch.query_mask is None:
        return [(batch.support_x.shape[1], batch.query_x.shape[1])] * tasks
    return list(zip(batch.support_mask.sum(1).tolist(), batch.query_mask.sum(1).tolist(), strict=True))


@pytest.mark.parametrize("kernel", Kernel)
def test_the_posterior_of_any_values_is_the_oracle_of_the_tasks_own(kernel: Kernel) -> None:
    task = GaussianProcess(kernel, max_points=20)
    draw = task.draw(5, "train", generator(0))
    batch = task.gather(draw, CPU)
    likelihood, out = task.posterior(draw, batch.support, batch.query_x)
    assert likelihood == EXACT
    torch.testing.assert_close(out, task.oracle(draw, CPU)[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", [Kernel.rbf, Kernel.periodic])
def test_functions_vary_together_as_the_kernel_says(kernel: Kernel) -> None:
    """Of 20,000 functions at three places, and the same numbers on a grid that holds more of them."""
    task = GaussianProcess(kernel, noise=0.5)
    draw = task.draw(20_000, "train", generator(0))
    x = torch.tensor([-0.3, 0.0, 1.0]).view(1, 3, 1).expand(20_000, -1, -1)
    values, noise = task.functions(draw, x)
    assert noise == 0.5
    scaled = values[..., 0] / draw["scale"][..., 0]
    d, length, period = (x - x.mT).abs(), draw["length"], draw["period"]
    rbf, periodic = (-0.5 * (d / length) ** 2).exp(), (-2 * ((math.pi * d / period).sin() / length) ** 2).exp()
    expected = (rbf if kernel is Kernel.rbf else periodic).mean(0)
    torch.testing.assert_close(scaled.mT @ scaled / 20_000, expected, rtol=0, atol=0.03)


def test_a_meta_batch_has_one_pair_of_sizes_and_a_test_one_for_16_tasks() -> None:
    task = GaussianProcess(max_points=20)
    pairs = [pair for seed in range(300) for pair in set(sizes(task, "train", 5, seed))]
    assert len(pairs) == 300
    supports, totals = {support for support, _ in pairs}, {support + query for support, query in pairs}
    assert (supports, max(totals)) == ({*range(3, 17)}, 19)
    assert min(query for _, query in pairs) == 3
    rooms = {1: {*range(3, 17)}, 6: {6, 12, 16}, 20: {16}}
    for bucket, room in rooms.items():
        padded = replace(task, bucket=bucket)
        draws = [padded.draw(5, "train", generator(seed)) for seed in range(300)]
        assert {draw[f"{name}_x"].shape[1] for draw in draws for name in ("support", "query")} == room
        assert [sizes(padded, "train", 5, seed)[0] for seed in range(300)] == pairs
    of_test = sizes(task, "test", 50)
    groups = [of_test[first : first + 16] for first in range(0, 50, 16)]
    assert [len(set(group)) for group in groups] == [1, 1, 1, 1]
    assert len(set(of_test)) > 1


@pytest.mark.parametrize("kernel", Kernel)
def test_posteriors_are_those_of_a_loop_over_real_points(kernel: Kernel) -> None:
    """The oracle of each point by itself, and of each after those before it, from the kernel's formula in numpy."""
    task = GaussianProcess(kernel, noise=0.1, max_points=12)
    draw = draw_slice(draw_block(task, "test", 0, 0), 14, 20)  # across two pairs of sizes
    batch, outs = task.gather(draw, CPU), [task.oracle(draw, CPU), task.joint_oracle(draw, CPU)]
    assert [likelihood for likelihood, _ in outs] == [EXACT, EXACT]
    for t in range(6):
        one = batch.task(t)
        x, y = (
            torch.cat([a, b], 1)[0, :, 0].double().numpy()
            for a, b in ((one.support_x, one.query_x), (one.support_y, one.query_y))
        )
        a, length, period = (draw[name][t].item() for name in ("scale", "length", "period"))
        d = np.abs(x[:, None] - x)
        r = math.sqrt(5) * d / length
        kinds = np.exp(-0.5 * (d / length) ** 2), (1 + r + r**2 / 3) * np.exp(-r)
        k = a**2 * [*kinds, np.exp(-2 * np.sin(np.pi * d / period) ** 2 / length**2)][int(draw["kind"][t])]
        shot = one.support_x.shape[1]
        for joint, (_, out) in enumerate(outs):
            for q in range(shot, len(x)):
                known = range(q if joint else shot)
                inverse = np.linalg.inv(k[np.ix_(known, known)] + 0.01 * np.eye(len(known)))
                mean = k[q, known] @ inverse @ y[known]
                deviation = math.sqrt(k[q, q] + 0.01 - k[q, known] @ inverse @ k[known, q])
                assert out[t, q - shot].tolist() == pytest.approx([mean, math.log(deviation)], rel=1e-5, abs=1e-5)


def test_a_task_has_its_kernels_covariance_and_the_test_may_have_another_kernel() -> None:
    task = GaussianProcess(Kernel.rbf, Kernel.periodic, max_points=8)
    kinds = {split: set(task.draw(9, split, generator(1))["kind"].flatten().tolist()) for split in task.splits}
    assert kinds == {"train": {0}, "val": {0}, "test": {2}}
    draw = {name: value.expand(20000, *value.shape[1:]) for name, value in task.draw(1, "train", generator(0)).items()}
    rng = torch.Generator().manual_seed(0)
    for part in ("support", "query"):
        draw[f"{part}_normal"] = torch.randn(draw[f"{part}_normal"].shape, generator=rng)
    batch = task.gather(draw, CPU)
    y = torch.cat([batch.support_y, batch.query_y], 1)[..., 0].double()
    x = torch.cat([batch.support_x, batch.query_x], 1)[:1].double()
    expected = draw["scale"][0].square() * (-0.5 * ((x - x.mT) / draw["length"][0]).square()).exp()[0]
    measured = y.T @ y / len(y) - 0.02**2 * torch.eye(y.shape[1])
    assert (measured - expected).abs().max() < 0.05 * expected.max()


@pytest.mark.parametrize(("kernel", "episodes"), [(Kernel.rbf, 400), *nightly((kernel, 4000) for kernel in Kernel)])
def test_the_oracles_are_those_of_the_papers_protocol(
    kernel: Kernel, episodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-likelihoods per point that were computed by another program (3,000 to 4,000 tasks, +- 0.03)."""
    monkeypatch.setattr(drawn_sizes, "OF_ONE_SIZE", 1)  # so that episodes are independent
    scores = baselines(GaussianProcess(kernel), EpisodeRange("test", episodes, 0), CPU)
    figures = {
        Kernel.rbf: (1.51, 1.80, 0.95),
        Kernel.matern52: (1.11, 1.38, 0.76),
        Kernel.periodic: (1.16, 1.47, 0.74),
        Kernel.mixture: (1.27, 1.56, 0.82),  # their mean
    }
    for name, figure in zip(("oracle", "oracle_joint", "oracle_floored"), figures[kernel], strict=True):
        error = 1.96 * scores[name].std().item() / math.sqrt(episodes)
        assert abs(scores[name].mean().item() - figure) < 1.5 * error + 0.04, name
    assert scores["constant"].mean() < 0 < scores["oracle_mse"].mean() < 0.1 * scores["constant_mse"].mean() + 0.06
    exact = baselines(replace(GaussianProcess(kernel), noise=0.2), EpisodeRange("test", 64, 0), CPU)
    assert (exact["oracle"] - exact["oracle_floored"]).abs().max() < 1e-9  # no deviation is below 0.2
