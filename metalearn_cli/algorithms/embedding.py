"""What the algorithms share that compare embeddings: support and query set go through the network together.

Shapes: T tasks, S support examples, Q query examples, F features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Support

# (features of the support set [T, S, F], of the query set [T, Q, F]) -> out [T, Q, way].
Head = Callable[[Tensor, Tensor], Tensor]


def init_body(algo: str, net: Net, rng: torch.Generator) -> Params:
    """The network's parameters without those of its head. Raises UserError where there is nothing to compare with."""
    if net.spec.kind != "classes":
        raise UserError(f"algo={algo} compares classes, and this task has values: take task=omniglot or algo=maml")
    if not net.spec.complete:
        raise UserError(
            f"algo={algo} wants each class in the support of every task, and some here lack one: take algo=maml"
        )
    return {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}


def embed(
    net: Net,
    params: Params,
    support: Support,
    query_x: Tensor,
    query_mask: Tensor | None = None,
    stats: Params | None = None,
) -> tuple[Tensor, Tensor, Params]:
    """Features [T, S, F] of the support and [T, Q, F] of query_x [T, Q, *input], and the statistics used.

    Without `stats` they are those of support and query together. Where only the support has a mask, all of the query
    is real.
    """
    mask = None
    if support.mask is not None:
        all_real = torch.ones(query_x.shape[:2], dtype=torch.bool, device=query_x.device)
        mask = torch.cat([support.mask, all_real if query_mask is None else query_mask], 1)
    features, used = net.features(params, torch.cat([support.x, query_x], 1), stats, mask)
    support_features, query_features = features.tensor_split([support.x.shape[1]], dim=1)
    return support_features, query_features, used


def compare(
    head: Head,
    net: Net,
    params: Params,
    buffers: Params,
    support: Support,
    query_x: Tensor,
    batch_norm: BatchNorm,
    query_mask: Tensor | None = None,
) -> Tensor:
    """query_x [T, Q, *input] -> out [T, Q, way]: the head on embeddings under this batch-norm mode."""
    if not net.init_stats():
        batch_norm = BatchNorm.transductive  # without batch norm all modes are one, and this is the cheapest
    match batch_norm:
        case BatchNorm.transductive:
            features, query, _ = embed(net, params, support, query_x, query_mask)
        case BatchNorm.inductive:
            stats = net.features(params, support.x, mask=support.mask)[1]
            features, query, _ = embed(net, params, support, query_x, query_mask, stats)
        case BatchNorm.running:
            features, query, _ = embed(net, params, support, query_x, query_mask, buffers)
        case BatchNorm.one_query:
            alone = (embed(net, params, support, query) for query in torch.split(query_x, 1, dim=1))
            return torch.cat([head(features, query) for features, query, _ in alone], 1)
    return head(features, query)


def members(support: Support, way: int) -> Tensor:
    """Which support example is of which class, by its label: [T, S, way] bool; one that is not real is of none.

    `way` is given, not taken from the labels: looking at them would make a GPU wait.
    """
    member = support.y.unsqueeze(-1) == torch.arange(way, device=support.y.device)
    return member if support.mask is None else member & support.mask.unsqueeze(-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2: a [T, Q, F], b [T, N, F] -> [T, Q, N].

    By differences, not by the expansion a^2 - 2ab + b^2, which loses half the digits where the two are close.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
