"""Prototypical Networks.

Jake Snell, Kevin Swersky, Richard Zemel: "Prototypical Networks for Few-shot Learning", NeurIPS 2017, arXiv 1703.05175.

    c_k = mean of f(x) over the support examples of class k,   p(y = k | x) = softmax_k( -||f(x) - c_k||^2 )

(equations 1 and 2; squared Euclidean distance). There are no inner steps: adapting is taking means.

Differs from the paper in: the running variance averages the biased one of each batch. As in the authors' code, batch
norm uses the statistics of support and query together in training and running averages at test, and the training way
may be higher than the test's (`task.train_way`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
    running_average,
    task_loss,
)
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    test_steps: int = field(default=0, init=False)  # there are none

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if net.spec.kind != "classes":
            raise UserError("algo=protonet compares classes, and this task has values: take task=omniglot or algo=maml")
        params = {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        yield partial(self.predict, net, meta, support)

    def predict(self, net: Net, meta: Meta, support: Support, query_x: Tensor, batch_norm: BatchNorm) -> Tensor:
        """query_x [T, Q, *input] -> logits [T, Q, way]."""
        together = torch.cat([support.x, query_x], 1)
        match batch_norm:
            case BatchNorm.transductive:
                return self.logits(net.features(meta.params, together)[0], support)
            case BatchNorm.inductive:
                stats = net.features(meta.params, support.x)[1]
                return self.logits(net.features(meta.params, together, stats)[0], support)
            case BatchNorm.running:
                return self.logits(net.features(meta.params, together, meta.buffers)[0], support)
            case BatchNorm.one_query:
                alone = (torch.cat([support.x, query], 1) for query in torch.split(query_x, 1, dim=1))
                return torch.cat([self.logits(net.features(meta.params, x)[0], support) for x in alone], 1)

    def logits(self, features: Tensor, support: Support) -> Tensor:
        """features [T, S+Q, F] of support and query -> -||f(x) - c_k||^2, [T, Q, way]."""
        examples, query = features.tensor_split([support.y.shape[1]], dim=1)
        return -squared_distance(query, prototypes(examples, support.y))

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        features, stats = net.features(meta.params, torch.cat([batch.support_x, batch.query_x], 1))
        loss = task_loss(net.spec, self.logits(features, batch.support), batch.query_y)
        buffers = running_average(meta.buffers, stats)
        return Update(mean_gradient(loss, meta.params), loss.detach(), buffers)


def prototypes(features: Tensor, y: Tensor) -> Tensor:
    """The mean feature of each class: features [T, S, F], labels y [T, S] -> [T, way, F]."""
    way = int(y.max()) + 1
    member = torch.nn.functional.one_hot(y, way).to(features.dtype)
    return member.transpose(1, 2) @ features / member.sum(1).unsqueeze(-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2: a [T, Q, F], b [T, N, F] -> [T, Q, N].

    By differences, not by the expansion a^2 - 2ab + b^2, which loses half the digits where the two are close.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
