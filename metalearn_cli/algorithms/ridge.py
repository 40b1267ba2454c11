"""Ridge regression on the features, in closed form: R2-D2.

Luca Bertinetto, João Henriques, Philip Torr, Andrea Vedaldi: "Meta-learning with differentiable closed-form solvers",
ICLR 2019, arXiv 1805.08136.

    W = argmin_W ||X W - Y||^2 + lambda ||W||^2 = X' (X X' + lambda I)^-1 Y,     p(y | x) = softmax( scale [f(x), 1] W )

(equations 4 to 6). X are the support's features with a column of ones, Y its labels, one-hot. The meta-gradient runs
through the solution, and the scale is learned with the network.

Differs from the paper in: lambda is not learned, as in the runs of the authors' code, which divides X and Y by the root
of the number n of support examples, so that its lambda is n times smaller than this one. There is no bias after the
scale: all classes would share it, and a softmax does not see it. Batch norm uses the statistics of support and query
together in training, as algo=protonet does.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import (
    Normalise,
    PredictorByEmbedding,
    Scorer,
    embedding_update,
    init_body,
    members,
    prepared,
)
from metalearn_cli.algorithms.solvers import ridge, with_ones
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.system.limits import Positive
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class Ridge(Algorithm):
    penalty: Positive = 1.0  # lambda
    normalise: Normalise = Normalise.none
    scale: Positive = 10.0  # of the outputs, where training begins
    test_steps: int = field(default=0, init=False)  # there are none

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        body = init_body("ridge", net, rng, each_class=False)
        return Meta(body | {"ridge:scale": torch.tensor(self.scale)}, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = self._scorer(meta.params, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, self._scorer(meta.params, batch.support, net.spec.train_outputs))

    def learned(self, meta: Meta) -> dict[str, float]:
        return {"scale": meta.params["ridge:scale"].item()}

    def _scorer(self, params: Params, support: Support, way: int) -> Scorer:
        return partial(self.logits, params["ridge:scale"], support, way)

    def logits(self, scale: Tensor, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] for the features of the support [T, S, F] and of the query [T, Q, F]."""
        features, query = prepared(features, self.normalise), prepared(query, self.normalise)
        weights = ridge(with_ones(features, support.mask), members(support, way), self.penalty)
        return scale * (with_ones(query) @ weights.to(query.dtype))
