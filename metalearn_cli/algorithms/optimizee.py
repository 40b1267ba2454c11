"""The problem of a learned or tuned optimizer: a network's loss as a function of all its parameters in one vector.

Shapes: T tasks, S support examples, P parameters of the network (its coordinates).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.inner_loop import from_vector, minibatch, support_gradient, to_vector
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.seeding import normals
from metalearn_cli.tasks.base import Support

_START = -1  # the salt of the start; those of the minibatches are the numbers of their passes, 0 and above


class VectorGradient(NamedTuple):
    """f(theta) of each task and its gradient, both constants."""

    loss: Tensor  # [T]
    gradient: Tensor  # [T, P]
    stats: Params  # the batch-norm statistics that were used


class Optimizee(NamedTuple):
    """f(theta) of T tasks, theta [T, P]: the mean loss of `net` on the support set, or on a minibatch of it a step."""

    net: Net
    support: Support
    batch_size: int | None  # examples of each support set, other ones at every step; None: all of them

    def start(self, std: float) -> Tensor:
        """theta_0 [T, P] ~ N(0, std^2) from each task's key; only batch norm starts as always, gamma 1 and beta 0."""
        normal = std * normals(self.support.key, _START, count=sum(s.numel() for s in self.net.shapes.values()))
        start = self.parameters(normal.to(self.support.x.dtype))
        norms = {name.rpartition(".")[0] for name in self.net.init_stats()}
        for name, value in start.items():
            layer, _, part = name.rpartition(".")
            if layer in norms:
                start[name] = torch.full_like(value, 1 if part == "weight" else 0)
        return to_vector(start)

    def parameters(self, theta: Tensor) -> Params:
        """theta [T, P] -> the network's parameters, [T, *shape]."""
        return from_vector(theta, self.net.shapes)

    @torch.no_grad()
    def gradient(self, theta: Tensor, step: int) -> VectorGradient:
        """f(theta) and its gradient on the minibatch of step `step`, counted from 0."""
        support = minibatch(self.support, self.batch_size, step)
        loss, gradient, stats = support_gradient(
            self.net, self.parameters(theta), support, self.net.shapes, second_order=False, step=step
        )
        return VectorGradient(loss, to_vector(gradient), stats)
