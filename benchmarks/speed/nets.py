"""The networks as a user of torch writes them, nn.Module and NCHW, for all torch peers.

Shapes: B examples.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed import workloads
from benchmarks.speed.runner import Runner, Setting
from benchmarks.speed.workloads import Array, Workload
from metalearn_cli.system.measure import synchronise


def dtype(setting: Setting) -> torch.dtype:
    return torch.float64 if setting.double else torch.float32


def tensor(value: Array, setting: Setting) -> Tensor:
    found = torch.from_numpy(value).to(setting.device)
    return found.to(dtype(setting)) if found.is_floating_point() else found


def batch(w: Workload, setting: Setting) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """support_x, support_y, query_x, query_y."""
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], tuple(tensor(part, setting) for part in workloads.batch(w)))


def network(w: Workload, setting: Setting, *, running_statistics: bool = False) -> nn.Sequential:
    """With the weights of workloads.parameters; a ProtoNet's ends with its features."""
    layers: list[nn.Module] = []
    if w.size:
        channels = w.channels
        for _ in range(4):
            layers += [
                nn.Conv2d(channels, w.width, 3, padding=1, bias=False),
                nn.BatchNorm2d(w.width, track_running_stats=running_statistics),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = w.width
        layers.append(nn.Flatten())
        if w.has_head:
            layers.append(nn.Linear(w.width * (w.size // 16) ** 2, w.outputs))
    else:
        layers += [nn.Linear(1, w.width), nn.ReLU(), nn.Linear(w.width, w.width), nn.ReLU(), nn.Linear(w.width, 1)]
    net = nn.Sequential(*layers).to(setting.device, dtype(setting))
    with torch.no_grad():
        for param, value in zip(net.parameters(), workloads.parameters(w).values(), strict=False):
            param.copy_(torch.from_numpy(value))
    return net


def loss(w: Workload, out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y) if w.size else F.mse_loss(out, y)


def runner(step: Callable[[], None], params: Sequence[Tensor], setting: Setting) -> Runner:
    """Of a step that leaves the meta-gradient in each parameter's .grad."""

    def gradient() -> list[Array]:
        return [p.grad.detach().cpu().numpy() if p.grad is not None else torch.zeros_like(p).numpy() for p in params]

    return Runner(step, partial(synchronise, torch.device(setting.device)), gradient)
