"""The support vector machine of many classes, against its conditions, scipy and a dense solver."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import finite_difference
from scipy.optimize import minimize
from torch import Tensor

from metalearn_cli.algorithms.support_vectors import support_vectors
from metalearn_cli.nets.base import Params

SIZES = pytest.mark.parametrize(("examples", "features"), [(5, 20), (15, 4)])


def problem(examples: int, features: int, classes: int = 5, tasks: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(tasks, examples, features, generator=rng, dtype=torch.float64)
    return x, F.one_hot(torch.arange(examples).expand(tasks, -1) % classes, classes).double()


def solved(x: Tensor, y: Tensor, bound: float = 0.1, iterations: int = 25) -> Tensor:
    return support_vectors(x @ x.mT, y, bound, iterations)


@SIZES
@pytest.mark.parametrize("bound", [0.01, 0.1, 10.0])
def test_it_meets_the_conditions_of_a_minimum(examples: int, features: int, bound: float) -> None:
    """With some prices n of the sums, and z >= 0 of the bounds that are reached, the gradient is -z - n."""
    x, y = problem(examples, features)
    a = solved(x, y, bound)
    torch.testing.assert_close(a.sum(2), torch.zeros_like(a[..., 0]), rtol=0, atol=1e-13)
    room = bound * y - a
    assert room.min() > -1e-13
    gradient = x @ (x.mT @ a) + a - y
    z = -gradient + gradient.amax(2, keepdim=True)  # with the prices n under which the least z of each example is 0
    assert (z * room).max() < 1e-9
    value, squared = (a * (gradient - y)).sum((1, 2)) / 2, (a * (gradient + y)).sum((1, 2))
    torch.testing.assert_close(value, -squared / 2 - bound * (z * y).sum((1, 2)))  # the dual's


def test_it_is_the_minimum_that_scipy_finds() -> None:
    x, y = problem(6, 3, 3, tasks=1)
    system, labels = (x @ x.mT)[0].numpy() + np.eye(6), y[0].numpy()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        a = flat.reshape(6, 3)
        return (a * (system @ a)).sum() / 2 - (a * labels).sum(), (system @ a - labels).ravel()

    sums = {
        "type": "eq",
        "fun": lambda flat: flat.reshape(6, 3).sum(1),
        "jac": lambda _: np.kron(np.eye(6), np.ones(3)),
    }
    bounds = [(None, 0.1 * label) for label in labels.ravel()]
    options = {"ftol": 1e-14, "maxiter": 200}
    best = minimize(loss, np.zeros(18), jac=True, method="SLSQP", bounds=bounds, constraints=[sums], options=options)
    ours = solved(x, y)[0].numpy()
    assert loss(ours.ravel())[0] == pytest.approx(best.fun, abs=1e-10)
    np.testing.assert_allclose(ours, best.x.reshape(6, 3), atol=1e-6)


@pytest.mark.parametrize(("bound", "squared"), [(0.1, 3.0), (10.0, 3.0)])
def test_one_example_a_class_with_orthogonal_features(bound: float, squared: float) -> None:
    x, y = squared**0.5 * torch.eye(4, dtype=torch.float64)[None], torch.eye(4, dtype=torch.float64)[None]
    most = min(bound, 3 / (4 * (squared + 1)))
    torch.testing.assert_close(solved(x, y, bound), most * (y - (1 - y) / 3))


def dense(x: Tensor, y: Tensor, bound: float, iterations: int) -> np.ndarray:
    """The points of one task by the textbook's method: one system of all unknowns in each step."""
    size, examples = y.numel(), len(y)
    system = np.kron((x @ x.T).numpy() + np.eye(examples), np.eye(y.shape[1]))
    sums = np.kron(np.eye(examples), np.ones(y.shape[1]))
    p, h = -y.numpy().ravel(), bound * y.numpy().ravel()

    def step(d: np.ndarray, *errors: np.ndarray) -> list[np.ndarray]:
        none, one = np.zeros((size, size)), np.eye(size)
        narrow, square = np.zeros((examples, size)), np.zeros((examples, examples))
        rows = [[system, none, one, sums.T], [none, np.diag(d), one, narrow.T], [one, one, none, narrow.T]]
        whole = np.block([*rows, [sums, narrow, narrow, square]])
        return np.split(np.linalg.solve(whole, -np.concatenate(errors)), np.cumsum([size] * 3))

    def length(s: np.ndarray, z: np.ndarray, ds: np.ndarray, dz: np.ndarray) -> float:
        v, change = np.concatenate([s, z]), np.concatenate([ds, dz])
        return min(-v[change < 0] / change[change < 0], default=np.inf)

    zeros = np.zeros(size), np.zeros(examples)
    a, s, z, n = step(np.ones(size), p, zeros[0], -h, zeros[1])
    s, z = (v if v.min() > 0 else v - v.min() + 1 for v in (s, z))
    points = []
    for _ in range(iterations):
        errors = system @ a + p + z + sums.T @ n, z, a + s - h, sums @ a
        points.append((s @ z + sum(np.linalg.norm(errors[part]) for part in (0, 2, 3)), a))
        first = step(z / s, *errors)
        share = min(1, length(s, z, first[1], first[2]))
        reached = (s + share * first[1]) @ (z + share * first[2])
        middle = s @ z / size * (reached / (s @ z)) ** 3
        second = step(z / s, zeros[0], (first[1] * first[2] - middle) / s, zeros[0], zeros[1])
        both = [one + other for one, other in zip(first, second, strict=True)]
        share = min(1, 0.999 * length(s, z, both[1], both[2]))
        a, s, z, n = (v + share * change for v, change in zip((a, s, z, n), both, strict=True))
    return min(points, key=lambda point: point[0])[1].reshape(y.shape)


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_its_points_are_those_of_the_dense_method(iterations: int) -> None:
    x, y = problem(6, 4, 3)
    ours = solved(x, y, iterations=iterations)
    for task in range(2):
        np.testing.assert_allclose(ours[task].numpy(), dense(x[task], y[task], 0.1, iterations), atol=1e-10)


@pytest.mark.parametrize("iterations", [3, 15])
def test_examples_that_are_not_real_and_classes_without_one_take_no_part(iterations: int) -> None:
    x, y = problem(8, 4, 3)
    real = y[:, :, :2].sum(2, keepdim=True) > 0  # not those of the third class
    alone = torch.stack([solved(x[:1, real[0, :, 0]], y[:1, real[0, :, 0], :2], 0.1, iterations)[0]])
    a = solved(x.where(real, 0), y.where(real, 0), 0.1, iterations)
    torch.testing.assert_close(a[:1, real[0, :, 0], :2], alone, rtol=1e-10, atol=1e-12)
    assert (a[..., 2] == 0).all()
    assert (a.where(real, 0) == a).all()


@SIZES
def test_its_derivative_is_the_finite_difference_of_its_minimum(examples: int, features: int) -> None:
    x, y = problem(examples, features)
    y[1, -2:] = x[1, -2:] = 0  # two that are not real
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(params: Params) -> Tensor:
        return (weights * solved(params["x"], y)).sum()

    slope, direction = finite_difference(loss, {"x": x}, step=1e-5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss({"x": x}), x, create_graph=True)
    assert (gradient * direction["x"]).sum().item() == pytest.approx(slope, rel=1e-6)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):  # no second derivative is a wrong one
        torch.autograd.grad(gradient.sum(), x)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
def test_features_of_any_size_have_a_finite_solution_and_slope(size: float) -> None:
    x, y = problem(10, 4)
    x = (size * torch.cat([x, x], 1)).requires_grad_()  # each of them twice
    a = solved(x, torch.cat([y, y], 1), iterations=15)
    assert a.isfinite().all()
    assert torch.autograd.grad((a * a).sum(), x)[0].isfinite().all()


def test_compiled_code_is_told_the_memory_of_what_is_solved() -> None:
    x, y = problem(6, 4, 3)
    arguments = (x @ x.mT, y.mT.contiguous(), 0.1, 3)
    a, d = torch.ops.metalearn.support_vectors(*arguments)
    torch.library.opcheck(torch.ops.metalearn.support_vectors.default, arguments, test_utils="test_faketensor")
    slope = (*arguments[:2], a, d, torch.ones_like(a))
    torch.library.opcheck(torch.ops.metalearn.support_vectors_slope.default, slope, test_utils="test_faketensor")
