"""Heads that are solved as convex problems: MetaOptNet.

Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran, Stefano Soatto: "Meta-Learning with Differentiable Convex
Optimization", CVPR 2019, arXiv 1904.03758.

    svm:    a = argmin  sum_k a_k' (X X' + I) a_k / 2 - sum_i a_{i, y_i}    where   a_ik <= C [k = y_i],  sum_k a_ik = 0
    ridge:  a = 2 (X X' + lambda I)^-1 Y
    p(y | x) = softmax( scale f(x) X' a )

(section 3; the first is the dual of Crammer and Singer's support vector machine). X are the support's features, without
a column of ones, and Y its labels, one-hot. The meta-gradient runs through the minimum, by the implicit function
theorem, and the scale is learned with the network.

Differs from the paper in: support and query go through the network together, task by task, where the code normalises
all support sets of a batch together, and then all query sets. The solver, in float64, stops after as many points as the
code's: 15 in training and 3 at validation and test.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import Normalise, members, prepared
from metalearn_cli.algorithms.solvers import ridge
from metalearn_cli.algorithms.support_vectors import support_vectors
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.system.limits import Count, Positive, Share
from metalearn_cli.tasks.base import Batch, Support


class Head(Enum):
    svm = "svm"
    ridge = "ridge"


@dataclass(frozen=True)
class MetaOptNet(Algorithm):
    head: Head = Head.svm
    bound: Positive = 0.1  # svm: C
    iterations: Count = 15  # svm: points of the solver in training
    test_iterations: Count = 3  # svm: at validation and test
    penalty: Positive = 50.0  # ridge: lambda
    normalise: Normalise = Normalise.none
    scale: Positive = 1.0  # of the outputs, where training begins
    label_smoothing: Share = 0.0  # of the query's labels in training: the share that the other classes have

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        body = init_body("metaoptnet", net, rng, each_class=self.head is Head.svm)
        return Meta(body | {"metaoptnet:scale": torch.tensor(self.scale)}, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        y = members(support, net.spec.outputs)
        scorer = partial(self.logits, meta.params, y, self.test_iterations)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        y = members(batch.support, net.spec.train_outputs)
        scorer = partial(self.logits, meta.params, y, self.iterations)
        return embedding_update(net, meta, batch, scorer, self.label_smoothing)

    def learned(self, meta: Meta) -> dict[str, float]:
        return {"scale": meta.params["metaoptnet:scale"].item()}

    def logits(self, params: Params, y: Tensor, iterations: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] for y [T, S, way], the features of the support [T, S, F] and of the query [T, Q, F]."""
        x, query = prepared(features, self.normalise).double(), prepared(query, self.normalise)
        x = x.where(y.any(2, keepdim=True), 0)
        if self.head is Head.ridge:
            weights = 2 * ridge(x, y, self.penalty)
        else:
            weights = x.transpose(1, 2) @ support_vectors(x @ x.transpose(1, 2), y, self.bound, iterations)
        return params["metaoptnet:scale"] * (query @ weights.to(query.dtype))
