"""The network of Transformer Neural Processes: targets that look at the context, and at earlier targets if asked.

    token of a point = embedding(x, y) of the context, embedding(x, 0) of a target
    layer:  context <- attention to the context,   target <- attention to the context
    out = predictor(target)

With the values of earlier targets, each of these is a further token embedding(x, y). It looks at the context, at those
before it and at itself, and a target at the context and at the tokens of the targets before it.

Shapes: T tasks, S points of the context, Q targets, F features and V values of a point, W width, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.set_net import Context, ContextNet, attention_layer, chain, init_attention, init_chain


@dataclass(frozen=True)
class Transformer(ContextNet):
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
        parts = [context] if earlier is None else [context, earlier]
        points = torch.cat([torch.cat([part.x, part.y], -1) for part in parts], 1)
        asked = torch.cat([x, x.new_zeros(*x.shape[:2], self.targets)], -1)
        tokens, known = chain(params, "set:embed", torch.cat([points, asked], 1)), points.shape[1]
        sight = sights(context, earlier)
        for layer in range(self.layers):
            # The last layer is for the targets alone.
            first = known if layer == self.layers - 1 else 0
            sees = sight if sight is None or sight.shape[1] == 1 else sight[:, first:]
            seen = tokens[:, :known]
            tokens = attention_layer(params, f"set:layer{layer}", self.heads, tokens[:, first:], seen, seen, sees)
        return tokens


def sights(context: Context, earlier: Context | None) -> Tensor | None:
    """Which of the context and the earlier targets each token sees, [T, 1 or rows, S or S + Q] bool: the real points of
    the context, and earlier targets where they have tokens. None: each sees all."""
    if earlier is None:
        return None if context.mask is None else context.mask.unsqueeze(1)
    shot, queries, device = context.x.shape[1], earlier.x.shape[1], context.x.device
    masks = [
        torch.ones(part.x.shape[:2], dtype=torch.bool, device=device) if part.mask is None else part.mask
        for part in (context, earlier)
    ]
    real = torch.cat(masks, 1).unsqueeze(1)  # [T, 1, S + Q]
    place = torch.arange(shot + queries, device=device)
    end = torch.cat([place + 1, place[shot:]]).unsqueeze(1)  # an earlier target sees itself, a target does not
    return real & ((place < shot) | (place < end))
