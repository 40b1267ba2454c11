"""A causal transformer over x_1, y_1, x_2, y_2, ..., in the form of GPT-2.

    token = W_in [x, 0] + b of an input, W_in [y, 0] + b of a value, + the embedding of its place
    layer:  h <- h + attention(LayerNorm(h)),   h <- h + MLP(LayerNorm(h)),   each token sees itself and those before it
    out = W_out LayerNorm(h) + b  of the token of an input

Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei, Ilya Sutskever: "Language Models are Unsupervised
Multitask Learners", 2019, with the numbers at which GPT-2 starts, as transformers' GPT2Model has them: N(0, 0.02^2),
and N(0, 0.02^2 / (2 L)) where L layers add to h.

Shapes: T tasks, S points of the context, Q targets, N = 2 S + Q tokens, F features and V values of a point, W width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.layers import init_linear, linear
from metalearn_cli.nets.sequence import Order, order_of
from metalearn_cli.nets.set_net import Context, ContextNet, attend, normed

_STD = 0.02


@dataclass(frozen=True)
class CausalTransformer(ContextNet):
    targets: int  # V
    outputs: int
    width: int  # W
    layers: int
    heads: int
    points: int  # of the longest sequence

    def init(self, features: int, rng: torch.Generator) -> Params:
        width, added = self.width, _STD / math.sqrt(2 * self.layers)
        params = {"sequence:place.weight": _STD * torch.randn(2 * self.points, width, generator=rng)}
        for name, inputs, outputs in (("in", max(features, self.targets), width), ("out", width, self.outputs)):
            weight, bias = init_linear(inputs, outputs, None, rng)
            params |= {f"sequence:{name}.weight": weight, f"sequence:{name}.bias": bias}
        for layer in range(self.layers):
            parts = [(name, width, width, _STD) for name in ("query", "key", "value")]
            parts += [("attended", width, width, added), ("mlp0", width, 4 * width, _STD)]
            for name, inputs, outputs, std in (*parts, ("mlp1", 4 * width, width, added)):
                params[f"sequence:layer{layer}.{name}.weight"] = std * torch.randn(outputs, inputs, generator=rng)
                params[f"sequence:layer{layer}.{name}.bias"] = torch.zeros(outputs)
        norms = [f"layer{layer}.norm{part}" for layer in range(self.layers) for part in range(2)]
        for name in (*norms, "norm"):
            params |= {f"sequence:{name}.weight": torch.ones(width), f"sequence:{name}.bias": torch.zeros(width)}
        return params

    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        return self._out(params, context, x)[:, 2 * context.x.shape[1] :]

    def along(self, params: Params, context: Context) -> Tensor:
        """Out [T, S, outputs] of each point of the context given those before it."""
        return self._out(params, context, context.x[:, :0])[:, : context.x.shape[1]]

    def _out(self, params: Params, context: Context, x: Tensor) -> Tensor:
        """Out [T, N, outputs] of all tokens: S inputs, S values, and Q targets x [T, Q, F]."""
        shot = context.x.shape[1]
        if (number := shot + min(x.shape[1], 1)) > self.points:
            raise UserError(f"algo.points={self.points} is the longest sequence, and this task has {number} points")
        points, is_seen = order_of(context, x.shape[1])
        place = torch.cat([2 * points[:, :shot], 2 * points[:, :shot] + 1, 2 * points[:, shot:]], 1)
        sees = Order(place, torch.cat([is_seen[:, :shot], is_seen], 1)).sees()
        wide = params["sequence:in.weight"].shape[1]
        tokens = torch.cat([F.pad(part, (0, wide - part.shape[-1])) for part in (context.x, context.y, x)], 1)
        h = linear(params, "sequence:in", tokens) + F.embedding(place, params["sequence:place.weight"])
        for layer in range(self.layers):
            h = self._layer(params, f"sequence:layer{layer}", h, sees)
        return linear(params, "sequence:out", normed(params, "sequence:norm", h))

    def _layer(self, params: Params, name: str, h: Tensor, sees: Tensor) -> Tensor:
        """h [T, N, W] -> [T, N, W]; sees is [T or 1, N, N]."""
        seen = normed(params, f"{name}.norm0", h)
        query, key, value = (linear(params, f"{name}.{part}", seen) for part in ("query", "key", "value"))
        h = h + linear(params, f"{name}.attended", attend(query, key, value, self.heads, sees))
        hidden = F.gelu(linear(params, f"{name}.mlp0", normed(params, f"{name}.norm1", h)), approximate="tanh")
        return h + linear(params, f"{name}.mlp1", hidden)
