"""What every variant must agree with: one task after another through plain torch layers, in float64.

Shapes: P weights of a layer, H hidden units of the Meta-LSTM.
"""

import math

import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks.speed import losses, nets, workloads
from benchmarks.speed.runner import Setting
from benchmarks.speed.workloads import Array, Workload

DOUBLE = Setting(double=True, device="cpu", option="")


def meta_gradient(w: Workload) -> list[Array]:
    """In the order of workloads.parameters."""
    params = [torch.from_numpy(value).requires_grad_() for value in workloads.parameters(w).values()]
    tasks = list(zip(*nets.batch(w, DOUBLE), strict=True))
    if w.algorithm == "reptile":
        adapted = [_reptile(w, params, *task[:2]) for task in tasks]
        moved = [torch.stack(of_tasks).mean(0) for of_tasks in zip(*adapted, strict=True)]
        return [(start - end).detach().numpy() for start, end in zip(params, moved, strict=True)]
    names = list(workloads.parameters(w))
    loops = {"maml": _maml, "protonet": _protonet, "meta_lstm": _meta_lstm}
    if (loop := loops.get(w.algorithm)) is not None:
        total = torch.stack([loop(w, params, *task) for task in tasks]).mean()
    else:
        total = torch.stack(
            [losses.task_loss(w, dict(zip(names, params, strict=True)), *task) for task in tasks]
        ).mean()
    return [gradient.numpy() for gradient in torch.autograd.grad(total, params)]


def _forward(w: Workload, params: list[Tensor], x: Tensor) -> Tensor:
    net = nets.network(w, DOUBLE)
    names = [name for name, _ in net.named_parameters()]
    out: Tensor = functional_call(net, dict(zip(names, params, strict=True)), (x,))
    return out


def _slope(w: Workload, params: list[Tensor], x: Tensor, y: Tensor, second_order: bool) -> tuple[Tensor, list[Tensor]]:
    loss = nets.loss(w, _forward(w, params, x), y)
    return loss, list(torch.autograd.grad(loss, params, create_graph=second_order))


def _maml(w: Workload, params: list[Tensor], xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    for _ in range(w.steps):
        _, gradient = _slope(w, params, xs, ys, not w.first_order)
        params = [p - w.inner_lr * g for p, g in zip(params, gradient, strict=True)]
    return nets.loss(w, _forward(w, params, xq), yq)


def _protonet(w: Workload, params: list[Tensor], xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """Support and query share the batch-norm statistics."""
    features = _forward(w, params, torch.cat([xs, xq]))
    support, query = features[: len(xs)], features[len(xs) :]
    centres = torch.stack([support[ys == label].mean(0) for label in range(w.way)])
    distances = torch.stack([(query - centre).square().sum(1) for centre in centres], 1)
    return nets.loss(w, -distances, yq)


def _reptile(w: Workload, params: list[Tensor], xs: Tensor, ys: Tensor) -> list[Tensor]:
    """The weights after Adam with beta1 = 0, from fresh moments."""
    moments = [torch.zeros_like(p) for p in params]
    for step in range(1, w.steps + 1):
        params = [p.detach().requires_grad_() for p in params]
        _, gradient = _slope(w, params, xs, ys, second_order=False)
        moments = [0.999 * m + 0.001 * g**2 for m, g in zip(moments, gradient, strict=True)]
        roots = [(m / (1 - 0.999**step)).sqrt() + 1e-8 for m in moments]
        params = [p - w.inner_lr * g / root for p, g, root in zip(params, gradient, roots, strict=True)]
    return params


def _meta_lstm(w: Workload, params: list[Tensor], xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
    """theta_t = sigmoid(f) theta_{t-1} - sigmoid(i) gradient; losses and gradients are constants."""
    theta, (weight_ih, weight_hh, bias, *gates) = params[:-7], params[-7:]
    h = [p.new_zeros(p.numel(), w.hidden) for p in theta]
    c = [p.new_zeros(p.numel(), w.hidden) for p in theta]
    forget, enter = ([p.new_zeros(p.numel(), 1) for p in theta] for _ in range(2))
    for _ in range(w.steps):
        loss, gradient = _slope(w, [p.detach().requires_grad_() for p in theta], xs, ys, second_order=False)
        for i, g in enumerate(gradient):
            flat, old = g.reshape(-1, 1), theta[i].reshape(-1, 1)
            inputs = torch.cat([_log_sign(loss.detach().expand_as(flat)), _log_sign(flat)], 1)  # [P, 4]
            ins, forgets, cells, outs = (inputs @ weight_ih.T + h[i] @ weight_hh.T + bias).chunk(4, 1)
            c[i] = forgets.sigmoid() * c[i] + ins.sigmoid() * cells.tanh()
            h[i] = outs.sigmoid() * c[i].tanh()
            forget[i] = torch.cat([h[i], old, forget[i]], 1) @ gates[0].T + gates[1]
            enter[i] = torch.cat([h[i], old, enter[i]], 1) @ gates[2].T + gates[3]
            theta[i] = (forget[i].sigmoid() * old - enter[i].sigmoid() * flat).view_as(theta[i])
    return nets.loss(w, _forward(w, theta, xq), yq)


def _log_sign(x: Tensor, p: float = 10.0) -> Tensor:
    """(log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x): x [P, 1] -> [P, 2]."""
    large = x.abs() >= math.exp(-p)
    size = torch.where(large, x.abs().clamp(min=math.exp(-p)).log() / p, -1.0)
    return torch.cat([size, torch.where(large, x.sign(), math.exp(p) * x)], 1)
