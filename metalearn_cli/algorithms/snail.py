"""SNAIL: a sequence of labelled examples and a query, read by causal attention and temporal convolutions.

Nikhil Mishra, Mostafa Rohaninejad, Xi Chen, Pieter Abbeel: "A Simple Neural Attentive Meta-Learner", ICLR 2018, arXiv
1707.03141.

    p(y | x, support) = softmax( SNAIL( [f(x_1), y_1], ..., [f(x_S), y_S], [f(x), 0] ) ),  loss = -log p(y | x, support)

Labels are one-hot vectors, values themselves; f is the network of `model`. The temporal convolutions of `layers` reach
back 1, 2, 4, ... places: the paper has ceil(log2(S + 1)) of them, 3 for 5-way 1-shot and 5 for 5-way 5-shot. Attention
reaches all of the support set however many they are. The order of the support set counts.

Differs from the paper in: f is `model` without a further layer behind it. All queries of a task follow the same support
set, each by itself, and share the step; the paper's episodes have one, the last of the sequence. Batch norm is that of
support and query together, and its running averages in a test: the paper does not say (from memory, not verified).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update
from metalearn_cli.algorithms.features import members
from metalearn_cli.algorithms.in_context import init_behind
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.set_net import Context
from metalearn_cli.nets.snail_net import SnailNet
from metalearn_cli.system.limits import Count
from metalearn_cli.tasks.base import Batch, Spec, Support


@dataclass(frozen=True)
class SNAIL(Algorithm):
    width: Count = 32  # U: the network's parts have multiples of it
    layers: Count = 3  # of a temporal block

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        return init_behind(net, self._over_sequences(net.spec), rng)

    def require_way(self, trained: int, way: int) -> None:
        raise UserError(
            f"this run was trained with {trained} classes, the support has {way}, and algo=snail reads labels of "
            f"{trained}: give {trained} classes, or a run of another algorithm"
        )

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.predicted, net.spec, meta.params, support)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(self.predicted, net.spec, meta.params, batch.support))

    def predicted(self, spec: Spec, params: Params, support: Support, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, outputs], each query by itself, of the features of the support [T, S, F] and the query [T, Q, F]."""
        y = members(support, spec.outputs).to(features.dtype) if spec.kind == "classes" else support.y
        return self._over_sequences(spec)(params, Context(features, y, support.mask), query)

    def _over_sequences(self, spec: Spec) -> SnailNet:
        targets = spec.outputs if spec.kind == "classes" else spec.targets
        return SnailNet(targets, spec.outputs, self.width, self.layers)
