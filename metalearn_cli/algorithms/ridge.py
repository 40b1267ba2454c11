"""Ridge and logistic regression on the features, in closed form: R2-D2 and LR-D2.

Luca Bertinetto, João Henriques, Philip Torr, Andrea Vedaldi: "Meta-learning with differentiable closed-form solvers",
ICLR 2019, arXiv 1805.08136.

    W = argmin_W ||X W - Y||^2 + lambda ||W||^2 = X' (X X' + lambda I)^-1 Y,     p(y | x) = softmax( scale [f(x), 1] W )

(equations 4 to 6). X are the support's features with a column of ones, Y its labels, one-hot. The meta-gradient runs
through the solution, and the scale is learned with the network. LR-D2 (`newton_steps`) has another W, column by column
the logistic regression of a class against all others after some of Newton's steps from w = 0:

    w <- X' (X X' + lambda S^-1)^-1 z,     m = sigmoid(X w),   S = diag(m (1 - m)),   z = X w + S^-1 (y - m)

algo=r2d2 has the settings of the authors' code. It divides X and Y by the root of the number n of support examples, so
that its lambda counts n times (`per_example`), and can learn lambda, which none of its published commands asks for.

Differs from the paper in: there is no bias after the scale, which all classes would share: a softmax does not see it.
What is learned of lambda is its logarithm. With two classes LR-D2 has a w for both, one the other's negative: p =
sigmoid(2 scale x w). Its code has no scale: optimizer.rates=[ridge:scale:0] keeps it at 1. Batch norm uses the
statistics of support and query together in training, as algo=protonet does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update, init_body
from metalearn_cli.algorithms.features import Normalise, members, prepared
from metalearn_cli.algorithms.solvers import reweighted, ridge, with_ones
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.system.limits import Natural, Positive
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class Ridge(Algorithm):
    penalty: Positive = 1.0  # lambda, or where it begins
    normalise: Normalise = Normalise.none
    scale: Positive = 10.0  # of the outputs, where training begins
    per_example: bool = False  # whether lambda counts once for each support example
    learn_penalty: bool = False
    newton_steps: Natural = 0  # towards logistic regression, LR-D2; 0: ridge regression

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        learned = {"ridge:scale": torch.tensor(self.scale)}
        if self.learn_penalty:
            learned["ridge:log_penalty"] = torch.tensor(math.log(self.penalty))
        name = "lr_d2" if self.newton_steps else "r2d2" if self.per_example else "ridge"
        return Meta(init_body(name, net, rng, each_class=False) | learned, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.logits, meta.params, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        scorer = partial(self.logits, meta.params, batch.support, net.spec.train_outputs)
        return embedding_update(net, meta, batch, scorer)

    def learned(self, meta: Meta) -> dict[str, float]:
        penalty = {"penalty": meta.params["ridge:log_penalty"].exp().item()} if self.learn_penalty else {}
        return {"scale": meta.params["ridge:scale"].item()} | penalty

    def logits(self, params: Params, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] for the features of the support [T, S, F] and of the query [T, Q, F]."""
        features, query = prepared(features, self.normalise), prepared(query, self.normalise)
        x, y = with_ones(features, support.mask).double(), members(support, way)
        penalty: float | Tensor = params["ridge:log_penalty"].exp() if self.learn_penalty else self.penalty
        if self.per_example:
            penalty = penalty * y.sum((1, 2), dtype=torch.float64)[:, None, None]
        if self.newton_steps:
            weights = x.transpose(1, 2) @ reweighted(x @ x.transpose(1, 2), y, penalty, self.newton_steps)
        else:
            weights = ridge(x, y, penalty)
        return params["ridge:scale"] * (with_ones(query) @ weights.to(query.dtype))
