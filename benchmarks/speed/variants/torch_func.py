"""torch's own vmap(grad). Option `BatchNorm2d`: with nn.BatchNorm2d, whose second order is silently wrong there.

Without it batch norm is in plain operations. Shapes: B examples, C channels.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload

Params = dict[str, Tensor]


class _PlainNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same."""
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        return (x - mean) / (var + 1e-5).sqrt() * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("was measured for MAML only")
    net = nets.network(w, setting)
    if setting.option != "BatchNorm2d":
        net = nn.Sequential(*(_PlainNorm(layer) if isinstance(layer, nn.BatchNorm2d) else layer for layer in net))
    params = dict(net.named_parameters())
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    batch = nets.batch(w, setting)

    def loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nets.loss(w, functional_call(net, params, (x,)), y)

    def task(params: Params, xs: Tensor, ys: Tensor, xq: Tensor, yq: Tensor) -> Tensor:
        for _ in range(w.steps):
            gradient = grad(loss)(params, xs, ys)
            if w.first_order:
                gradient = {name: value.detach() for name, value in gradient.items()}
            params = {name: value - w.inner_lr * gradient[name] for name, value in params.items()}
        return loss(params, xq, yq)

    def mean(params: Params) -> Tensor:
        losses: Tensor = vmap(task, (None, 0, 0, 0, 0))(params, *batch)
        return losses.mean()

    def step() -> None:
        gradient = grad(mean)({name: value.detach() for name, value in params.items()})
        for name, param in params.items():
            param.grad = gradient[name]
        optimizer.step()

    return nets.runner(step, list(params.values()), setting)
