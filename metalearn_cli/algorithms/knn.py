"""Nearest neighbours: k at test, all of them with soft weights in training.

Steinar Laenen, Luca Bertinetto: "On Episodes, Prototypical Networks, and Few-Shot Learning", NeurIPS 2021, arXiv
2012.09831, after Jacob Goldberger, Sam Roweis, Geoffrey Hinton, Ruslan Salakhutdinov: "Neighbourhood Components
Analysis", NIPS 2004.

    training:  p(y | x) = sum over the support examples of class y of a(x, x_i),  a = softmax_i( -||f(x) - f(x_i)||^2 )
    test:      p(y | x) = (2 n_y + p_training(y | x)) / (2 k + 1),  n_y of the k nearest examples are of class y

(equation 2 of the paper; it tests by the k nearest, by the nearest mean and by p of training). At test the majority has
it, and of classes with as many votes the one with more weight. In training it is algo=matching without contexts.

Differs from the paper in: an example's neighbours are the support set of its episode, where theirs are all examples of
the batch. Cosines (`kernel`), multiplied by `temperature`, are offered beside the distance.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import members
from metalearn_cli.algorithms.matching import Kernel, log_attention, similarity
from metalearn_cli.nets.base import Net
from metalearn_cli.system.limits import Count, Positive
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class KNN(Algorithm):
    k: Count = 1  # all of them, where a support set has fewer, and more, where they are equally near
    kernel: Kernel = Kernel.euclidean
    temperature: Positive = 1.0  # multiplies the similarities: above 1 makes the soft weights sharper

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return Meta(init_body("knn", net, rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.votes, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(self.soft_votes, batch.support, net.spec.train_outputs))

    def soft_votes(self, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """log p(y | x) of training [T, Q, way] for the features of the support [T, S, F] and of the query [T, Q, F]."""
        scores = self.temperature * similarity(self.kernel, query, features)
        return log_attention(scores, members(support, way), support.mask)

    def votes(self, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """log p(y | x) of the test, likewise, up to a term that all classes share."""
        scores = similarity(self.kernel, query, features)
        if support.mask is not None:
            scores = scores.masked_fill(~support.mask.unsqueeze(1), -math.inf)
        least = scores.topk(min(self.k, scores.shape[2]), dim=2).values[..., -1:]
        votes = (scores >= least).to(scores.dtype) @ members(support, way).to(scores.dtype)
        return torch.logaddexp((2 * votes).log(), self.soft_votes(support, way, features, query))
