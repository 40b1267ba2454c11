"""Transformer Neural Processes.

Tung Nguyen, Aditya Grover: "Transformer Neural Processes: Uncertainty-Aware Meta Learning Via Sequence Modeling",
ICML 2022, arXiv 2207.04179.

    diagonal (TNP-D):        loss = -1/Q sum_i log N(y_i; m_i, d_i^2),             m_i, d_i from x_i and the support set
    autoregressive (TNP-A):  loss = -1/Q sum_i log p(y_i | y_1, ..., y_(i-1), support)
    full (TNP-ND):           loss = -1/Q log N(y; m, diag(d^2) + E E'),            E [Q, R] from the same tokens

over the Q values of the query set. Every point is a token of a transformer (nets/transformer.py); adapting is keeping
the support set. The headline log_likelihood is that of each query value by itself, with every `head`: a query is then
the first in its order, or has the variance d^2 + |e|^2. What TNP-A and TNP-ND report is `joint_log_likelihood` beside
it, which is no comparison with a log_likelihood: the oracle's is `oracle_joint`.

With `task.likelihood=bars` the diagonal one is a Prior-fitted Network (algo=pfn; Samuel Mueller, Noah Hollmann,
Sebastian Pineda Arango, Josif Grabocka, Frank Hutter: "Transformers Can Do Bayesian Inference", ICLR 2022, arXiv
2112.10510), whose network has GELU in place of ReLU, and whose sizes of the support set are drawn with other weights.

Differs from the paper in: E of a value depends on its own token alone, so that predictions for some queries agree with
those for all. The code's default is a Cholesky factor, the lower triangle of E E', after two more layers in which
targets see each other, and its low-rank option has these layers too. Each layer starts at its own numbers, in the code
all at the same ones. Deviations are those of `task.deviation_floor` and `task.deviation_link`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed
from metalearn_cli.algorithms.in_context import context_of, init_sets, require_density
from metalearn_cli.algorithms.losses import gradient_update, task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.set_net import Context
from metalearn_cli.nets.transformer import Transformer
from metalearn_cli.system.limits import Count
from metalearn_cli.tasks.base import Batch, Spec, Support
from metalearn_cli.tasks.likelihood import EXACT, Gaussian, Likelihood, in_turn


class Head(Enum):
    """What is known of a query value when it is predicted in training."""

    diagonal = "diagonal"
    autoregressive = "autoregressive"  # the query values before it
    full = "full"  # how it varies with the other ones


@dataclass(frozen=True)
class TNP(Algorithm):
    head: Head = Head.diagonal
    width: Count = 64
    layers: Count = 6
    heads: Count = 4  # of the attention
    hidden: Count = 128  # of the MLPs
    embedding_layers: Count = 4
    rank: Count = 20  # R, of head=full

    batch_norm = BatchNorm.running

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"algo.width={self.width} must be a multiple of algo.heads={self.heads}")

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if self.head is not Head.diagonal:
            require_density(net, f"algo.head={self.head.name}")
        return init_sets(net, self._over_sets(net.spec), rng)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.predicted, net.spec, meta.params, support)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        features, query, stats = embed(net.features, meta.params, batch.support, batch.query_x, batch.query_mask, None)
        if self.head is Head.diagonal:
            likelihood, out = net.spec.likelihood, self.predicted(net.spec, meta.params, batch.support, features, query)
        else:
            likelihood, out = self._in_turn(net.spec, meta.params, batch, features, query)
        loss = task_loss(net.spec._replace(likelihood=likelihood), out, batch.query_y, batch.query_mask)
        return gradient_update(meta, loss, stats)

    def conditionals(self, net: Net, meta: Meta, batch: Batch) -> tuple[Likelihood, Tensor] | None:
        if self.head is Head.diagonal:
            return None
        stats = {name: meta.buffers[name] for name in net.init_stats()}
        embedded = embed(net.features, meta.params, batch.support, batch.query_x, batch.query_mask, stats or None)
        return self._in_turn(net.spec, meta.params, batch, *embedded[:2])

    def predicted(self, spec: Spec, params: Params, support: Support, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, outputs], each query by itself, of the features of the support [T, S, F] and the query [T, Q, F]."""
        over_sets, context = self._over_sets(spec), context_of(support, features)
        if self.head is not Head.full:
            return over_sets(params, context, query)
        mean, deviation, factors = self._parts(spec, params, context, query)
        assert isinstance(spec.likelihood, Gaussian)
        return spec.likelihood.outputs(mean, (deviation.square() + factors.square().sum(-1)).sqrt())

    def _in_turn(
        self, spec: Spec, params: Params, batch: Batch, features: Tensor, query: Tensor
    ) -> tuple[Likelihood, Tensor]:
        """The predictions of each query value given those before it, as outputs [T, Q, 2V] of a likelihood. Queries
        beyond the real ones are last, so that no real one depends on them."""
        context, targets = context_of(batch.support, features), Context(query, batch.query_y, batch.query_mask)
        if self.head is Head.autoregressive:
            return spec.likelihood, self._over_sets(spec).after_earlier(params, context, targets)
        mean, deviation, factors = (part.double() for part in self._parts(spec, params, context, query))
        factors = factors.flatten(1, 2)  # [T, Q V, R]
        covariance = factors @ factors.mT + torch.diag_embed(deviation.flatten(1).square())
        factor = torch.linalg.cholesky_ex(covariance).L  # no host waits for it
        values = in_turn(mean.reshape(len(mean), -1, 1), factor, batch.query_y.double().reshape(len(mean), -1, 1))
        out = values.view(*mean.shape, 2).transpose(2, 3).flatten(2)  # V means, then V deviations
        return EXACT, out.to(query.dtype)

    def _parts(self, spec: Spec, params: Params, context: Context, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The means and deviations [T, Q, V] of head=full, and its factors [T, Q, V, R]."""
        over_sets = self._over_sets(spec)
        assert isinstance(spec.likelihood, Gaussian)
        tokens = over_sets.tokens(params, context, query)
        return *spec.likelihood.components(over_sets.predict(params, tokens)), over_sets.factors(params, tokens)

    def _over_sets(self, spec: Spec) -> Transformer:
        rank = self.rank if self.head is Head.full else 0
        sizes = self.width, self.layers, self.heads, self.hidden, self.embedding_layers, rank
        return Transformer(spec.targets, spec.outputs, *sizes)
