"""ResNet-10 and ResNet-18 as few-shot papers use them.

Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv
1512.03385; one or two basic blocks a stage, with the stem of the paper (224 pixels; "A Closer Look at Few-shot
Classification", arXiv 1904.04232) or one without stride (84 pixels; SimpleShot, arXiv 1911.04623).

    block(x) = relu( norm conv relu norm conv x  +  x ),   x by norm conv1x1 where its shape changes

Differs from the paper in: nothing known; the convolutions start as in He et al. 2015, by outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.conv_net import ConvNet, ConvSize, End, TaskPass
from metalearn_cli.system.limits import Count, Widths
from metalearn_cli.tasks.base import Spec


class Stem(Enum):
    small = "small"  # 3x3, for images of up to 84 pixels
    large = "large"  # 7x7 with stride 2, then 3x3 max-pooling with stride 2, for 224 pixels


@dataclass(frozen=True)
class ResNet(ConvNet):
    spec: Spec
    blocks: Count = 1  # of each stage: 1 makes ResNet-10, 2 makes ResNet-18
    widths: Widths = (64, 128, 256, 512)
    stem: Stem = Stem.small
    end: End = End.mean

    def __post_init__(self) -> None:
        self.require_images("resnet10", 8)

    def _blocks(self) -> Iterator[tuple[str, int, int, int]]:
        """Name, input channels, output channels and stride of each block."""
        inputs = self.widths[0]
        for stage, width in enumerate(self.widths, 1):
            for number in range(1, self.blocks + 1):
                yield f"stage{stage}.{number}", inputs, width, 2 if stage > 1 and number == 1 else 1
                inputs = width

    @property
    def convs(self) -> dict[str, ConvSize]:
        kernel = 3 if self.stem is Stem.small else 7
        convs = {"stem.conv": ConvSize(self.spec.input_shape[0], self.widths[0], kernel)}
        for name, inputs, width, stride in self._blocks():
            convs[f"{name}.1.conv"] = ConvSize(inputs, width)
            convs[f"{name}.2.conv"] = ConvSize(width, width)
            if stride > 1 or inputs != width:
                convs[f"{name}.shortcut.conv"] = ConvSize(inputs, width, kernel=1)
        return convs

    @property
    def norms(self) -> dict[str, int]:
        return {name.replace("conv", "norm"): size.outputs for name, size in self.convs.items()}

    @property
    def map_shape(self) -> tuple[int, int, int]:
        halvings = len(self.widths) - 1 + (2 if self.stem is Stem.large else 0)
        height, width = (-(-side // 2**halvings) for side in self.spec.input_shape[1:])
        return self.widths[-1], height, width

    def forward(self, run: TaskPass, x: Tensor) -> Tensor:
        x = F.relu(run.conv_norm("stem", x, 2 if self.stem is Stem.large else 1))
        if self.stem is Stem.large:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        for name, inputs, width, stride in self._blocks():
            y = F.relu(run.conv_norm(f"{name}.1", x, stride))
            y = run.conv_norm(f"{name}.2", y)
            x = F.relu(y + (run.conv_norm(f"{name}.shortcut", x, stride) if stride > 1 or inputs != width else x))
        return x
