"""The network of SNAIL: causal attention and dilated causal convolutions by turns, each beside what it read.

    attention block (K, V):   h <- [h, softmax(q k' / sqrt(K)) v]                       q, k of K and v of V numbers
    temporal block (D):       h <- [h, tanh(a) * sigmoid(g)],  a, g = A h_i + B h_(i - d) + b,  for d = 1, 2, 4, ...
    h = [x, y] of a point of the context, [x, 0] of a target;  out = W h + b after attention (2 U, U), temporal (4 U),
    attention (8 U, 4 U), temporal (4 U), attention (16 U, 8 U)

The attention of a point is over itself and those before it. U = 32 has the paper's sizes.

Shapes: T tasks, S points of the context, Q targets, N = S + Q, F features and V values of a point, C channels, U width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.layers import init_linear, linear
from metalearn_cli.nets.sequence import order_of
from metalearn_cli.nets.set_net import Context, ContextNet, attend

_KEYS, _FILTERS = (2, 8, 16), 4  # times U; an attention's values are half as many numbers as its keys


@dataclass(frozen=True)
class SnailNet(ContextNet):
    targets: int  # V
    outputs: int
    width: int  # U
    layers: int  # of a temporal block: distances 1, 2, 4, ..., 2 ** (layers - 1)

    def init(self, features: int, rng: torch.Generator) -> Params:
        params, channels, filters = dict[str, Tensor](), features + self.targets, _FILTERS * self.width
        for block, factor in enumerate(_KEYS):
            keys, values = factor * self.width, factor * self.width // 2
            for part, size in (("query", keys), ("key", keys), ("value", values)):
                params |= _linear(f"sequence:attention{block}.{part}", channels, size, rng)
            channels += values
            for layer in range(self.layers if factor != _KEYS[-1] else 0):
                name = f"sequence:temporal{block}.{layer}"
                params |= _linear(f"{name}.here", channels, 2 * filters, rng)
                params[f"{name}.before.weight"] = init_linear(channels, 2 * filters, None, rng)[0]
                channels += filters
        return params | _linear("sequence:out", channels, self.outputs, rng)

    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        target = torch.cat([x, x.new_zeros(*x.shape[:2], self.targets)], -1)
        h = torch.cat([torch.cat([context.x, context.y], -1), target], 1)
        order = order_of(context, x.shape[1])
        sees, before = order.sees(), [order.before(2**layer).to(h.dtype) for layer in range(self.layers)]
        for block in range(len(_KEYS)):
            name = f"sequence:attention{block}"
            query, key, value = (linear(params, f"{name}.{part}", h) for part in ("query", "key", "value"))
            h = torch.cat([h, attend(query, key, value, 1, sees)], -1)
            for layer in range(self.layers if block < len(_KEYS) - 1 else 0):
                name = f"sequence:temporal{block}.{layer}"
                both = linear(params, f"{name}.here", h) + before[layer] @ linear(params, f"{name}.before", h)
                added, gate = both.chunk(2, -1)
                h = torch.cat([h, added.tanh() * gate.sigmoid()], -1)
        return linear(params, "sequence:out", h[:, context.x.shape[1] :])


def _linear(name: str, inputs: int, outputs: int, rng: torch.Generator) -> Params:
    weight, bias = init_linear(inputs, outputs, None, rng)
    return {f"{name}.weight": weight, f"{name}.bias": bias}
