"""In-context regression: a causal transformer that is trained to predict each value from the pairs before it.

Shivam Garg, Dimitris Tsipras, Percy Liang, Gregory Valiant: "What Can Transformers Learn In-Context? A Case Study of
Simple Function Classes", NeurIPS 2022, arXiv 2208.01066.

    loss = 1/N sum_i (f(x_1, y_1, ..., x_(i-1), y_(i-1), x_i) - y_i)^2      over support and then query, N = S + Q

(equation 2), or another likelihood of the task. A query of a test is predicted from the support set alone, as the point
that comes after it. Adapting is keeping the support set; with `test_steps` = K it comes in K parts, and step k has
seen the first k S / K of its points: with K = S, the error by the number of examples, the paper's figure.

Places have embeddings, as in GPT-2, so that the order of the support set counts, and `points` is the longest sequence.

Differs from the paper in: there is no curriculum, which begins with fewer inputs and shorter sequences. `task.query`
points of a test follow the same support set, each by itself; the paper's prompts have one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, mask_of_both
from metalearn_cli.algorithms.in_context import context_of, init_sets
from metalearn_cli.algorithms.losses import gradient_update, task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.causal_transformer import CausalTransformer
from metalearn_cli.nets.set_net import Context
from metalearn_cli.system.limits import Count, Natural
from metalearn_cli.tasks.base import Batch, Spec, Support


@dataclass(frozen=True)
class InContext(Algorithm):
    width: Count = 64
    layers: Count = 3
    heads: Count = 2  # of the attention
    points: Count = 101  # of the longest sequence
    test_steps: Natural = 0  # K; 0: the support set comes at once

    batch_norm = BatchNorm.running

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"algo.width={self.width} must be a multiple of algo.heads={self.heads}")

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return init_sets(net, self._over_sequences(net.spec), rng)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        for step in range(steps + 1):
            seen = support.first(step * support.x.shape[1] // steps if steps else support.x.shape[1])
            scorer = partial(self.predicted, net.spec, meta.params, seen)
            yield PredictorByEmbedding(net, meta.params, meta.buffers, seen, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support = batch.support
        features, query, stats = embed(net.features, meta.params, support, batch.query_x, batch.query_mask, None)
        x, y = torch.cat([features, query], 1), torch.cat([batch.support_y, batch.query_y], 1)
        both = Context(x, y, mask_of_both(support, query, batch.query_mask))
        out = self._over_sequences(net.spec).along(meta.params, both)
        return gradient_update(meta, task_loss(net.spec, out, both.y, both.mask), stats)

    def predicted(self, spec: Spec, params: Params, support: Support, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, outputs], each query by itself, of the features of the support [T, S, F] and the query [T, Q, F]."""
        return self._over_sequences(spec)(params, context_of(support, features), query)

    def _over_sequences(self, spec: Spec) -> CausalTransformer:
        return CausalTransformer(spec.targets, spec.outputs, self.width, self.layers, self.heads, self.points)
