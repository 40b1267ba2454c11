"""Linear heads on features, fitted for all tasks at once by a fixed number of operations: nothing waits for a GPU.

Shapes: T tasks, N support examples, F features, K classes or values. An example that is not real is a row of zeros in
`x` and in `y`, which adds nothing to any sum.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NEWTON_STEPS = 20
HALVINGS = 8  # of a Newton step, of which the best is taken


def with_ones(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """x [T, N, F] with a column of ones, [T, N, F + 1]; rows that are not real by mask [T, N] are zeros."""
    x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2)
    return x if mask is None else x.where(mask.unsqueeze(-1), 0)


def ridge(x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
    """The minimum of ||x w - y||^2 + strength ||w||^2: x [T, N, F], y [T, N, K], strength [] or [T] -> w [T, F, K].

    Exact to any order of derivative. Of the two forms (x'x + s)^-1 x'y = x'(xx' + s)^-1 y the smaller one is solved, in
    float32 at least (Bertinetto et al. 2019, arXiv 1805.08136, equations 4 to 6).
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.to(precise), y.to(precise)
        transposed = x.transpose(1, 2)
        has_fewer_rows = x.shape[1] < x.shape[2]
        products = x @ transposed if has_fewer_rows else transposed @ x
        strength = torch.as_tensor(strength, dtype=precise, device=x.device).reshape(-1, 1, 1)
        system = products + strength * torch.eye(products.shape[-1], dtype=precise, device=x.device)
        root = torch.linalg.cholesky_ex(system).L
        if has_fewer_rows:
            return transposed @ torch.cholesky_solve(y, root)
        return torch.cholesky_solve(transposed @ y, root)


def logistic(x: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """The minimum of ||w||^2 / 2 + strength sum_i -log softmax(x_i w + b)[y_i], multinomial logistic regression with a
    free intercept: x [T, N, F], y [T, N, K] one-hot -> w [T, F, K], b [T, K] float64, without a graph.

    Newton's method; each step by conjugate gradients over the N numbers that x spans, and the best of a few lengths.
    A class that no example of a task is of gets the intercept that grows without end, so far as the steps go.
    """
    with torch.no_grad():
        x, y = x.double(), y.double()
        basis = None
        if x.shape[1] < x.shape[2]:  # w lies in the span of the examples: solve for its coordinates there
            basis, triangle = torch.linalg.qr(x.transpose(1, 2))
            x = triangle.transpose(1, 2)
        x = torch.cat([x, y.sum(2, keepdim=True)], 2)  # ones where the example is real
        penalty = torch.ones_like(x[:1, :1]).transpose(1, 2)  # [1, F, 1]
        penalty[:, -1] = 0
        w = x.new_zeros(len(x), x.shape[2], y.shape[2])
        for _ in range(NEWTON_STEPS):
            p = torch.softmax(x @ w, 2) * y.sum(2, keepdim=True)
            slope = penalty * w + strength * x.transpose(1, 2) @ (p - y)

            def curvature(v: Tensor, p: Tensor = p) -> Tensor:
                change = p * (x @ v)
                # The same number on all intercepts changes nothing: without a price it would be a hole in the system.
                priced = penalty * v + (1 - penalty) * v.mean(2, keepdim=True)
                return priced + strength * x.transpose(1, 2) @ (change - p * change.sum(2, keepdim=True))

            w = _shortened(lambda w: _logistic_loss(x, y, w, penalty, strength), w, -conjugate(curvature, slope))
        weight, bias = w[:, :-1], w[:, -1]
        return weight if basis is None else basis @ weight, bias


def _logistic_loss(x: Tensor, y: Tensor, w: Tensor, penalty: Tensor, strength: float) -> Tensor:
    """[T]"""
    log_p = torch.log_softmax(x @ w, 2)
    return (penalty * w.square()).sum((1, 2)) / 2 - strength * (y * log_p).sum((1, 2))


def _shortened(loss: Callable[[Tensor], Tensor], w: Tensor, step: Tensor) -> Tensor:
    """w + length * step with the length of 1, 1/2, 1/4, ..., 0 of the least loss, for each task."""
    lengths = [*(0.5**number for number in range(HALVINGS)), 0.0]
    losses = torch.stack([loss(w + length * step) for length in lengths])  # [lengths, T]
    best = torch.tensor(lengths, dtype=w.dtype, device=w.device)[losses.argmin(0)]
    return w + best[:, None, None] * step


def conjugate(product: Callable[[Tensor], Tensor], target: Tensor, steps: int = 100) -> Tensor:
    """v [T, F, K] with product(v) = target, for a linear and positive `product` (Hestenes and Stiefel 1952)."""
    v, residual = torch.zeros_like(target), target
    direction, size = residual, residual.square().sum((1, 2), keepdim=True)
    solved = size * torch.finfo(target.dtype).eps ** 2  # below it there is rounding alone, which would grow
    for _ in range(steps):
        bent, is_open = product(direction), size > solved
        length = torch.where(is_open, size / (direction * bent).sum((1, 2), keepdim=True), 0)
        v, residual = v + length * direction, residual - length * bent
        following = residual.square().sum((1, 2), keepdim=True)
        direction, size = residual + torch.where(is_open, following / size, 0) * direction, following
    return v
