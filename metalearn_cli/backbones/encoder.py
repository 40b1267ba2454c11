"""Features of pictures by a network that stays as it is, tuned for the processor.

Shapes: n pictures, C channels, h x w pixels as they come, F features.
"""

import copy
import itertools
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalearn_cli.backbones.base import Backbone, FixedNorm, module_of
from metalearn_cli.backbones.onnx_file import exported, running

Encoder = Callable[[Tensor], Tensor]
# Pixels that go through a network at once. With more, what stands between its layers leaves the caches.
_AT_ONCE = 1 << 18


class Runtime(Enum):
    """What computes the features."""

    torch = auto()
    onnx = auto()  # onnxruntime


def encoder_of(backbone: Backbone, runtime: Runtime = Runtime.torch) -> Encoder:
    """What makes features of pictures: [n, 3 or 1, h, w] uint8 of any size -> [n, F] float32 on the CPU."""
    net: Encoder = _tuned(backbone) if runtime is Runtime.torch and callable(backbone.make) else _running(backbone)
    step = max(1, _AT_ONCE // backbone.size**2)

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        features = torch.zeros(len(pictures), backbone.features)
        for start in range(0, len(pictures), step):
            part = in_size(pictures[start : start + step], backbone.size, backbone.resample)
            features[start : start + step] = net(part.float().div_(255))
        return features

    return encode


def in_size(pictures: Tensor, size: int, resample: str) -> Tensor:
    """[n, 3 or 1, h, w] uint8 -> [n, 3, size, size] uint8, without regard to proportions, as Pillow does it."""
    if pictures.shape[2:] != (size, size):
        pictures = F.interpolate(pictures, (size, size), mode=resample, align_corners=False, antialias=True)
    return pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _running(backbone: Backbone) -> Encoder:
    """The network as onnxruntime computes it, pictures [n, 3, size, size] in 0..1 -> [n, F]."""
    if isinstance(backbone.make, Path):
        path = backbone.make
    else:
        path = exported(module_of(backbone).net.eval(), backbone.size, backbone.sha256)
    run = running(path)
    mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (backbone.mean, backbone.std))
    return lambda x: run((x - mean) / std)


@torch.no_grad()
def _tuned(backbone: Backbone) -> nn.Module:
    """The network as a CPU computes it fastest: channels last, and batch norm in the weights of the convolution before
    it, where the features show that it is the one."""
    net: nn.Module = module_of(backbone).eval()
    folded = _folded(copy.deepcopy(net))
    x = torch.rand(2, 3, backbone.size, backbone.size, generator=torch.Generator())
    before, after = net(x), folded(x)
    if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * before.abs().max().item()):
        net = folded
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return net


def _folded(net: nn.Module) -> nn.Module:
    """The network with each batch norm in the weights of the convolution that stands before it, in place."""
    layers = list(net.named_modules())
    for (_, conv), (path, norm) in itertools.pairwise(layers):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, FixedNorm) and conv.out_channels == len(norm.mean):
            scale, shift = norm.map()
            bias = shift if conv.bias is None else conv.bias * scale + shift
            conv.weight, conv.bias = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1)), nn.Parameter(bias)
            parent, _, attribute = path.rpartition(".")
            setattr(net.get_submodule(parent), attribute, norm.act)
    return net
