"""The heads that are solved, against numpy and scipy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import finite_difference
from scipy.optimize import minimize
from torch import Tensor

from metalearn_cli.algorithms.solvers import conjugate, logistic, reweighted, ridge, with_ones
from metalearn_cli.nets.base import Params


def problem(tasks: int, examples: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, examples, features, generator=rng, dtype=torch.float64)
    labels = torch.arange(examples).expand(tasks, -1) % classes
    return x, F.one_hot(labels, classes).double()


@pytest.mark.parametrize(("examples", "features"), [(5, 30), (30, 5), (7, 7)])
@pytest.mark.parametrize("penalty", [0.1, 2.0, 50.0])
def test_ridge_is_least_squares_with_a_row_for_each_weight(examples: int, features: int, penalty: float) -> None:
    x, y = problem(3, examples, features, 5)
    weights = ridge(x, y, penalty)
    for task in range(3):
        stacked = np.vstack([x[task].numpy(), np.sqrt(penalty) * np.eye(features)])
        targets = np.vstack([y[task].numpy(), np.zeros((features, 5))])
        expected, *_ = np.linalg.lstsq(stacked, targets, rcond=None)
        np.testing.assert_allclose(weights[task].numpy(), expected, atol=1e-12)


def test_ridge_has_the_limits_of_its_penalty() -> None:
    x, y = problem(2, 5, 30, 5)
    torch.testing.assert_close(x @ ridge(x, y, 1e-9), y, rtol=0, atol=1e-6)  # the support is fitted
    torch.testing.assert_close(1e9 * ridge(x, y, 1e9), x.transpose(1, 2) @ y, rtol=1e-6, atol=1e-6)  # sums of classes


@pytest.mark.parametrize("examples", [4, 8])
def test_ridges_derivatives_are_the_finite_differences(examples: int) -> None:
    x, y = problem(2, examples, 6, 3)
    x.requires_grad_()
    penalty = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *at: ridge(at[0], y, at[1]), (x, penalty))
    assert torch.autograd.gradgradcheck(lambda *at: ridge(at[0], y, at[1]), (x, penalty))


@pytest.mark.parametrize(("examples", "features"), [(6, 9), (9, 4)])
def test_logistics_derivative_is_the_finite_difference_of_its_minimum(examples: int, features: int) -> None:
    x, y = problem(2, examples, features, 3)
    y[1, -2:] = x[1, -2:] = 0  # two that are not real
    weights = torch.randn(2, features + 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(params: Params) -> Tensor:
        return (weights * logistic(params["x"], y, 0.7)).sum()

    slope, direction = finite_difference(loss, {"x": x})
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss({"x": x}), x, create_graph=True)
    assert (gradient * direction["x"]).sum().item() == pytest.approx(slope, rel=1e-6)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):  # no second derivative is a wrong one
        torch.autograd.grad(gradient.sum(), x)


def weights_of(x: Tensor, y: Tensor, penalty: float, steps: int) -> Tensor:
    return x.mT @ reweighted(x @ x.mT, y, penalty, steps)


@pytest.mark.parametrize(("examples", "features"), [(8, 20), (20, 3)])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_reweighted_step_is_newtons_on_one_class_against_all_others(examples: int, features: int, steps: int) -> None:
    x, y = problem(2, examples, features, 3)
    weights = weights_of(x, y, 0.7, steps)
    for task, label in np.ndindex(2, 3):
        at, targets, w = x[task].numpy(), y[task, :, label].numpy(), np.zeros(features)
        for _ in range(steps):
            p = 1 / (1 + np.exp(-at @ w))
            hessian = at.T @ np.diag(p * (1 - p)) @ at + 0.7 * np.eye(features)
            w = w - np.linalg.solve(hessian, at.T @ (p - targets) + 0.7 * w)
        np.testing.assert_allclose(weights[task, :, label].numpy(), w, atol=1e-10)


@pytest.mark.parametrize("classes", [2, 5])
def test_reweighted_steps_lead_to_where_the_slope_is_zero(classes: int) -> None:
    x, y = problem(2, 15, 40, classes)
    x = 5 * x  # so far apart that whole steps of rounded weights would overflow
    weights = weights_of(x, y, 0.5, 25)
    assert (x.mT @ (torch.sigmoid(x @ weights) - y) + 0.5 * weights).abs().max() < 1e-10
    if classes == 2:
        torch.testing.assert_close(weights[..., 0], -weights[..., 1])


def test_derivatives_of_reweighted_steps_are_the_finite_differences() -> None:
    x, y = problem(1, 4, 3, 2)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weights_of(x, y, 0.7, 3), (x,))
    assert torch.autograd.gradgradcheck(lambda x: weights_of(x, y, 0.7, 3), (x,))


def test_rows_that_are_not_real_change_no_head() -> None:
    x, y = problem(2, 9, 20, 3)
    mask = torch.tensor([[True] * 6 + [False] * 3] * 2)
    padded, labels = with_ones(x, mask), y.where(mask.unsqueeze(-1), 0)
    torch.testing.assert_close(ridge(padded, labels, 1.0), ridge(with_ones(x[:, :6]), y[:, :6], 1.0))
    whole, alone = weights_of(padded, labels, 1.0, 3), weights_of(with_ones(x[:, :6]), y[:, :6], 1.0, 3)
    torch.testing.assert_close(whole, alone)
    whole, alone = logistic(x.where(mask.unsqueeze(-1), 0), labels, 1.0), logistic(x[:, :6], y[:, :6], 1.0)
    torch.testing.assert_close(whole, alone, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("examples", "features"), [(25, 640), (25, 8), (5, 64)])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_logistic_is_at_its_minimum(examples: int, features: int, penalty: float) -> None:
    x, y = problem(3, examples, features, 5)
    x = 30 * x if features > 8 else F.normalize(x, dim=-1)
    weights = logistic(x, y, penalty)
    slope = torch.softmax(with_ones(x) @ weights, 2) - y
    assert (penalty * weights[:, :-1] + x.transpose(1, 2) @ slope).abs().max() < 1e-7
    assert slope.sum(1).abs().max() < 1e-7

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(flat.reshape(features + 1, 5), requires_grad=True)
        value = penalty * at[:-1].square().sum() / 2 + F.cross_entropy(
            x[0] @ at[:-1] + at[-1], y[0].argmax(1), reduction="sum"
        )
        return value.item(), torch.autograd.grad(value, at)[0].numpy().ravel()

    ours = loss(weights[0].numpy().ravel())[0]
    best = minimize(loss, np.zeros((features + 1) * 5), jac=True, method="L-BFGS-B", options={"maxiter": 3000})
    assert ours <= best.fun + 1e-9


def test_conjugate_gradients_solve_what_is_solved_already_and_what_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(2, 12, 12, generator=rng, dtype=torch.float64)
    system = root @ root.transpose(1, 2) + 0.1 * torch.eye(12, dtype=torch.float64)
    target = torch.randn(2, 12, 3, generator=rng, dtype=torch.float64)
    target[1] = 0
    solved = 1e-30 * target.square().sum((1, 2), keepdim=True)
    torch.testing.assert_close(conjugate(lambda v: system @ v, target, solved), torch.linalg.solve(system, target))


@pytest.mark.parametrize("shape", [(5, 7), (9, 3)], ids=["more features", "more examples"])
def test_compiled_code_is_told_the_memory_of_what_is_solved(shape: tuple[int, int]) -> None:
    """Features of images lie in memory in another order than a plain tensor's."""
    examples, features = shape
    x = torch.randn(2, features, examples, dtype=torch.float64).transpose(1, 2)
    y = F.one_hot(torch.arange(examples) % 2).double().expand(2, -1, -1)
    w, slope = logistic(x, y, 1.0), torch.randn(2, features + 1, 2, dtype=torch.float64)
    torch.library.opcheck(torch.ops.metalearn.logistic.default, (x, y, 1.0), test_utils="test_faketensor")
    torch.library.opcheck(
        torch.ops.metalearn.logistic_slope.default, (x, y, w, slope, 1.0), test_utils="test_faketensor"
    )
