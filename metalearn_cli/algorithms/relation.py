"""Relation Networks.

Flood Sung, Yongxin Yang, Li Zhang, Tao Xiang, Philip Torr, Timothy Hospedales: "Learning to Compare: Relation Network
for Few-Shot Learning", CVPR 2018, arXiv 1711.06025.

    r_k(x) = sigmoid( g( [sum of f(x_i) over the support examples of class k, f(x)] ) ),    f(x) an image of features
    loss = mean over queries x and classes k of (r_k(x) - [y = k])^2,        p(y = k | x) = r_k(x) / sum_j r_j(x)

(equations 1 and 2; [,] puts channels side by side). g is two blocks of 3x3 convolution, batch norm, ReLU and 2x2
max-pooling, a linear layer of `hidden` units with ReLU, and one of a single output. There are no inner steps. With
`loss=softmax` the outputs of g are logits, as in the re-runs of Chen et al. 2019 (arXiv 1904.04232).

Differs from the paper in: the encoder is that of `model`; the paper's halves the image twice (model.halvings=2) and
pads neither these two convolutions nor, on miniImageNet, those of g: its last images are of 5x5 and 19x19 pixels where
ours are of 7x7 and 21x21. A block of g that gets a single pixel does not pool. Support and query go through the encoder
together, and in two passes in the authors' code, which normalises by the batch in the test as well and chose its
checkpoints on test classes. The sum over shots, not their mean, is the paper's and the code's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import embed, init_body, maps_of, mask_of_both
from metalearn_cli.algorithms.features import members
from metalearn_cli.algorithms.losses import gradient_update, mean_of_real, task_loss
from metalearn_cli.nets.base import Call, Forward, Net, Params
from metalearn_cli.nets.conv_block import Block, conv_block
from metalearn_cli.nets.layers import fold, linear, unfold
from metalearn_cli.system.limits import Count
from metalearn_cli.tasks.base import Batch, Support

BLOCKS = ("relation:block1", "relation:block2")
HIDDEN, OUTPUT = "relation:hidden", "relation:output"


class Loss(Enum):
    mse = "mse"
    softmax = "softmax"


@dataclass(frozen=True)
class Relation(Algorithm):
    loss: Loss = Loss.mse
    hidden: Count = 8  # units of the layer before the last

    batch_norm = BatchNorm.transductive

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        """Draw g as the authors' code does."""
        params, stats = init_body("relation", net, rng), net.init_stats()
        example = torch.zeros(1, 1, *net.spec.input_shape)
        channels, *size = maps_of(net, "relation")(params, example, Call(stats))[0].shape[2:]
        inputs = 2 * channels
        for block in BLOCKS:
            std = math.sqrt(2 / (9 * channels))
            params[f"{block}.conv.weight"] = std * torch.randn(channels, inputs, 3, 3, generator=rng)
            params |= {f"{block}.norm.weight": torch.ones(channels), f"{block}.norm.bias": torch.zeros(channels)}
            stats |= {f"{block}.norm.mean": torch.zeros(channels), f"{block}.norm.var": torch.ones(channels)}
            inputs, size = channels, [max(length // 2, 1) for length in size]
        for name, rows, columns in ((HIDDEN, self.hidden, math.prod(size) * channels), (OUTPUT, 1, self.hidden)):
            params[f"{name}.weight"] = 0.01 * torch.randn(rows, columns, generator=rng)
            params[f"{name}.bias"] = torch.ones(rows)
        return Meta(params, stats)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        yield RelationPredictor(net, meta.params, meta.buffers, support, self.loss)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support, by = batch.support, maps_of(net, "relation")
        maps, query, stats = embed(by, meta.params, support, batch.query_x, batch.query_mask, None)
        is_class = members(support, net.spec.train_outputs)
        mask = mask_of_queries(support, query, batch.query_mask)
        out, own_stats = relations(meta.params, is_class, maps, query, Call(mask=mask))
        if self.loss is Loss.softmax:
            loss = task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way)
        else:
            target = batch.query_y.unsqueeze(-1) == torch.arange(out.shape[-1], device=out.device)
            error = (out.sigmoid() - target.to(out.dtype)).square() * is_class.any(1, keepdim=True)
            loss = mean_of_real(error.sum(-1) / is_class.any(1).sum(1, keepdim=True), batch.query_mask)
        return gradient_update(meta, loss, stats | own_stats)


@dataclass(frozen=True, eq=False)
class RelationPredictor(Predictor):
    """Compares a query with the sum of each class of this support."""

    net: Net
    params: Params  # [*shape]
    buffers: Params
    support: Support
    loss: Loss

    def outputs(self, query_x: Tensor, query_mask: Tensor | None, stats: Params | None) -> Tensor:
        by = maps_of(self.net, "relation")
        maps, query, _ = embed(by, self.params, self.support, query_x, query_mask, stats)
        own = None if stats is None else self.buffers | stats  # the running ones come without those of g
        return self._compared(maps, query, Call(own, mask_of_queries(self.support, query, query_mask)))[0]

    def support_stats(self) -> Params:
        mask = self.support.mask
        maps, stats = maps_of(self.net, "relation")(self.params, self.support.x, Call(mask=mask))
        return stats | self._compared(maps, maps, Call(mask=mask))[1]

    def outputs_beside_support(self, query_x: Tensor) -> Tensor:
        maps, query, _ = embed(maps_of(self.net, "relation"), self.params, self.support, query_x, None, None)
        mask = mask_of_both(self.support, query, None)
        return self._compared(maps, torch.cat([maps, query], 1), Call(mask=mask))[0][:, -1:]

    def _compared(self, maps: Tensor, query: Tensor, call: Call) -> Forward:
        out, used = relations(self.params, members(self.support, self.net.spec.outputs), maps, query, call)
        return out if self.loss is Loss.softmax else F.logsigmoid(out), used


def mask_of_queries(support: Support, query: Tensor, query_mask: Tensor | None) -> Tensor | None:
    """Which of the queries [T, Q, ...] are real, [T, Q]; None: all are, and so are all classes."""
    mask = mask_of_both(support, query, query_mask)
    return None if mask is None else mask[:, -query.shape[1] :]


def relations(params: Params, is_class: Tensor, maps: Tensor, query: Tensor, call: Call) -> Forward:
    """g of every pair of a query and a class -> [T, Q, way], and the statistics of its batch norms. `call` has those to
    use, and which queries are real; is_class is [T, S, way] bool, the support's maps [T, S, C, H, W], the query's
    [T, Q, C, H, W]."""
    shape, way = query.shape, is_class.shape[-1]
    sums = is_class.to(maps.dtype).transpose(1, 2) @ maps.flatten(2)  # [T, way, C*H*W]
    pairs = [sums.view(-1, 1, way, *shape[2:]), query.unsqueeze(2)]
    x = fold(torch.cat([part.expand(-1, shape[1], way, -1, -1, -1) for part in pairs], 3).flatten(1, 2))
    mask, used = call.mask, dict[str, Tensor]()
    if mask is not None:
        mask = (mask.unsqueeze(2) & is_class.any(1, keepdim=True)).flatten(1)  # [T, Q*way]
    for name in BLOCKS:
        x, stats = conv_block(params, Block(name, pool=min(x.shape[2:]) > 1), x, call.stats, mask)
        used |= stats
    hidden = F.relu(linear(params, HIDDEN, unfold(x, len(query)).flatten(2)))
    return linear(params, OUTPUT, hidden).view(*shape[:2], way), used
