"""Features of pictures by a network that stays as it is, tuned for the processor.

Shapes: n pictures, C channels, h x w pixels as they come, F features.
"""

from collections.abc import Callable
from enum import Enum, auto

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.backbones.base import Backbone, module_of

Encoder = Callable[[Tensor], Tensor]
_AT_ONCE = 16  # pictures


class Runtime(Enum):
    """What computes the features."""

    torch = auto()
    onnx = auto()  # onnxruntime


def encoder_of(backbone: Backbone, runtime: Runtime = Runtime.torch) -> Encoder:
    """What makes features of pictures: [n, 3 or 1, h, w] uint8 of any size -> [n, F] float32 on the CPU."""
    net = module_of(backbone).eval()
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous(memory_format=_layout(parameter))

    @torch.no_grad()
    def encode(pictures: Tensor) -> Tensor:
        features = torch.zeros(len(pictures), backbone.features)
        for start in range(0, len(pictures), _AT_ONCE):
            part = fitted(pictures[start : start + _AT_ONCE], backbone.size, backbone.resample)
            features[start : start + _AT_ONCE] = net(part.float().div_(255))
        return features

    return encode


def _layout(value: Tensor) -> torch.memory_format:
    return torch.channels_last if value.dim() == 4 else torch.contiguous_format


def fitted(pictures: Tensor, size: int, resample: str) -> Tensor:
    """[n, 3 or 1, h, w] uint8 -> [n, 3, size, size] uint8, without regard to proportions, as Pillow does it."""
    if pictures.shape[2:] != (size, size):
        pictures = F.interpolate(pictures, (size, size), mode=resample, align_corners=False, antialias=True)
    return pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
