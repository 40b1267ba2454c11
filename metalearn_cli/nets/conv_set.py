"""The network of convolutional conditional neural processes: from a set to a grid, convolutions, and back.

    density(g) = sum_i k(g - x_i),   value(g) = sum_i k(g - x_i) y_i / density(g)      of the context, at grid points g
    f = CNN(density, value),         out(x) = sum_g k'(x - g) f(g) / sum_g k'(x - g)   at each target x
    k(d) = exp(-|d|^2 / (2 l^2)),    with a learned length l of its own for k and k'

The grid depends on no values: it has so many points a unit, from a margin below the range of the inputs to one above.
By multiples of its spacing a translation of all inputs moves the prediction, but near the ends of the grid. With two
inputs it is a square. Points far outside it are not seen.

Shapes: T tasks, S points of the context, Q targets, V values of a point, C channels, G grid points of the first input
and H of the second (1 without one), O outputs.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.layers import init_linear
from metalearn_cli.nets.set_net import Context, ContextNet

EPSILON = 1e-8  # a density as low as this one is that of no point
MARGIN = 0.1  # of the grid beyond the range of the inputs
SPACINGS = 1  # of the grid in l, as training begins


@dataclass(frozen=True)
class ConvSetNet(ContextNet):
    targets: int  # V
    outputs: int  # O
    low: float  # the range of the inputs
    high: float
    points_per_unit: float
    width: int
    layers: int
    kernel: int

    @property
    def points(self) -> int:
        """G."""
        return math.ceil((self.high - self.low + 2 * MARGIN) * self.points_per_unit) + 1

    def init(self, features: int, rng: torch.Generator) -> Params:
        if features not in (1, 2):
            raise UserError(
                f"algo=convcnp has a grid of one or two inputs, and this task's examples have {features}: take "
                "task=gaussian_process, or algo=cnp"
            )
        length = torch.full((1,), math.log(SPACINGS / self.points_per_unit))
        params = {"set:encode.log_length": length, "set:decode.log_length": length.clone()}
        params |= _init_mix("set:first", 1 + self.targets, self.width, rng)
        shape = (self.width, 1, self.kernel, self.kernel if features == 2 else 1)
        for layer in range(self.layers):
            weight, _ = init_linear(shape[2] * shape[3], self.width, None, rng)
            params[f"set:layer{layer}.depthwise.weight"] = weight.view(shape)
            params |= _init_mix(f"set:layer{layer}", self.width, self.width, rng)
        return params | _init_mix("set:head", self.width, self.outputs, rng)

    def __call__(self, params: Params, context: Context, x: Tensor) -> Tensor:
        return self.decode(params, self.convolve(params, self.encode(params, context)), x)

    def encode(self, params: Params, context: Context) -> Tensor:
        """The density of the context and its values on the grid, [T, 1 + V, G, H]."""
        signal = torch.cat([torch.ones_like(context.y[..., :1]), context.y], -1)
        if context.mask is not None:
            signal = signal.where(context.mask.unsqueeze(-1), 0)
        rows, columns = self._kernels(params["set:encode.log_length"], context.x)
        spread = (rows.unsqueeze(-1) * signal.unsqueeze(2)).flatten(2)  # [T, S, G (1 + V)]
        grid = (spread.mT @ columns).view(len(signal), self.points, -1, columns.shape[-1]).transpose(1, 2)
        density, values = grid[:, :1], grid[:, 1:]
        return torch.cat([density, values / (density + EPSILON)], 1)

    def convolve(self, params: Params, grid: Tensor) -> Tensor:
        """Layers of h + mix(depthwise(relu(h))): [T, 1 + V, G, H] -> [T, O, G, H]."""
        h = _mix(params, "set:first", grid)
        for layer in range(self.layers):
            weight = params[f"set:layer{layer}.depthwise.weight"]
            padding = [side // 2 for side in weight.shape[2:]]
            h = h + _mix(params, f"set:layer{layer}", F.conv2d(h.relu(), weight, padding=padding, groups=self.width))
        return F.conv2d(h.relu(), params["set:head.weight"][..., None, None])

    def decode(self, params: Params, grid: Tensor, x: Tensor) -> Tensor:
        """grid [T, O, G, H], x [T, Q, 1 or 2] -> out [T, Q, O]."""
        rows, columns = self._kernels(params["set:decode.log_length"], x)
        by_row = (rows @ grid.transpose(1, 2).flatten(2)).view(*x.shape[:2], self.outputs, -1)  # [T, Q, O, H]
        total = rows.sum(-1, keepdim=True) * columns.sum(-1, keepdim=True)
        out: Tensor = (by_row @ columns.unsqueeze(-1)).squeeze(-1) / (total + EPSILON) + params["set:head.bias"]
        return out

    def _kernels(self, log_length: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two factors of k between points x [T, B, 1 or 2] and the grid, [T, B, G] and [T, B, H]."""
        start = self.low - MARGIN
        grid = start + torch.arange(self.points, dtype=x.dtype, device=x.device) / self.points_per_unit
        rows, *columns = (
            (-0.5 * ((x[..., i : i + 1] - grid) / log_length.exp()).square()).exp() for i in range(x.shape[-1])
        )
        return rows, columns[0] if columns else torch.ones_like(x)


def _init_mix(name: str, inputs: int, outputs: int, rng: torch.Generator) -> Params:
    weight, bias = init_linear(inputs, outputs, None, rng)
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _mix(params: Params, name: str, x: Tensor) -> Tensor:
    """A linear layer at each point of a grid: [T, inputs, G, H] -> [T, outputs, G, H]."""
    return F.conv2d(x, params[f"{name}.weight"][..., None, None], params[f"{name}.bias"])
