"""What the algorithms share that compare embeddings: support and query set go through the network together.

Shapes: T tasks, S support examples, Q query examples, F features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params

# (features of the support set [T, S, F], of the query set [T, Q, F]) -> out [T, Q, way].
Head = Callable[[Tensor, Tensor], Tensor]


def init_body(algo: str, net: Net, rng: torch.Generator) -> Params:
    """The network's parameters without those of its head. Raises UserError where the task has no classes."""
    if net.spec.kind != "classes":
        raise UserError(f"algo={algo} compares classes, and this task has values: take task=omniglot or algo=maml")
    return {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}


def embed(
    net: Net, params: Params, support_x: Tensor, query_x: Tensor, stats: Params | None = None
) -> tuple[Tensor, Tensor, Params]:
    """Features [T, S, F] of support_x [T, S, *input] and [T, Q, F] of query_x [T, Q, *input], and the statistics used.

    Without `stats` they are those of support and query together.
    """
    features, used = net.features(params, torch.cat([support_x, query_x], 1), stats)
    support, query = features.tensor_split([support_x.shape[1]], dim=1)
    return support, query, used


def compare(
    head: Head,
    net: Net,
    params: Params,
    buffers: Params,
    support_x: Tensor,
    query_x: Tensor,
    batch_norm: BatchNorm,
) -> Tensor:
    """query_x [T, Q, *input] -> out [T, Q, way]: the head on embeddings under this batch-norm mode."""
    if not net.init_stats():
        batch_norm = BatchNorm.transductive  # without batch norm all modes are one, and this is the cheapest
    match batch_norm:
        case BatchNorm.transductive:
            support, query, _ = embed(net, params, support_x, query_x)
        case BatchNorm.inductive:
            support, query, _ = embed(net, params, support_x, query_x, net.features(params, support_x)[1])
        case BatchNorm.running:
            support, query, _ = embed(net, params, support_x, query_x, buffers)
        case BatchNorm.one_query:
            alone = (embed(net, params, support_x, query) for query in torch.split(query_x, 1, dim=1))
            return torch.cat([head(support, query) for support, query, _ in alone], 1)
    return head(support, query)


def members(y: Tensor, way: int) -> Tensor:
    """Which support example is of which class: labels y [T, S] -> [T, S, way] bool.

    `way` is given, not taken from the labels: looking at them would make a GPU wait.
    """
    return y.unsqueeze(-1) == torch.arange(way, device=y.device)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2: a [T, Q, F], b [T, N, F] -> [T, Q, N].

    By differences, not by the expansion a^2 - 2ab + b^2, which loses half the digits where the two are close.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
