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

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import (
    PredictorByEmbedding,
    embedding_update,
    init_body,
    members,
    squared_distance,
)
from metalearn_cli.nets.base import Net
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class ProtoNet(Algorithm):
    test_steps: int = field(default=0, init=False)  # there are none

    batch_norm = BatchNorm.running
    is_metric = True

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return Meta(init_body("protonet", net, rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(logits, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(logits, batch.support, net.spec.train_outputs))


def logits(support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
    """-||f(x) - c_k||^2 [T, Q, way] of the features of the support [T, S, F] and of the query [T, Q, F]."""
    return -squared_distance(query, prototypes(features, support, way))


def prototypes(features: Tensor, support: Support, way: int) -> Tensor:
    """The mean feature of each class: features [T, S, F] -> [T, way, F]; 0 for a class that a task lacks."""
    member = members(support, way).to(features.dtype)
    count = member.sum(1) if support.way is None else member.sum(1).clamp(min=1)
    return member.transpose(1, 2) @ features / count.unsqueeze(-1)
