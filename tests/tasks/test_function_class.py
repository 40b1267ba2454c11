"""Functions of many inputs: their formulas, the exact errors of least squares, and the posterior of linear ones."""

import math

import pytest
import torch
from problems import points_task
from torch import Tensor
from torch.distributions import MultivariateNormal

from metalearn_cli.errors import UserError
from metalearn_cli.learning.baselines import baselines
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Draw, draw_slice
from metalearn_cli.tasks.function_class import FunctionClass, Kind
from metalearn_cli.tasks.likelihood import EXACT, OfValues, SquaredError, ValuesLikelihood

CPU = torch.device("cpu")
EACH_KIND = pytest.mark.parametrize("kind", Kind, ids=[kind.name for kind in Kind])


def gathered(task: FunctionClass, tasks: int) -> tuple[Draw, Batch]:
    draw = task.draw(tasks, "test", generator(0))
    return draw, task.gather(draw, CPU)


def by_hand(task: FunctionClass, at: Draw, x: Tensor) -> float:
    """The value of a single task's function, step by step."""
    inputs = x.tolist()
    if task.kind is Kind.tree:
        node = 0
        for _ in range(task.depth):
            node = 2 * node + (2 if inputs[at["coordinate"][0, node].item()] > 0 else 1)  # type: ignore[index]
        return at["leaf"][0, node - 2**task.depth + 1].item()
    w = at["w"][0, :, 0].tolist()
    if task.kind is Kind.network:
        columns = at["layer"][0].T.tolist()
        inputs = [max(0.0, sum(a * b for a, b in zip(column, inputs, strict=True))) for column in columns]
    return sum(a * b for a, b in zip(w, inputs, strict=True))


@EACH_KIND
def test_each_class_is_its_formula(kind: Kind) -> None:
    task = points_task(FunctionClass, kind=kind, dimension=6, depth=3, hidden=5, shot=4, query=7)
    draw, batch = gathered(task, 20)
    for t in range(20):
        at = draw_slice(draw, t, t + 1)
        for x, y in zip(batch.query_x[t], batch.query_y[t, :, 0].tolist(), strict=True):
            assert y == pytest.approx(by_hand(task, at, x), abs=1e-5)


@pytest.mark.parametrize(("kind", "size"), [("linear", 6.0), ("sparse_linear", 3.0), ("tree", 1.0), ("network", 6.0)])
def test_values_have_the_size_of_the_paper(kind: str, size: float) -> None:
    """E y^2: D of w'x, the number of its terms where w is sparse, 1 of leaves, and 2/H * H * D/2 of a network."""
    draw, batch = gathered(points_task(FunctionClass, kind=Kind[kind], dimension=6, shot=4, query=20), 4000)
    assert batch.query_y.square().mean().item() == pytest.approx(size, rel=0.08)
    assert batch.query_x.mean().item() == pytest.approx(0, abs=0.01)
    assert batch.query_x.std().item() == pytest.approx(1, abs=0.01)
    if kind == "sparse_linear":
        assert ((draw["w"] != 0).sum(1) == 3).all()
        shares = (draw["w"] != 0).double().mean((0, 2))
        assert (shares - 0.5).abs().max() < 4 * 0.5 / math.sqrt(4000)  # each input is as likely as another


@pytest.mark.parametrize("shot", [1, 3, 5, 6, 10])
@pytest.mark.parametrize("kind", [Kind.linear, Kind.sparse_linear], ids=["linear", "sparse_linear"])
def test_least_squares_has_its_exact_error(kind: Kind, shot: int) -> None:
    """max(D - k, 0) times the mean square of w's numbers, 1 or `nonzero` / D."""
    task = points_task(FunctionClass, kind=kind, dimension=6, shot=shot, query=20)
    error = baselines(task, EpisodeRange("test", 3000, 0), CPU)["least_squares"]
    expected = max(6 - shot, 0) * (1.0 if kind is Kind.linear else 0.5)
    assert error.mean().item() == pytest.approx(expected, rel=0.08, abs=1e-6)


def test_baselines_are_named_by_what_they_are() -> None:
    for kind in Kind:
        task = points_task(FunctionClass, kind=kind, dimension=3, shot=2, query=4)
        names = {"constant", "least_squares"} | ({"oracle"} if kind is Kind.linear else set())
        scores = baselines(task, EpisodeRange("test", 5, 0), CPU)
        assert scores.keys() == names
        if kind is Kind.linear:
            torch.testing.assert_close(scores["oracle"], scores["least_squares"])
    densities = ValuesLikelihood(OfValues.gaussian)
    noisy = points_task(FunctionClass, dimension=3, shot=2, query=4, noise=0.5, values=densities)
    assert baselines(noisy, EpisodeRange("test", 5, 0), CPU).keys() == {
        *("constant", "constant_mse", "least_squares_mse", "oracle", "oracle_mse", "oracle_floored")
    }


@pytest.mark.parametrize("shot", [2, 9])
def test_the_oracle_is_the_conditional_of_the_joint_normal_distribution(shot: int) -> None:
    """Of the values of support and query together, whose covariance is x x' + noise^2 I."""
    densities = ValuesLikelihood(OfValues.gaussian)
    task = points_task(FunctionClass, dimension=4, shot=shot, query=1, noise=0.3, values=densities)
    draw, batch = gathered(task, 8)
    likelihood, out = task.oracle(draw, CPU) or (SquaredError(), torch.empty(0))
    assert likelihood == EXACT
    x = torch.cat([batch.support_x, batch.query_x], 1).double()
    y = torch.cat([batch.support_y, batch.query_y], 1).double().squeeze(-1)
    covariance = x @ x.mT + 0.09 * torch.eye(shot + 1, dtype=torch.float64)
    joint, support = (
        MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance[:, :n, :n]).log_prob(y[:, :n])
        for n in (shot + 1, shot)
    )
    torch.testing.assert_close(-EXACT.loss(out, batch.query_y.double())[:, 0], joint - support, rtol=1e-6, atol=1e-6)


@EACH_KIND
def test_noise_moves_nothing_else_and_has_a_fingerprint(kind: Kind) -> None:
    clean, noisy = (points_task(FunctionClass, kind=kind, dimension=5, noise=noise) for noise in (0.0, 0.25))
    before, after = (gathered(task, 300) for task in (clean, noisy))
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    for part in ("support_y", "query_y"):
        difference = getattr(after[1], part) - getattr(before[1], part)
        assert difference.std().item() == pytest.approx(0.25, rel=0.05)
    assert clean.fingerprint != noisy.fingerprint
    assert len({FunctionClass(kind=each).fingerprint for each in Kind}) == len(Kind)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match=r"task\.nonzero=3 must be at most task\.dimension=2"):
        FunctionClass(kind=Kind.sparse_linear, dimension=2)
    FunctionClass(kind=Kind.linear, dimension=2)
    with pytest.raises(UserError, match=r"task\.depth=17 must be a whole number from 1 to 16"):
        FunctionClass(kind=Kind.tree, depth=17)
