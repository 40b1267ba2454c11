"""The common part of algorithms that compare embeddings: support and query set go through the network together.

Shapes: T tasks, S support examples, Q query examples, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Meta, Predictor, Update, call_on, gradient_update, task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params, Pass
from metalearn_cli.tasks.base import Batch, Support

# (features of the support set [T, S, F], of the query set [T, Q, F]) -> out [T, Q, way].
Scorer = Callable[[Tensor, Tensor], Tensor]


def init_body(algo: str, net: Net, rng: torch.Generator) -> Params:
    """The network's parameters without those of its head. Raises UserError where there is nothing to compare with."""
    if net.spec.kind != "classes":
        raise UserError(f"algo={algo} compares classes, and this task has values: take task=omniglot or algo=maml")
    if not net.spec.complete:
        raise UserError(
            f"algo={algo} needs each class in the support of every task, and some here lack one: take algo=maml"
        )
    return {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}


def embed(
    net: Net, params: Params, support: Support, query_x: Tensor, query_mask: Tensor | None, stats: Params | None
) -> tuple[Tensor, Tensor, Params]:
    """Features [T, S, F] of the support and [T, Q, F] of query_x [T, Q, *input], and the statistics used.

    Without `stats` they are those of support and query together. Where only the support has a mask, all of the query
    is real.
    """
    mask = None
    if support.mask is not None:
        all_real = torch.ones(query_x.shape[:2], dtype=torch.bool, device=query_x.device)
        mask = torch.cat([support.mask, all_real if query_mask is None else query_mask], 1)
    call = call_on(support, Pass.both, mask)._replace(stats=stats)
    features, used = net.features(params, torch.cat([support.x, query_x], 1), call)
    support_features, query_features = features.tensor_split([support.x.shape[1]], dim=1)
    return support_features, query_features, used


def embedding_update(net: Net, meta: Meta, batch: Batch, scorer: Scorer) -> Update:
    """grad L(query) in the meta-parameters, where `scorer` makes outputs of the embeddings of this batch."""
    features, query, stats = embed(net, meta.params, batch.support, batch.query_x, batch.query_mask, None)
    loss = task_loss(net.spec, scorer(features, query), batch.query_y, batch.query_mask, batch.way)
    return gradient_update(meta, loss, stats)


@dataclass(frozen=True, eq=False)
class PredictorByEmbedding(Predictor):
    """Predicts by `scorer` from the embeddings of a query and of this support."""

    net: Net
    params: Params  # [*shape], or after fine-tuning [T, *shape]
    buffers: Params
    support: Support
    scorer: Scorer

    def outputs(self, query_x: Tensor, query_mask: Tensor | None, stats: Params | None) -> Tensor:
        features, query, _ = embed(self.net, self.params, self.support, query_x, query_mask, stats)
        return self.scorer(features, query)

    def support_stats(self) -> Params:
        return self.net.features(self.params, self.support.x, Call(mask=self.support.mask))[1]

    def outputs_beside_support(self, query_x: Tensor) -> Tensor:
        return self.outputs(query_x, None, None)  # which embeds both together


def members(support: Support, way: int) -> Tensor:
    """Which support example belongs to which class, [T, S, way] bool; an example that is not real belongs to none.

    `way` is an argument, and not taken from the labels: looking at them would make a GPU wait.
    """
    member = support.y.unsqueeze(-1) == torch.arange(way, device=support.y.device)
    return member if support.mask is None else member & support.mask.unsqueeze(-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2: a [T, Q, F], b [T, N, F] -> [T, Q, N].

    By differences, not by the expansion a^2 - 2ab + b^2, which loses half the digits where the two are close.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
