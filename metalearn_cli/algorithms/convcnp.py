"""Convolutional Conditional Neural Processes.

Jonathan Gordon, Wessel P. Bruinsma, Andrew Y. K. Foong, James Requeima, Yann Dubois, Richard E. Turner: "Convolutional
Conditional Neural Processes", ICLR 2020, arXiv 1910.13556.

    loss = -1/Q sum_i log N(y_i; m_i, d_i^2),   (m_i, d_i) = decode(CNN(encode(support)), x_i)

over the Q values of the query set. The support set becomes functions on a grid over the inputs (nets/conv_set.py), so
that a translation of all inputs moves the prediction with them. Adapting is keeping the support set.

Differs from the paper in: one network of residual depthwise separable convolutions for one and for two inputs, where
the paper has two others for one; pixels are points of any place, and not those of the grid. Each of the two kernels has
one length for all channels, where the code has one for each (from memory, not verified), and the second one is divided
by its sum. The loss is that of the query set alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embedding_update
from metalearn_cli.algorithms.in_context import context_of, init_sets
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv_set import ConvSetNet
from metalearn_cli.system.limits import Count, Limit, Positive
from metalearn_cli.tasks.base import Batch, Spec, Support

Odd = Annotated[int, Limit("an odd whole number, 1 or above", lambda value: value >= 1 and value % 2 == 1)]


@dataclass(frozen=True)
class ConvCNP(Algorithm):
    low: float = -2.0  # the range of every input, which the grid covers
    high: float = 2.0
    points_per_unit: Positive = 16.0  # of the grid
    width: Count = 64
    layers: Count = 8
    kernel: Odd = 5

    batch_norm = BatchNorm.running

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise UserError(f"algo.low={self.low:g} must be below algo.high={self.high:g}")

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        meta = init_sets(net, self._over_sets(net.spec), rng)
        if any(not name.startswith("set:") for name in meta.params):
            raise UserError("algo=convcnp has a grid over the inputs, which this model changes: give model=identity")
        return meta

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.predicted, net.spec, meta.params, support)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        return embedding_update(net, meta, batch, partial(self.predicted, net.spec, meta.params, batch.support))

    def require_range(self, low: float, high: float) -> None:
        if low < self.low or high > self.high:
            raise UserError(
                f"algo=convcnp has a grid from algo.low={self.low:g} to algo.high={self.high:g}, and inputs of this "
                f"task go from {low:g} to {high:g}: give algo.low={low:g} algo.high={high:g}"
            )

    def predicted(self, spec: Spec, params: Params, support: Support, x: Tensor, query: Tensor) -> Tensor:
        """[T, Q, outputs] of the inputs of the support [T, S, 1 or 2] and of the query [T, Q, 1 or 2]."""
        return self._over_sets(spec)(params, context_of(support, x), query)

    def _over_sets(self, spec: Spec) -> ConvSetNet:
        grid = self.low, self.high, self.points_per_unit
        return ConvSetNet(spec.targets, spec.outputs, *grid, self.width, self.layers, self.kernel)
