"""The second kind of network: of a context and targets, to outputs of each target.

It knows an example by its features, and so a network for pictures may stand before it. What all of them are made of is
here: chains of layers, attention, and means over sets. Those for which the order counts share sequence.py too.

Shapes: T tasks, S points of the context, Q targets, F features of a point, V values of a point, W width, H heads.
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.layers import init_linear, linear


class Context(NamedTuple):
    """What is known of T tasks."""

    x: Tensor  # [T, S, F]
    y: Tensor  # [T, S, V]
    mask: Tensor | None = None  # [T, S] bool: True for real points; None: all are real


class ContextNet(ABC):
    """A final class is a frozen dataclass of sizes. It holds no parameters, and all tasks share those that it is given.

    Points that are not real change nothing; over a set neither does the order of the context, over a sequence it does.
    """

    targets: int  # V
    outputs: int  # of the network for each target

    @abstractmethod
    def init(self, features: int, rng: torch.Generator) -> Params:
        """Fresh parameters for points of F = `features`, float32 on the CPU, named "set:*" or "sequence:*"."""

    @abstractmethod
    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        """x [T, Q, F] of the targets -> out [T, Q, outputs], each by itself."""


def init_chain(name: str, widths: list[int], rng: torch.Generator) -> Params:
    """Linear layers NAME0, NAME1, ... from each width to the next, with torch's start."""
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        params[f"{name}{layer}.weight"], params[f"{name}{layer}.bias"] = init_linear(inputs, outputs, None, rng)
    return params


def chain(params: Params, name: str, x: Tensor, first: int = 0) -> Tensor:
    """The layers NAME`first` and so on, with ReLU between them: [..., inputs] -> [..., outputs]."""
    x = linear(params, f"{name}{first}", x)
    return chain(params, name, x.relu(), first + 1) if f"{name}{first + 1}.weight" in params else x


def init_attention(name: str, width: int, hidden: int, rng: torch.Generator) -> Params:
    """The parameters of `attention_layer`. Keys, values and queries have no bias: a key's changes nothing."""
    params = init_chain(f"{name}.out", [width, width], rng) | init_chain(f"{name}.mlp", [width, hidden, width], rng)
    for part in ("query", "key", "value"):
        params[f"{name}.{part}.weight"] = init_linear(width, width, None, rng)[0]
    for part in ("norm0", "norm1"):
        params |= {f"{name}.{part}.weight": torch.ones(width), f"{name}.{part}.bias": torch.zeros(width)}
    return params


def attention_layer(
    params: Params, name: str, heads: int, query: Tensor, key: Tensor, value: Tensor, sees: Tensor | None
) -> Tensor:
    """h = LayerNorm(query + attention), LayerNorm(h + MLP(h)): query [T, Q, W], key and value [T, S, W], sees [T or 1,
    Q or 1, S] bool (None: each sees all) -> [T, Q, W]."""
    query_of, key_of, value_of = (
        linear(params, f"{name}.{part}", x) for part, x in (("query", query), ("key", key), ("value", value))
    )
    seen = attend(query_of, key_of, value_of, heads, sees)
    h = normed(params, f"{name}.norm0", query + chain(params, f"{name}.out", seen))
    return normed(params, f"{name}.norm1", h + chain(params, f"{name}.mlp", h))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, sees: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(W / H)) v of each head, side by side: [T, Q, W] and twice [T, S, W] -> [T, Q, W]."""
    # [T, H, Q or S, W / H]
    q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value))
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if sees is not None:
        scores = scores.masked_fill(~sees.unsqueeze(1), torch.finfo(scores.dtype).min)
    seen: Tensor = scores.softmax(-1) @ v
    return seen.transpose(1, 2).flatten(2)


def mean_of_set(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the real points: [T, S, W], mask [T, S] -> [T, 1, W]."""
    if mask is None:
        return values.mean(1, keepdim=True)
    return values.where(mask.unsqueeze(-1), 0).sum(1, keepdim=True) / mask.sum(1).view(-1, 1, 1)


def normed(params: Params, name: str, x: Tensor) -> Tensor:
    """LayerNorm of [..., W] with the weight and bias of this name."""
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.weight"], params[f"{name}.bias"])
