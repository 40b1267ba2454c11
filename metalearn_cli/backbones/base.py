"""A network that comes with weights, as a module of its own: pictures in, features out.

Its batch norm is a fixed affine map, with the statistics that its author gives it, whether the network is trained
further or not: they belong to the weights as the weights do.

Shapes: B pictures, H x W pixels, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metalearn_cli.errors import UserError

Colour = tuple[float, ...]  # red, green and blue


@dataclass(frozen=True)
class Backbone:
    """A network that comes with weights, and the pictures that it wants."""

    name: str  # as model.name has it
    about: str  # what it is and was trained on
    licence: str  # of the weights; "not stated"
    sha256: str  # of the weights' file; of timm's networks, of the weights themselves
    size: int  # pixels a side
    mean: Colour  # what is subtracted from a picture in 0..1, before it is divided by `std`
    std: Colour
    resample: str  # how a picture of another size gets this one, as Pillow names it
    features: int  # F
    imagenet: bool  # whether it was trained on ImageNet-1k, or a file does not say that it was not
    make: Callable[[], nn.Module] | Path  # the network with its weights, normalised pictures to [B, F]; or an ONNX file


class FixedNorm(nn.Module):
    """Batch norm with statistics that stay: an affine map of each channel. timm's layers activate what comes out."""

    mean: Tensor
    var: Tensor

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        if layer.running_mean is None or layer.running_var is None:
            raise UserError("a batch norm of this network keeps no statistics: take another network")
        self.eps, self.weight, self.bias = layer.eps, layer.weight, layer.bias
        self.register_buffer("mean", layer.running_mean.detach().clone())
        self.register_buffer("var", layer.running_var.detach().clone())
        self.act = getattr(layer, "act", nn.Identity())

    def map(self) -> tuple[Tensor, Tensor]:
        """Factor and summand of each channel, [C]."""
        scale = torch.rsqrt(self.var + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        return scale, -self.mean * scale if self.bias is None else self.bias - self.mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> the same shape."""
        scale, shift = self.map()
        shape = [-1] + [1] * (x.dim() - 2)
        out: Tensor = self.act(torch.addcmul(shift.view(shape), x, scale.view(shape)))
        return out


class Normalised(nn.Module):
    """A network that gets its pictures in 0..1."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1 -> [B, F]."""
        out: Tensor = self.net((x - self.mean) / self.std)
        return out


def module_of(backbone: Backbone) -> Normalised:
    """The network with its weights, pictures [B, 3, H, W] in 0..1 -> features [B, F], the same in training mode and
    in eval(). Raises UserError for an ONNX file, through which nothing can be trained."""
    if isinstance(backbone.make, Path):
        raise UserError(f"model.name={backbone.name} is an ONNX file, which cannot be trained: give model.frozen=true")
    return Normalised(_fixed(backbone.make()), backbone.mean, backbone.std)


def _fixed(net: nn.Module) -> nn.Module:
    """The network with each batch norm replaced, in place."""
    for path, layer in list(net.named_modules()):
        if isinstance(layer, _BatchNorm):
            parent, _, attribute = path.rpartition(".")
            setattr(net.get_submodule(parent), attribute, FixedNorm(layer))
    return net
