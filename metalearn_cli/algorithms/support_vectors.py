"""The support vector machine of many classes, solved for all tasks at once by a fixed number of operations.

Koby Crammer, Yoram Singer: "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", Journal of
Machine Learning Research 2, 2001. Its dual, with the quadratic term of MetaOptNet (Lee et al. 2019, arXiv 1904.03758):

    min_a  sum_k a_k' G a_k / 2 - sum_ik y_ik a_ik    where   a_ik <= C y_ik   and   sum_k a_ik = 0,    G = xx' + I

It is solved by Mehrotra's primal-dual interior-point steps, as in OptNet (Amos and Kolter 2017, arXiv 1703.00443). With
slacks s, their prices z, the prices n of the sums, and d = z / s, a step from a point that is off by e is

    G da_k + dz_k + dn = -e_gradient,    d ds + dz = -e_gap,    da + ds = -e_bound,    sum_k da_k = -e_sum

Without dz and ds it is (G + d_k) da_k + dn = ... for each class by itself, so no system is larger than N x N.

Shapes: T tasks, N support examples, K classes. An example that is not real is a row of zeros in y and in xx', a class
without an example a column of zeros in y: neither takes part, and both get zeros. All is computed in float64.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Point(NamedTuple):
    """A point, or a step of one."""

    a: Tensor  # [T, K, N]
    s: Tensor  # [T, K, N]
    z: Tensor  # [T, K, N]
    n: Tensor  # [T, 1, N]


class Factors(NamedTuple):
    """What solves the system of a step for any errors."""

    d: Tensor  # [T, K, N]
    present: Tensor  # [T, K, 1] bool: the classes that have an example
    inverse: Tensor  # [T, K, N, N], of G + d
    root: Tensor  # [T, N, N], of the sum of the inverses


def support_vectors(products: Tensor, y: Tensor, bound: float, iterations: int) -> Tensor:
    """Solve for a [T, N, K] float64: products xx' [T, N, N], y [T, N, K] one-hot, bound C.

    Of `iterations` points, the start among them, the one with the least error is taken. The derivative in `products` is
    that of the minimum, by the implicit function theorem; there is no second one.
    """
    a: Tensor = _support_vectors(products.double(), y.double().transpose(1, 2).contiguous(), bound, iterations)[0]
    return a.transpose(1, 2)


# Each is an operation of its own for torch, so that compiled code calls it: unrolled, its loop would take minutes.
@torch.library.custom_op("metalearn::support_vectors", mutates_args=())
def _support_vectors(products: Tensor, y: Tensor, bound: float, iterations: int) -> tuple[Tensor, Tensor]:
    """a and d [T, K, N] at the minimum; y [T, K, N]. What is not real stays at a = 0, s = 1, z = 0."""
    real = (y.sum(1, keepdim=True) > 0) & (y.sum(2, keepdim=True) > 0)
    none, bounds = torch.zeros_like(y), (bound * y).where(real, 1)
    start = _step(_factors(products, y, torch.ones_like(y)), -y, none, -bound * y, none[:, :1])
    point = start._replace(s=_above_zero(start.s, real).where(real, 1), z=_above_zero(start.z, real).where(real, 0))
    best_a, best_d, least = none, none, torch.full_like(y[:, :1, :1], torch.inf)
    for iteration in range(1, iterations + 1):
        a, s, z, n = point
        gradient = products.unsqueeze(1) @ a.unsqueeze(-1)
        gradient = gradient.squeeze(-1) + a - y + z + n * real
        off_bound, total, d = a + s - bounds, a.sum(1, keepdim=True), z / s
        gap = (s * z).sum((1, 2), keepdim=True)
        error = gap + _norm(gradient) + _norm(off_bound) + _norm(total)
        is_better = error < least
        best_a, best_d, least = a.where(is_better, best_a), d.where(is_better, best_d), least.minimum(error)
        if iteration == iterations:
            break
        factors = _factors(products, y, d)
        straight = _step(factors, gradient, z, off_bound, total)
        length = _length(point, straight).clamp(max=1)
        reached = ((s + length * straight.s) * (z + length * straight.z)).sum((1, 2), keepdim=True)
        middle = gap / real.sum((1, 2), keepdim=True) * (reached / gap) ** 3
        curved = _step(factors, none, ((straight.s * straight.z - middle) / s).where(real, 0), none, none[:, :1])
        step = Point(*(one + other for one, other in zip(straight, curved, strict=True)))
        length = (0.999 * _length(point, step)).clamp(max=1)
        point = Point(*(at + length * change for at, change in zip(point, step, strict=True)))
    return best_a, best_d


@torch.library.custom_op("metalearn::support_vectors_slope", mutates_args=())
def _slope(products: Tensor, y: Tensor, a: Tensor, d: Tensor, slope: Tensor) -> Tensor:
    """The slope in `products` of a loss whose slope in a is this one [T, K, N]: da solves the system for e = dG a."""
    none = torch.zeros_like(y)
    return _step(_factors(products, y, d), slope, none, none, none[:, :1]).a.transpose(1, 2) @ a


@_support_vectors.register_fake
def _(products: Tensor, y: Tensor, bound: float, iterations: int) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape)


@_slope.register_fake
def _(products: Tensor, y: Tensor, a: Tensor, d: Tensor, slope: Tensor) -> Tensor:
    return products.new_empty(products.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], *output)


def _backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    return _slope(*ctx.saved_tensors, slope), None, None, None


_support_vectors.register_autograd(_backward, setup_context=_keep)


def _factors(products: Tensor, y: Tensor, d: Tensor) -> Factors:
    present = y.sum(2, keepdim=True) > 0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(products.unsqueeze(1) + torch.diag_embed(1 + d)).L)
    root = torch.linalg.cholesky_ex(inverse.where(present.unsqueeze(-1), 0).sum(1)).L
    return Factors(d, present, inverse, root)


def _step(factors: Factors, gradient: Tensor, gap: Tensor, bound: Tensor, total: Tensor) -> Point:
    """The step of these four errors; `total` [T, 1, N] is that of the sums, the others are [T, K, N]."""

    def by_class(v: Tensor) -> Tensor:
        return (factors.inverse @ v.unsqueeze(-1)).squeeze(-1).where(factors.present, 0)

    a = by_class(gap - gradient - factors.d * bound)
    off = (a.sum(1, keepdim=True) + total).transpose(1, 2)
    n = torch.cholesky_solve(off, factors.root).transpose(1, 2)
    a = a - by_class(n.expand_as(a))
    s = -bound - a
    return Point(a, s, -gap - factors.d * s, n)


def _norm(v: Tensor) -> Tensor:
    """The length of v for each task, [T, 1, 1]."""
    return v.square().sum((1, 2), keepdim=True).sqrt()


def _above_zero(v: Tensor, real: Tensor) -> Tensor:
    """Raise v [T, K, N] until the lowest real number of each task is 1, where one is not above 0."""
    lowest = v.where(real, torch.inf).amin((1, 2), keepdim=True)
    return v.where(lowest > 0, v - lowest + 1)


def _length(point: Point, step: Point) -> Tensor:
    """How much of a step can be taken until a slack or a price is 0, [T, 1, 1]."""
    v, change = torch.cat([point.s, point.z], 1), torch.cat([step.s, step.z], 1)
    return torch.where(change < 0, -v / change, torch.inf).amin((1, 2), keepdim=True)
