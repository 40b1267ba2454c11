"""The common part of algorithms that compare embeddings: support and query set go through the network together.

Shapes: T tasks, S support examples, Q query examples, F features. Of an algorithm that compares images of features, F
stands for the dimensions of these, [C, H, W].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Meta, Predictor, Update
from metalearn_cli.algorithms.features import BASE_MEAN
from metalearn_cli.algorithms.losses import call_on, gradient_update, mean_of_real, task_loss, without_absent_classes
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Forward, Net, Params, Pass
from metalearn_cli.nets.capabilities import require_maps
from metalearn_cli.tasks.base import Batch, Support

# (features of the support set [T, S, F], of the query set [T, Q, F]) -> out [T, Q, way].
Scorer = Callable[[Tensor, Tensor], Tensor]
# The same of a transductive head, which is also told which queries are real, [T, Q]; None: all are.
JointScorer = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Embedding = Callable[[Params, Tensor, Call], Forward]  # a network's features, or its maps


def init_body(algo: str, net: Net, rng: torch.Generator, each_class: bool = True) -> Params:
    """The network's parameters without those of its head. Raises UserError where there are no classes, or a task may
    have a class without a support example and the algorithm needs `each_class`."""
    if net.spec.kind != "classes":
        raise UserError(f"algo={algo} compares classes, and this task has values: take task=omniglot or algo=maml")
    if each_class and not net.spec.complete:
        raise UserError(
            f"algo={algo} needs each class in the support of every task, and some here lack one: take algo=ridge"
        )
    return {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}


def maps_of(net: Net, algo: str) -> Embedding:
    """The network up to its last images. Raises UserError where there are none."""
    if len(net.spec.input_shape) != 3:
        raise UserError(
            f"algo={algo} compares images of features, and this task's examples are vectors: take task=omniglot, or "
            "algo=protonet"
        )
    return require_maps(net, f"algo={algo}").maps


def embed(
    by: Embedding, params: Params, support: Support, query_x: Tensor, query_mask: Tensor | None, stats: Params | None
) -> tuple[Tensor, Tensor, Params]:
    """Features [T, S, F] of the support and [T, Q, F] of query_x [T, Q, *input], and the statistics used.

    Without `stats` they are those of support and query together. Where only the support has a mask, all of the query
    is real.
    """
    mask = mask_of_both(support, query_x, query_mask)
    call = call_on(support, Pass.both, mask)._replace(stats=stats)
    features, used = by(params, torch.cat([support.x, query_x], 1), call)
    support_features, query_features = features.tensor_split([support.x.shape[1]], dim=1)
    return support_features, query_features, used


def embedding_update(net: Net, meta: Meta, batch: Batch, scorer: Scorer, label_smoothing: float = 0.0) -> Update:
    """grad L(query) in the meta-parameters, where `scorer` makes outputs of the embeddings of this batch; with
    label_smoothing the other classes share that part of each label."""
    features, query, stats = embed(net.features, meta.params, batch.support, batch.query_x, batch.query_mask, None)
    if BASE_MEAN in meta.buffers:
        stats = stats | {BASE_MEAN: mean_feature(features, query, batch)}
    out = scorer(features, query)
    loss = task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way)
    if label_smoothing:
        way = (torch.full_like(batch.key, out.shape[-1]) if batch.way is None else batch.way).to(loss.dtype)
        loss = loss.lerp(loss_of_all_classes(out, batch.query_mask, way), label_smoothing * way / (way - 1))
    return gradient_update(meta, loss, stats)


def loss_of_all_classes(out: Tensor, mask: Tensor | None, way: Tensor) -> Tensor:
    """The mean of -log p(y | x) over the classes y and the real examples: out [T, Q, classes], way [T] -> [T]."""
    log_p = without_absent_classes(out, way).log_softmax(-1)
    is_absent = torch.arange(out.shape[-1], device=out.device) >= way[:, None, None]
    return -mean_of_real(log_p.masked_fill(is_absent, 0).sum(-1), mask) / way


@dataclass(frozen=True, eq=False)
class PredictorByEmbedding(Predictor):
    """Predicts by `scorer` from the embeddings of a query and of this support."""

    net: Net
    params: Params  # [*shape], or after fine-tuning [T, *shape]
    buffers: Params
    support: Support
    scorer: Scorer | JointScorer
    sees_all: bool = False  # whether the scorer is a joint one
    by: Embedding | None = None  # what embeds them; None: the network's features

    def outputs(self, query_x: Tensor, query_mask: Tensor | None, stats: Params | None) -> Tensor:
        by = self.by or self.net.features
        features, query, _ = embed(by, self.params, self.support, query_x, query_mask, stats)
        return self.scorer(features, query, *[query_mask] * self.sees_all)

    def support_stats(self) -> Params:
        return self.net.features(self.params, self.support.x, Call(mask=self.support.mask))[1]

    def outputs_beside_support(self, query_x: Tensor) -> Tensor:
        return self.outputs(query_x, None, None)  # which embeds both together


def mask_of_both(support: Support, query_x: Tensor, query_mask: Tensor | None) -> Tensor | None:
    """Which examples of support and query together are real, [T, S + Q]; None: all are."""
    if support.mask is None:
        return None
    all_real = torch.ones(query_x.shape[:2], dtype=torch.bool, device=query_x.device)
    return torch.cat([support.mask, all_real if query_mask is None else query_mask], 1)


def mean_feature(features: Tensor, query: Tensor, batch: Batch) -> Tensor:
    """The mean of each task's real examples: features of the support [T, S, F] and of the query [T, Q, F] -> [T, F]."""
    both, mask = torch.cat([features, query], 1), mask_of_both(batch.support, batch.query_x, batch.query_mask)
    return mean_of_real(both, mask)
