"""Small networks with weights, for the tests of what goes through one."""

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.backbones.efficientnet_lite import EfficientNetLite0
from metalearn_cli.backbones.feature_cache import Embedding


class Tiny(nn.Module):
    """Pictures [B, 3, 4, 4] -> features [B, 6]."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(48, 6, generator=rng))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def tiny(sha256: str = 64 * "a", dtype: torch.dtype = torch.float16) -> Embedding:
    colours = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    backbone = Backbone("tiny", "a tiny network", "CC0", sha256, 4, *colours, "bicubic", 6, False, Tiny)
    return Embedding(backbone, dtype=dtype)


def write_weights(path: Path, seed: int = 0) -> Path:
    """The default architecture with drawn weights, as a file."""
    torch.manual_seed(seed)
    net = EfficientNetLite0()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out" if layer.groups == 1 else "fan_in")
    safetensors.torch.save_file(net.state_dict(), path)
    return path
