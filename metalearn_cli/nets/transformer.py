"""The network of Transformer Neural Processes: targets that look at the context, and at earlier targets if asked.

    token of a point = embedding(x, y) of the context, embedding(x, 0) of a target
    layer:  context <- attention to the context,   target <- attention to the context
    out = predictor(target)

With the values of earlier targets, each of these is a further token embedding(x, y). It looks at the context, at those
before it and at itself, and a target at the context and at the tokens of the targets before it.

Shapes: T tasks, S points of the context, Q targets, F features and V values of a point, W width, R rank.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.set_net import Context, SetNet, attention_layer, chain, init_attention, init_chain


class Sight(NamedTuple):
    """Which tokens of context and earlier targets are seen, [T, rows, S or S + Q] bool each; None: all are."""

    by_known: Tensor | None  # one row for each of them
    by_target: Tensor | None  # a row for each target, or one for all


@dataclass(frozen=True)
class Transformer(SetNet):
    targets: int  # V
    outputs: int
    width: int  # W
    layers: int
    heads: int
    hidden: int  # of the MLPs after an attention, and before the outputs
    embedding_layers: int
    rank: int = 0  # R; 0: no factors

    def init(self, features: int, rng: torch.Generator) -> Params:
        width, hidden = self.width, self.hidden
        params = init_chain("set:embed", [features + self.targets, *[width] * self.embedding_layers], rng)
        for layer in range(self.layers):
            params |= init_attention(f"set:layer{layer}", width, hidden, rng)
        if self.rank:
            params |= init_chain("set:factor", [width, hidden, hidden, hidden, self.rank * self.targets], rng)
        return params | init_chain("set:predict", [width, hidden, self.outputs], rng)

    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        return self.predict(params, self.tokens(params, context, x))

    def predict(self, params: Params, tokens: Tensor) -> Tensor:
        """The tokens of targets [T, Q, W] -> out [T, Q, outputs]."""
        return chain(params, "set:predict", tokens)

    def factors(self, params: Params, tokens: Tensor) -> Tensor:
        """The tokens of targets [T, Q, W] -> what they depend on each other by, [T, Q, V, R]."""
        return chain(params, "set:factor", tokens).view(*tokens.shape[:2], self.targets, self.rank)

    def after_earlier(self, params: Params, context: Context, targets: Context) -> Tensor:
        """Out [T, Q, outputs] of each target given the context and the values of the targets before it."""
        return self.predict(params, self.tokens(params, context, targets.x, targets))

    def tokens(self, params: Params, context: Context, x: Tensor, earlier: Context | None = None) -> Tensor:
        """x [T, Q, F] -> [T, Q, W]; `earlier` are the same targets with their values."""
        known = [context] if earlier is None else [context, earlier]
        points = torch.cat([torch.cat([part.x, part.y], -1) for part in known], 1)
        of_known = chain(params, "set:embed", points)
        target = chain(params, "set:embed", torch.cat([x, x.new_zeros(*x.shape[:2], self.targets)], -1))
        sight = sights(context, earlier)
        for layer in range(self.layers):
            name = f"set:layer{layer}"
            target = attention_layer(params, name, self.heads, target, of_known, of_known, sight.by_target)
            if layer < self.layers - 1:
                of_known = attention_layer(params, name, self.heads, of_known, of_known, of_known, sight.by_known)
        return target


def sights(context: Context, earlier: Context | None) -> Sight:
    """What tokens see: the real points of the context, and earlier targets where they have tokens."""
    if earlier is None:
        mask = None if context.mask is None else context.mask.unsqueeze(1)
        return Sight(mask, mask)
    shot, device = context.x.shape[1], context.x.device
    masks = [
        torch.ones(part.x.shape[:2], dtype=torch.bool, device=device) if part.mask is None else part.mask
        for part in (context, earlier)
    ]
    real = torch.cat(masks, 1).unsqueeze(1)  # [T, 1, S + Q]
    place = torch.arange(real.shape[-1], device=device)
    is_context, row = place < shot, place.unsqueeze(1)
    return Sight(real & (is_context | (place <= row)), real & (is_context | (place < row[shot:])))
