"""FEAT: prototypes that see each other.

Han-Jia Ye, Hexiang Hu, De-Chuan Zhan, Fei Sha: "Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions",
CVPR 2020, arXiv 1812.03664.

    attend(C) = LayerNorm( C + FC( softmax( C Q (C K)' / sqrt(F) ) C V ) ),      c' = attend(c_1, ..., c_way)
    p(y = k | x) = softmax_k( -||f(x) - c'_k||^2 / T ),      c_k = mean of f(x_i) over the support examples of class k
    loss = -log p(y | x) + balance * the mean of -log softmax_y( -||f(x) - a_y||^2 / T2 ) over support and query,
    a_k = mean of attend(all examples of class k, support and query)

(section 3.3, and equation 8 for the second term, which is of training alone). The rows of C are one set; Q, K, V and FC
are learned with f. The paper starts f from a network that is pre-trained on all training classes (a stage of
algo=pretrain), and the attention learns at 10 times its rate (optimizer.rates=[feat:*:10]). With FC = 0 this is not
ProtoNet, because of the LayerNorm.

Differs from the paper in: of its set functions (attention, LSTM, graph, deep sets) it is the one that it reports, with
one head. Batch norm uses the statistics of support and query together in training, as the authors' code does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import PredictorByEmbedding, embed, init_body, mask_of_both
from metalearn_cli.algorithms.features import feature_size, members, squared_distance
from metalearn_cli.algorithms.losses import call_on, gradient_update, task_loss
from metalearn_cli.algorithms.protonet import prototypes
from metalearn_cli.nets.base import Call, Net, Params, Pass
from metalearn_cli.nets.layers import linear
from metalearn_cli.nets.noise import dropped
from metalearn_cli.system.limits import NonNegative, Positive, Share
from metalearn_cli.tasks.base import Batch, Support

OF_WEIGHTS = 0.1  # the share of attention weights that training drops, in the authors' code


@dataclass(frozen=True)
class FEAT(Algorithm):
    temperature: Positive = 64.0  # T
    contrast_temperature: Positive = 64.0  # T2
    balance: NonNegative = 0.1
    dropout: Share = 0.5  # of what the attention adds

    batch_norm = BatchNorm.running

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        """Draw the attention as the authors' code does."""
        params = init_body("feat", net, rng)
        size = feature_size(net, params)
        for name in ("query", "key", "value", "fc"):
            params[f"feat:{name}.weight"] = torch.randn(size, size, generator=rng) / math.sqrt(size)
        params |= {"feat:norm.weight": torch.ones(size)}
        params |= {name: torch.zeros(size) for name in ("feat:fc.bias", "feat:norm.bias")}
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        scorer = partial(self.logits, meta.params, support, net.spec.outputs)
        yield PredictorByEmbedding(net, meta.params, meta.buffers, support, scorer)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        support, way = batch.support, net.spec.train_outputs
        features, query, stats = embed(net.features, meta.params, support, batch.query_x, batch.query_mask, None)
        out = self.logits(meta.params, support, way, features, query)
        loss = task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way)
        both = support._replace(
            x=torch.cat([features, query], 1),
            y=torch.cat([batch.support_y, batch.query_y], 1),
            mask=mask_of_both(support, query, batch.query_mask),
        )
        contrast = task_loss(net.spec, self.contrast(meta.params, both, way), both.y, both.mask, both.way)
        return gradient_update(meta, loss + self.balance * contrast, stats)

    def logits(self, params: Params, support: Support, way: int, features: Tensor, query: Tensor) -> Tensor:
        """[T, Q, way] of the features of the support [T, S, F] and of the query [T, Q, F]."""
        is_there = members(support, way).any(1).unsqueeze(1)  # [T, 1, way]
        centres = self.attended(params, prototypes(features, support, way), is_there, call_on(support, Pass.both, None))
        return -squared_distance(query, centres) / self.temperature

    def contrast(self, params: Params, both: Support, way: int) -> Tensor:
        """[T, B, way] of the features x [T, B, F] of support and query together, each class a set by itself."""
        is_class = members(both, way).to(both.x.dtype)
        share_class = is_class @ is_class.transpose(1, 2) > 0  # [T, B, B]
        # The numbers of the query's layers, so that other units are dropped than in `logits`.
        attended = self.attended(params, both.x, share_class, call_on(both, Pass.query, None))
        return -squared_distance(both.x, prototypes(attended, both, way)) / self.contrast_temperature

    def attended(self, params: Params, x: Tensor, sees: Tensor, call: Call) -> Tensor:
        """attend(x) of the rows of x [T, B, F], each over those that it sees, [T, B or 1, B] bool."""
        query, key, value = (linear(params, f"feat:{name}", x) for name in ("query", "key", "value"))
        scores = query @ key.transpose(1, 2) / math.sqrt(x.shape[-1])
        weights = scores.masked_fill(~sees, torch.finfo(scores.dtype).min).softmax(-1)
        added = linear(params, "feat:fc", dropped(weights, OF_WEIGHTS, call, -1) @ value)
        return F.layer_norm(
            x + dropped(added, self.dropout, call, -2),
            x.shape[-1:],
            params["feat:norm.weight"],
            params["feat:norm.bias"],
        )
