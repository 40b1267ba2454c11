"""What deep convolutional networks share: their parameters by a list of layers, and one way through them.

Shapes: T tasks, B examples per task, C channels. Images are folded, [B, T*C, H, W] in channels_last memory.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Forward, Net, Params
from metalearn_cli.nets.convolution import Convolution, convolve, tasks_of
from metalearn_cli.nets.layers import batch_norm, fold, init_linear, linear, to_tasks
from metalearn_cli.nets.noise import Noise


class End(Enum):
    mean = "mean"  # features: the mean over the last image
    flat = "flat"  # all its pixels


class ConvSize(NamedTuple):
    """A convolution of k x k pixels."""

    inputs: int
    outputs: int
    kernel: int = 3
    bias: bool = False


@dataclass(frozen=True)
class Pass:
    """A forward under way. `used` fills up with the statistics of each batch norm."""

    params: Params
    tasks: int
    stats: Params | None
    mask: Tensor | None
    way: Convolution
    noise: Noise | None = None
    used: Params = field(default_factory=dict)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """x [B, T*C, H, W] -> [B, T*O, ceil(H/stride), ceil(W/stride)]: NAME.weight and, if there is one, NAME.bias."""
        weight, bias = self.params[f"{name}.weight"], self.params.get(f"{name}.bias")
        y = convolve(weight, x, stride, self.way)
        return y if bias is None else y + to_tasks(bias, tasks_of(weight, x)).reshape(1, -1, 1, 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch norm of x [B, T*C, H, W] by NAME.weight and NAME.bias."""
        y, stats = batch_norm(self.params, name, x, self.tasks, self.stats, self.mask)
        self.used.update(stats)
        return y

    def conv_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """The convolution NAME.conv, then the batch norm NAME.norm."""
        return self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride))


class ConvNet(Net):
    """A final class says its layers, and how an image goes through them."""

    end: End
    convolution: Convolution

    @property
    @abstractmethod
    def convs(self) -> dict[str, ConvSize]:
        """The convolutions by name, in the order in which they are drawn."""

    @property
    @abstractmethod
    def norms(self) -> dict[str, int]:
        """The channels of each batch norm, by name."""

    @property
    @abstractmethod
    def map_shape(self) -> tuple[int, int, int]:
        """[C, H, W] of the last image."""

    @abstractmethod
    def forward(self, run: Pass, x: Tensor) -> Tensor:
        """x [B, T*C, H, W] -> the last image, folded likewise."""

    def require_images(self, model: str, smallest: int) -> None:
        """Raises UserError where examples are no images of at least so many pixels a side."""
        shape = list(self.spec.input_shape)
        if len(shape) != 3:
            raise UserError(f"model={model} needs images, and this task's examples have shape {shape}: take model=mlp")
        if min(shape[1:]) < smallest:
            raise UserError(
                f"model={model} needs images of {smallest}x{smallest} or more, and this task's are "
                f"{shape[1]}x{shape[2]}: take model=conv4"
            )

    @property
    def feature_count(self) -> int:
        channels, height, width = self.map_shape
        return channels * (1 if self.end is End.mean else height * width)

    def init(self, rng: torch.Generator) -> Params:
        """Draw convolutions of variance 2 / (k*k*outputs) (He et al. 2015, arXiv 1502.01852, equation 14)."""
        params: Params = {}
        for name, (inputs, outputs, kernel, bias) in self.convs.items():
            std = math.sqrt(2 / (kernel**2 * outputs))
            params[f"{name}.weight"] = std * torch.randn(outputs, inputs, kernel, kernel, generator=rng)
            if bias:
                params[f"{name}.bias"] = torch.zeros(outputs)
        for name, channels in self.norms.items():
            params |= {f"{name}.weight": torch.ones(channels), f"{name}.bias": torch.zeros(channels)}
        params["head.weight"], params["head.bias"] = init_linear(self.feature_count, self.spec.outputs, None, rng)
        return params

    def init_stats(self) -> Params:
        means = {f"{name}.mean": torch.zeros(channels) for name, channels in self.norms.items()}
        return means | {f"{name}.var": torch.ones(channels) for name, channels in self.norms.items()}

    def maps(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        """x [T, B, C, H, W] -> the last image [T, B, *map_shape], and the statistics used."""
        run = Pass(params, len(x), stats, mask, self.convolution)
        y = self.forward(run, fold(x))
        return y.view(len(y), len(x), -1, *y.shape[2:]).transpose(0, 1), run.used

    def features(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        maps, used = self.maps(params, x, stats, mask)
        return maps.mean((3, 4)) if self.end is End.mean else maps.flatten(2), used

    def __call__(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        features, used = self.features(params, x, stats, mask)
        return linear(params, "head", features), used
