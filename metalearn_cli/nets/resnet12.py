"""ResNet-12, the network of most few-shot papers since 2018.

Boris Oreshkin, Pau Rodriguez Lopez, Alexandre Lacoste: "TADAM: Task dependent adaptive metric for improved few-shot
learning", NeurIPS 2018, arXiv 1805.10123; with the widths, DropBlock and ends of the codes of MetaOptNet (arXiv
1904.03758), RFS (2003.11539), FEAT (1812.03664) and Meta-Baseline (2003.04390).

    block(x) = drop( pool( leaky( norm conv leaky norm conv leaky norm conv x  +  norm conv1x1 x ) ) ),   four times

Differs from the codes in: DropBlock scales what is left over each task, where they count all images of a GPU; its share
grows with the progress of the run, where their layer counts its own forwards up to 40,000. Nothing is dropped unless
model.dropout or model.drop_block is given.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.conv_net import ConvNet, ConvSize, End, TaskPass
from metalearn_cli.nets.noise import DropBlock, drop_block, dropout
from metalearn_cli.system.limits import Count, Fraction, Share, Widths
from metalearn_cli.tasks.base import Spec

SLOPE = 0.1  # of the leaky ReLU


@dataclass(frozen=True)
class ResNet12(ConvNet):
    spec: Spec
    widths: Widths = (64, 160, 320, 640)
    end: End = End.mean
    dropout: Share = 0.0  # of numbers, after the first two blocks
    drop_block: Share = 0.0  # of pixels, after the last two
    drop_size: Count = 5  # pixels a side of a dropped square
    drop_ramp: Fraction = 0.5  # the part of the training over which the share of `drop_block` grows from 0

    def __post_init__(self) -> None:
        self.require_images("resnet12", 2 ** len(self.widths))

    @property
    def convs(self) -> dict[str, ConvSize]:
        convs, inputs = {}, self.spec.input_shape[0]
        for block, width in enumerate(self.widths, 1):
            for layer in (1, 2, 3):
                convs[f"block{block}.{layer}.conv"] = ConvSize(inputs if layer == 1 else width, width)
            convs[f"block{block}.shortcut.conv"] = ConvSize(inputs, width, kernel=1)
            inputs = width
        return convs

    @property
    def norms(self) -> dict[str, int]:
        return {name.replace("conv", "norm"): size.outputs for name, size in self.convs.items()}

    @property
    def map_shape(self) -> tuple[int, int, int]:
        height, width = (side // 2 ** len(self.widths) for side in self.spec.input_shape[1:])
        return self.widths[-1], height, width

    def forward(self, run: TaskPass, x: Tensor) -> Tensor:
        squares = DropBlock(self.drop_block, self.drop_size, self.drop_ramp)
        for block in range(1, len(self.widths) + 1):
            y = F.leaky_relu(run.conv_norm(f"block{block}.1", x), SLOPE)
            y = F.leaky_relu(run.conv_norm(f"block{block}.2", y), SLOPE)
            y = run.conv_norm(f"block{block}.3", y) + run.conv_norm(f"block{block}.shortcut", x)
            x = F.max_pool2d(F.leaky_relu(y, SLOPE), 2)
            is_early = block <= 2
            x = dropout(x, self.dropout, run.call, block) if is_early else drop_block(x, squares, run.call, block)
        return x
