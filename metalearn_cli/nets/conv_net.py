"""What deep convolutional networks share: their parameters by a list of layers, and one way through them.

Shapes: T tasks, B examples per task, C channels; the images of a task [B, C, H, W] lie in channels_last memory.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import PLAIN, Call, Forward, Params
from metalearn_cli.nets.conv_block import fast_norm
from metalearn_cli.nets.convolution import Convolution, convolve
from metalearn_cli.nets.layers import LinearHead, init_linear


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
class TaskPass:
    """One task on its way through a network. `used` fills up with the statistics of each batch norm."""

    params: Params  # [*shape]
    call: Call  # statistics [C], mask [1, B] and noise of this task
    used: Params = field(default_factory=dict)

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """x [B, C, H, W] -> [B, O, ceil(H/stride), ceil(W/stride)] by NAME.weight and, if there is one, NAME.bias."""
        weight = self.params[f"{name}.weight"]
        # With few pixels, a CPU's kernel for channels_last memory is up to four times as slow: it copies the weight.
        is_small = x.device.type == "cpu" and weight.numel() > 2 * x.numel()
        x = x.contiguous(memory_format=torch.contiguous_format if is_small else torch.channels_last)
        y = convolve(weight, x, stride, Convolution.grouped)
        bias = self.params.get(f"{name}.bias")
        return y if bias is None else y + bias.view(1, -1, 1, 1)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Batch norm of x [B, C, H, W] by NAME.weight and NAME.bias."""
        y, stats = fast_norm(self.params, name, x, self.call.stats, self.call.mask)
        self.used.update(stats)
        return y

    def conv_norm(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """The convolution NAME.conv, then the batch norm NAME.norm."""
        return self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride))


class ConvNet(LinearHead):
    """A final class says its layers, and how the images of a task go through them.

    Tasks go one by one: with so many channels a convolution of one task fills the processor, and grouped ones of all
    tasks take longer, as they copy each task's weights into another order.
    """

    end: End

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
    def forward(self, run: TaskPass, x: Tensor) -> Tensor:
        """x [B, C, H, W] of one task -> its last images [B, *map_shape]."""

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

    def maps(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        """x [T, B, C, H, W] -> the last images [T, B, *map_shape], and the statistics used."""
        sizes = {name: len(shape) for name, shape in self.shapes.items()}
        maps, used = [], []
        for images, own, own_call in zip(x, _by_task(params, sizes, len(x)), _calls(call, len(x)), strict=True):
            run = TaskPass(own, own_call)
            maps.append(self.forward(run, images.contiguous(memory_format=torch.channels_last)))
            used.append(run.used)
        if call.stats is not None:
            return torch.stack(maps), call.stats
        return torch.stack(maps), {name: torch.cat([stats[name] for stats in used]) for name in used[0]}

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        maps, used = self.maps(params, x, call)
        return maps.mean((3, 4)) if self.end is End.mean else maps.flatten(2), used


def _calls(call: Call, tasks: int) -> list[Call]:
    """The call of each task."""
    calls = [call] * tasks
    if call.stats is not None:
        calls = [call._replace(stats=stats) for stats in _by_task(call.stats, {}, tasks)]
    if call.mask is not None:
        calls = [own._replace(mask=mask) for own, mask in zip(calls, torch.split(call.mask, 1), strict=True)]
    if call.noise is not None:
        parts = zip(torch.split(call.noise.key, 1), torch.split(call.noise.progress, 1), strict=True)
        noises = [call.noise._replace(key=key, progress=progress) for key, progress in parts]
        calls = [own._replace(noise=noise) for own, noise in zip(calls, noises, strict=True)]
    return calls


def _by_task(values: Params, sizes: dict[str, int], tasks: int) -> list[Params]:
    """[*shape] or [T, *shape] -> of each task [*shape]; `sizes` are the numbers of dimensions of a shape, else 1."""
    own = {
        name: value.unbind() if value.dim() > sizes.get(name, 1) else [value] * tasks for name, value in values.items()
    }
    return [{name: parts[task] for name, parts in own.items()} for task in range(tasks)]
