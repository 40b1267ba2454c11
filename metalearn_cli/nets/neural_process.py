"""The network of neural processes: a mean over the context, or attention to it, and a latent variable of the task.

    r = path(context)                    a mean over points, or for each target an attention to them (`attention`)
    m, s = latent(context)               of z ~ N(m, s^2),  s = 0.1 + 0.9 sigmoid;  without `latent` z = m
    out = decoder(r, z, x)               of each target x

The two paths look alike, so that without a latent variable it is a network with two encoders side by side, as the code
of Transformer Neural Processes has it (see algorithms/neural_process.py).

Shapes: T tasks, S points of the context, Q targets, F features and V values of a point, W width, Z samples of z.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.set_net import (
    Context,
    ContextNet,
    attention_layer,
    chain,
    init_attention,
    init_chain,
    mean_of_set,
)


class Latent(NamedTuple):
    """The distribution of z."""

    mean: Tensor  # [T, 1, W]
    deviation: Tensor | None  # [T, 1, W]; None: z is the mean


@dataclass(frozen=True)
class NeuralProcessNet(ContextNet):
    targets: int  # V
    outputs: int
    width: int  # W
    layers: int  # of the encoder of a point; with attention two of them are a layer of self-attention
    decoder_layers: int
    attention: bool
    latent: bool
    heads: int

    def init(self, features: int, rng: torch.Generator) -> Params:
        width, params = self.width, dict[str, Tensor]()
        for path in ("set:path", "set:latent"):
            layers = self.layers - 2 * self.attention
            params |= init_chain(f"{path}.point", [features + self.targets, *[width] * layers], rng)
            if self.attention:
                params |= init_attention(f"{path}.self", width, width, rng)
        params |= init_chain("set:latent.pooled", [width, width, width * (1 + self.latent)], rng)
        if self.attention:
            params |= init_chain("set:path.place", [features, width, width], rng)
            params |= init_attention("set:path.cross", width, width, rng)
        else:
            params |= init_chain("set:path.pooled", [width, width, width], rng)
        hidden = [width] * (self.decoder_layers - 1)
        return params | init_chain("set:decoder", [2 * width + features, *hidden, self.outputs], rng)

    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        return self.decode(params, context, self.latent_of(params, context).mean, x).squeeze(2)

    def latent_of(self, params: Params, context: Context) -> Latent:
        """The distribution of z given this context."""
        pooled = mean_of_set(self._points(params, "set:latent", context), context.mask)
        out = chain(params, "set:latent.pooled", pooled)
        if not self.latent:
            return Latent(out, None)
        mean, raw = out.chunk(2, -1)
        return Latent(mean, 0.1 + 0.9 * raw.sigmoid())

    def decode(self, params: Params, context: Context, z: Tensor, x: Tensor) -> Tensor:
        """z [T, Z, W], x [T, Q, F] -> out [T, Q, Z, outputs]."""
        points = self._points(params, "set:path", context)
        if self.attention:
            sees = None if context.mask is None else context.mask.unsqueeze(1)
            query, key = (chain(params, "set:path.place", places) for places in (x, context.x))
            path = attention_layer(params, "set:path.cross", self.heads, query, key, points, sees)
        else:
            path = chain(params, "set:path.pooled", mean_of_set(points, context.mask))
        # The first layer of each part by itself: a target and a sample of z then meet in a sum.
        weights = torch.split(params["set:decoder0.weight"], [self.width, self.width, x.shape[-1]], 1)
        of_path, of_z, of_x = (F.linear(part, weight) for part, weight in zip((path, z, x), weights, strict=True))
        hidden = (of_path + of_x + params["set:decoder0.bias"]).unsqueeze(2) + of_z.unsqueeze(1)
        return chain(params, "set:decoder", hidden.relu(), 1)

    def _points(self, params: Params, path: str, context: Context) -> Tensor:
        """Each point of the context [T, S, W], with attention in sight of the others."""
        points = chain(params, f"{path}.point", torch.cat([context.x, context.y], -1))
        if not self.attention:
            return points
        sees = None if context.mask is None else context.mask.unsqueeze(1)
        return attention_layer(params, f"{path}.self", self.heads, points, points, points, sees)
