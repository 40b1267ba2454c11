"""Linear heads that are solved, for all tasks at once, by a fixed number of operations: nothing waits for a GPU.

Shapes: T tasks, N support examples, F features, K classes. An example that is not real is a row of zeros in `x` and in
`y`, which adds nothing to any sum. All is computed in float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NEWTON_STEPS = 20
HALVINGS = 8  # of a Newton step, of which the best is taken
CONJUGATE_STEPS = 100
ROUNDING = 1e-15  # a slope that is so much smaller than the first one is taken for zero


def with_ones(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Append a column of ones: x [T, N, F] -> [T, N, F + 1]; rows that are not real by mask [T, N] become zeros."""
    x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
    return x if mask is None else x.where(mask.unsqueeze(-1), 0)


def ridge(x: Tensor, y: Tensor, penalty: float | Tensor) -> Tensor:
    """Minimise ||x w - y||^2 + penalty ||w||^2: x [T, N, F], y [T, N, K] -> w [T, F, K] float64.

    It is exact to any order of derivative. Of the two forms (x'x + p)^-1 x'y = x'(xx' + p)^-1 y the smaller one is
    solved (Bertinetto et al. 2019, arXiv 1805.08136, equations 4 to 6).
    """
    x, y = x.double(), y.double()
    transposed = x.transpose(1, 2)
    has_fewer_rows = x.shape[1] < x.shape[2]
    products = x @ transposed if has_fewer_rows else transposed @ x
    system = products + penalty * torch.eye(products.shape[-1], dtype=x.dtype, device=x.device)
    root = torch.linalg.cholesky_ex(system).L
    if has_fewer_rows:
        return transposed @ torch.cholesky_solve(y, root)
    return torch.cholesky_solve(transposed @ y, root)


def reweighted(products: Tensor, y: Tensor, penalty: float | Tensor, steps: int) -> Tensor:
    """Take `steps` of iteratively reweighted least squares from 0 towards the K logistic regressions, each of a class
    against all others,  min_a penalty a'Ga / 2 + sum_i log(1 + exp((Ga)_i)) - y_i (Ga)_i:  products G = xx' [T, N, N],
    y [T, N, K], penalty a number or [T, 1, 1] -> a [T, N, K] float64; the weights are x'a.

    A step is Newton's: a = (G + penalty / s)^-1 z with m = sigmoid(Ga), s = m (1 - m), z = Ga + (y - m) / s
    (Bertinetto et al. 2019, arXiv 1805.08136). It is exact to any order of derivative.
    """
    products, y = products.double().unsqueeze(1), y.double().transpose(1, 2).unsqueeze(-1)  # [T, 1, N, N], [T, K, N, 1]
    a = torch.zeros_like(y)
    for _ in range(steps):
        out = products @ a
        spread = torch.sigmoid(out) * torch.sigmoid(-out)  # s, which does not round to 0
        targets = out + (y - torch.sigmoid(out)) / spread
        system = products + torch.diag_embed(penalty / spread.squeeze(-1))
        a = torch.cholesky_solve(targets, torch.linalg.cholesky_ex(system).L)
    return a.squeeze(-1).transpose(1, 2)


def logistic(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Minimise penalty ||w||^2 / 2 - sum_i log softmax(x_i w + b)[y_i], multinomial logistic regression with a free
    intercept b: x [T, N, F], y [T, N, K] one-hot -> w, and b as its last row, [T, F + 1, K] float64.

    Newton's method; each step by conjugate gradients over the N numbers that x spans, and the best of a few lengths.
    The derivative in x is that of the minimum, by the implicit function theorem; there is no second one. A class that
    no example of a task is of takes no part, and gets zeros.
    """
    w: Tensor = _logistic(x.double(), y.double(), penalty)
    return w


# Each is an operation of its own for torch, so that compiled code calls it: unrolled, its loops would take minutes.
@torch.library.custom_op("metalearn::logistic", mutates_args=())
def _logistic(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    basis = None
    if x.shape[1] < x.shape[2]:  # w lies in the span of the examples: solve for its coordinates there
        basis, triangle = torch.linalg.qr(x.transpose(1, 2))
        x = triangle.transpose(1, 2)
    x, price = _with_intercept(x, y, penalty)
    w = x.new_zeros(len(x), x.shape[2], y.shape[2])
    solved = ROUNDING**2 * _size(x.transpose(1, 2) @ (_probabilities(x, y, w) - y))
    for _ in range(NEWTON_STEPS):
        p = _probabilities(x, y, w)
        slope = price * w + x.transpose(1, 2) @ (p - y)

        def curvature(v: Tensor, p: Tensor = p) -> Tensor:
            return _curvature(x, p, price, v)

        w = _shortened(lambda w: _logistic_loss(x, y, w, price), w, -conjugate(curvature, slope, solved))
    return w if basis is None else torch.cat([basis @ w[:, :-1], w[:, -1:]], 1)


@torch.library.custom_op("metalearn::logistic_slope", mutates_args=())
def _logistic_slope(x: Tensor, y: Tensor, w: Tensor, slope: Tensor, penalty: float) -> Tensor:
    """The slope in x of a loss whose slope in the minimum w(x) is this one [T, F + 1, K].

    The minimum is where g(x, w) = price w + x'(p - y) is 0, so that dw = -H^-1 (dg/dx) dx, with H = dg/dw.
    """
    x, price = _with_intercept(x, y, penalty)
    p = _probabilities(x, y, w)
    solution = conjugate(lambda v: _curvature(x, p, price, v), slope, ROUNDING**2 * _size(slope))
    in_x = (p - y) @ solution.transpose(1, 2) + _softmax_change(p, x @ solution) @ w.transpose(1, 2)
    return -in_x[..., :-1]


@_logistic.register_fake
def _(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    return x.new_empty(len(x), x.shape[2] + 1, y.shape[2])


@_logistic_slope.register_fake
def _(x: Tensor, y: Tensor, w: Tensor, slope: Tensor, penalty: float) -> Tensor:
    return x.new_empty(x.shape)  # contiguous, whatever x is


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    x, y, ctx.penalty = inputs
    ctx.save_for_backward(x, y, output)


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
    return _logistic_slope(*ctx.saved_tensors, slope, ctx.penalty), None, None


_logistic.register_autograd(_backward, setup_context=_keep)


def _with_intercept(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """x [T, N, F + 1] with ones where the example is real, and what each row of w costs, [1, F + 1, 1]."""
    price = x.new_full((1, x.shape[2] + 1, 1), penalty)
    price[:, -1] = 0
    return torch.cat([x, y.sum(2, keepdim=True)], 2), price


def _logits(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """[T, N, K], the lowest number for classes without an example."""
    return (x @ w).masked_fill(y.sum(1, keepdim=True) == 0, torch.finfo(x.dtype).min)


def _probabilities(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """[T, N, K], zeros where the example is not real."""
    return torch.softmax(_logits(x, y, w), 2) * y.sum(2, keepdim=True)


def _softmax_change(p: Tensor, change: Tensor) -> Tensor:
    """How p [T, N, K] changes with its logits."""
    change = p * change
    return change - p * change.sum(2, keepdim=True)


def _curvature(x: Tensor, p: Tensor, price: Tensor, v: Tensor) -> Tensor:
    """The Hessian of the loss times v [T, F + 1, K]. The same number on all intercepts changes no loss: without a price
    of its own it would be a hole in the system."""
    own = torch.where(price > 0, price * v, v.mean(2, keepdim=True))
    return own + x.transpose(1, 2) @ _softmax_change(p, x @ v)


def _logistic_loss(x: Tensor, y: Tensor, w: Tensor, price: Tensor) -> Tensor:
    """[T]"""
    log_p = torch.log_softmax(_logits(x, y, w), 2)
    return (price * w.square()).sum((1, 2)) / 2 - (y * log_p).sum((1, 2))


def _shortened(loss: Callable[[Tensor], Tensor], w: Tensor, step: Tensor) -> Tensor:
    """w + length * step with the length of 1, 1/2, 1/4, ..., 0 of the least loss, for each task. Where losses differ by
    rounding alone it is the largest length, so that the last steps are Newton's own."""
    lengths = 0.5 ** torch.arange(HALVINGS, dtype=w.dtype, device=w.device)
    lengths = torch.cat([lengths, lengths.new_zeros(1)])
    losses = torch.stack([loss(w + length * step) for length in lengths])  # [lengths, T]
    best = lengths[(losses <= losses.amin(0) * (1 + 1e-12)).int().argmax(0)]  # the first of them
    return w + best[:, None, None] * step


def conjugate(product: Callable[[Tensor], Tensor], target: Tensor, solved: Tensor, steps: int | None = None) -> Tensor:
    """Solve product(v) = target for v [T, F, K] until the squared error of each task is `solved` [T, 1, 1] or less, in
    so many steps, or, unless they are fixed, in 100 at most; `product` is linear and positive (Hestenes and Stiefel
    1952)."""
    v, residual = torch.zeros_like(target), target
    direction, size = residual, _size(residual)
    for _ in range(steps or CONJUGATE_STEPS):
        is_open = size > solved
        if (
            steps is None and target.device.type == "cpu" and not is_open.any()
        ):  # nothing changes any more; a GPU would have to wait
            break
        bent = product(direction)
        length = torch.where(is_open, size / (direction * bent).sum((1, 2), keepdim=True), 0)
        v, residual = v + length * direction, residual - length * bent
        following = _size(residual)
        direction, size = residual + torch.where(is_open, following / size, 0) * direction, following
    return v


def _size(v: Tensor) -> Tensor:
    """The squared length of v [T, F, K], as [T, 1, 1]."""
    return v.square().sum((1, 2), keepdim=True)
