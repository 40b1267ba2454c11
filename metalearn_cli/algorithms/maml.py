"""Model-Agnostic Meta-Learning.

Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
ICML 2017, arXiv 1703.03400.

    phi_0 = theta,  phi_{k+1} = phi_k - alpha grad L(phi_k, support),  theta <- theta - beta grad_theta L(phi_K, query)

The meta-gradient runs through the inner gradients (second order, equation 1 of the paper), or takes them for constants
(`first_order`, section 5.2).

Differs from the paper in: the inner loss is the mean over the support set. The authors' code divides the summed
cross-entropy by the shots only, which is `way` times the mean: `inner_loss=way_times_mean`, or alpha multiplied by way
(their 0.4 at 5-way is 2.0 here). Batch norm's gamma and beta are adapted with the other weights; the authors' code has
no gamma (`model.gamma=false`) and does not adapt beta. Running statistics are kept beside it, for the batch-norm mode
`running`; training does not use them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import (
    Algorithm,
    BatchNorm,
    Meta,
    Predictor,
    Update,
    mean_gradient,
    require_one_way,
    running_average,
    task_loss,
)
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch, Support


class InnerLoss(Enum):
    mean = "mean"  # over the support set
    way_times_mean = "way_times_mean"  # the sum divided by the shots, as in the authors' code


@dataclass(frozen=True)
class MAML(Algorithm):
    inner_lr: float = 0.01  # alpha
    inner_steps: int = 1  # K in training
    test_steps: int = 10  # K at validation and test
    first_order: bool = False
    inner_loss: InnerLoss = InnerLoss.mean

    batch_norm = BatchNorm.transductive

    def __post_init__(self) -> None:
        if not 0 <= self.inner_lr < math.inf:
            raise UserError(f"algo.inner_lr={self.inner_lr} must be a finite number, 0 or above, e.g. 0.01")
        for name in ("inner_steps", "test_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"algo.{name}={getattr(self, name)} must be at least 1")

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        require_one_way("maml", net.spec)
        return Meta(net.init(rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        for params in self.inner_loop(net, meta, support, steps):
            yield partial(predict, net, params, meta.buffers, support.x)

    def inner_loop(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Params]:
        """phi_0, phi_1, ... phi_steps of every task, [T, *shape]."""
        params = {name: value.expand(len(support.key), *value.shape) for name, value in meta.params.items()}
        yield params
        for _ in range(steps):
            params = self.inner_step(net, params, support)
            yield params

    def inner_step(self, net: Net, params: Params, support: Support) -> Params:
        """One gradient step of every task; parameters [T, *shape] -> the same."""
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            if not training:
                params = {name: value.detach().requires_grad_() for name, value in params.items()}
            out, _ = net(params, support.x)
            loss = task_loss(net.spec, out, support.y).sum()  # the tasks' gradients do not mix
            if self.inner_loss is InnerLoss.way_times_mean:
                loss = loss * net.spec.outputs
        gradient = torch.autograd.grad(loss, list(params.values()), create_graph=training and not self.first_order)
        return {
            name: value - self.inner_lr * slope for (name, value), slope in zip(params.items(), gradient, strict=True)
        }

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        *_, params = self.inner_loop(net, meta, batch.support, self.inner_steps)
        out, stats = net(params, batch.query_x)
        loss = task_loss(net.spec, out, batch.query_y)
        buffers = running_average(meta.buffers, stats)
        return Update(mean_gradient(loss, meta.params), loss.detach(), buffers)


def predict(
    net: Net, params: Params, buffers: Params, support_x: Tensor, query_x: Tensor, batch_norm: BatchNorm
) -> Tensor:
    """query_x [T, Q, *input] -> out [T, Q, outputs] of networks adapted to support_x [T, S, *input]."""
    match batch_norm:
        case BatchNorm.transductive:
            return net(params, query_x)[0]
        case BatchNorm.inductive:
            return net(params, query_x, net(params, support_x)[1])[0]
        case BatchNorm.running:
            return net(params, query_x, buffers)[0]
        case BatchNorm.one_query:
            alone = (torch.cat([support_x, query], 1) for query in torch.split(query_x, 1, dim=1))
            return torch.cat([net(params, x)[0][:, -1:] for x in alone], 1)
