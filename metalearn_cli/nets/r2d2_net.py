"""The network of R2-D2: four blocks, of which the last two are the features.

Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: "Meta-learning with differentiable closed-form solvers",
ICLR 2019, arXiv 1805.08136.

    block(x) = drop( leaky( pool( norm conv x ) ) ),   features: the third block's image and the fourth's, side by side

The first three blocks halve the image; the fourth pools without stride, and the third's image is pooled so as well.

MetaOptNet's code (Lee et al. 2019, arXiv 1904.03758) has no activation in the fourth block (model.activate_last=false).

Differs from the code in: the convolutions have no bias unless model.bias=true; batch norm subtracts it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.conv_net import ConvNet, ConvSize, End, TaskPass
from metalearn_cli.nets.noise import dropout
from metalearn_cli.system.limits import Shares, Widths
from metalearn_cli.tasks.base import Spec

SLOPE = 0.1  # of the leaky ReLU


@dataclass(frozen=True)
class R2D2Net(ConvNet):
    spec: Spec
    widths: Widths = (96, 192, 384, 512)
    dropout: Shares = (0.0, 0.0)  # of numbers, after the third block and after the fourth
    activate_last: bool = True  # the fourth block has an activation
    bias: bool = False  # of the convolutions
    end: End = End.flat

    def __post_init__(self) -> None:
        self.require_images("r2d2_net", 16)

    @property
    def convs(self) -> dict[str, ConvSize]:
        inputs = (self.spec.input_shape[0], *self.widths)
        sizes = zip(inputs[:-1], self.widths, strict=True)
        return {f"block{number}.conv": ConvSize(*size, bias=self.bias) for number, size in enumerate(sizes, 1)}

    @property
    def norms(self) -> dict[str, int]:
        return {f"block{number}.norm": width for number, width in enumerate(self.widths, 1)}

    @property
    def map_shape(self) -> tuple[int, int, int]:
        height, width = (side // 8 - 1 for side in self.spec.input_shape[1:])
        return self.widths[2] + self.widths[3], height, width

    def forward(self, run: TaskPass, x: Tensor) -> Tensor:
        for block in (1, 2, 3):
            x = F.leaky_relu(F.max_pool2d(run.conv_norm(f"block{block}", x), 2), SLOPE)
        third = dropout(x, self.dropout[0], run.call, 3)
        fourth = F.max_pool2d(run.conv_norm("block4", third), 2, stride=1)
        fourth = dropout(F.leaky_relu(fourth, SLOPE) if self.activate_last else fourth, self.dropout[1], run.call, 4)
        return torch.cat([F.max_pool2d(third, 2, stride=1), fourth], 1)
