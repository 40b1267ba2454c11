"""The methods that no library has as a layer, for one task in plain torch, as their users write it: reference.py
differentiates it in float64, and variants/plain.py times it.

Shapes: B examples, S of them support and Q query, F features, K classes, N inner steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.workloads import RIDGE_PENALTY, SVM, Workload
from metalearn_cli.algorithms.support_vectors import support_vectors

Params = dict[str, Tensor]
Moments = list[tuple[Tensor, Tensor]]  # mean and variance of each batch norm


def features(p: Params, x: Tensor, fixed: Moments | None = None, moments_out: Moments | None = None) -> Tensor:
    """Conv4 of x [B, C, H, W] -> [B, F], by its own moments, which go to `moments_out`, or by `fixed` ones."""
    for block in range(1, 5):
        x = F.conv2d(x, p[f"conv{block}.weight"], padding=1)
        gamma, beta = p[f"norm{block}.weight"], p[f"norm{block}.bias"]
        if moments_out is not None:
            moments_out.append((x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
        if fixed is None:
            x = F.batch_norm(x, None, None, gamma, beta, True)
        else:  # torch's layer does not differentiate in moments that it is told
            mean, scale = fixed[block - 1][0], gamma * torch.rsqrt(fixed[block - 1][1] + 1e-5)
            x = x * scale.view(-1, 1, 1) + (beta - mean * scale).view(-1, 1, 1)
        x = F.max_pool2d(F.relu(x), 2)
    return x.flatten(1)


def task_loss(w: Workload, p: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    match w.algorithm:
        case "anil":
            return _anil(w, p, xs, ys, xq, yq)
        case "maml_plus_plus":
            return _maml_plus_plus(w, p, xs, ys, xq, yq)
        case "proto_maml":
            return _proto_maml(w, p, xs, ys, xq, yq)
    both = features(p, torch.cat([xs, xq]))
    support, query = both.tensor_split([len(xs)])
    y = F.one_hot(ys, w.way).to(both.dtype)
    if w.algorithm == "r2d2":
        support, query = (torch.cat([part, part.new_ones(len(part), 1)], 1) for part in (support, query))
        system = support @ support.T + RIDGE_PENALTY * len(xs) * torch.eye(len(xs), dtype=both.dtype)
        return F.cross_entropy(p["ridge:scale"] * (query @ (support.T @ torch.linalg.solve(system, y))), yq)
    dual = dual_by_us(support, y.bool())
    return F.cross_entropy(p["metaoptnet:scale"] * (query @ (support.T @ dual)), yq)


def dual_by_us(support: Tensor, y: Tensor) -> Tensor:
    """The dual [S, K] of MetaOptNet's support vector machine: this program's own solver, with many more steps."""
    x = support.double()
    return support_vectors((x @ x.T)[None], y[None], SVM.bound, 60)[0].to(support.dtype)


def _anil(w: Workload, p: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """The features once, and then steps of the head."""
    support, query = features(p, xs), features(p, xq)
    head = [p["head.weight"], p["head.bias"]]
    for _ in range(w.steps):
        loss = F.cross_entropy(F.linear(support, *head), ys)
        slopes = torch.autograd.grad(loss, head, create_graph=True)
        head = [value - w.inner_lr * slope for value, slope in zip(head, slopes, strict=True)]
    return F.cross_entropy(F.linear(query, *head), yq)


def _maml_plus_plus(w: Workload, p: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """Learned rates [N] of each tensor, batch norm's gamma and beta [N + 1, C] of each step, and the mean of the losses
    after every step, as where training begins."""
    adapted = [name for name in p if not name.startswith(("rate:", "norm"))]
    phi, losses = {name: p[name] for name in adapted}, []

    def out(x: Tensor, step: int) -> Tensor:
        rows = {name: value[step] for name, value in p.items() if name.startswith("norm")}
        return F.linear(features(phi | rows, x), phi["head.weight"], phi["head.bias"])

    for step in range(w.steps):
        slopes = torch.autograd.grad(F.cross_entropy(out(xs, step), ys), list(phi.values()), create_graph=True)
        rates = [p[f"rate:{name}"][step] for name in adapted]
        moved = zip(adapted, phi.values(), rates, slopes, strict=True)
        phi = {name: value - rate * slope for name, value, rate, slope in moved}
        losses.append(F.cross_entropy(out(xq, step + 1), yq))
    return torch.stack(losses).mean()


def _proto_maml(w: Workload, p: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """The query under the moments of the support set, batch norm's gamma and beta not adapted."""
    support = features(p, xs)
    means = torch.stack([support[ys == label].mean(0) for label in range(w.way)])
    # Tensors of their own: a step's slope in the body is not that through the prototypes.
    phi = {name: value.clone() for name, value in p.items()}
    phi |= {"head.weight": 2 * means, "head.bias": -means.square().sum(1)}
    adapted = [name for name in phi if not name.startswith("norm")]
    for _ in range(w.steps):
        out = F.linear(features(phi, xs), phi["head.weight"], phi["head.bias"])
        slopes = torch.autograd.grad(F.cross_entropy(out, ys), [phi[name] for name in adapted], create_graph=True)
        phi = phi | {name: phi[name] - w.inner_lr * slope for name, slope in zip(adapted, slopes, strict=True)}
    moments: Moments = []
    features(phi, xs, moments_out=moments)
    return F.cross_entropy(F.linear(features(phi, xq, moments), phi["head.weight"], phi["head.bias"]), yq)
