"""A small network with weights, for tests without the real one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.base import Backbone


class Tiny(nn.Module):
    """A convolution, a batch norm that has seen data, and a smooth activation: [B, 3, H, W] -> [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5, eps=1e-3)
        rng = torch.Generator().manual_seed(0)
        for value in (*self.parameters(), self.norm.running_mean, self.norm.running_var):
            assert value is not None
            value.data = 0.2 + torch.rand(value.shape, generator=rng)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.norm(self.conv(x)) / 10).mean((2, 3))
        return out


def tiny_backbone(make: Callable[[], nn.Module] = Tiny, size: int = 16) -> Backbone:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    return Backbone("tiny", "made for a test", "not stated", "0" * 64, size, mean, std, "bicubic", 5, False, make)


def own_eval(backbone: Backbone, x: Tensor) -> Tensor:
    """What the network itself makes of x [B, 3, H, W] in 0..1, with torch's own layers in eval()."""
    assert callable(backbone.make)
    net = backbone.make().eval().to(x.dtype)
    mean, std = (torch.tensor(colour, dtype=x.dtype).view(3, 1, 1) for colour in (backbone.mean, backbone.std))
    with torch.no_grad():
        out: Tensor = net((x - mean) / std)
    return out
