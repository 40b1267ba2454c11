"""WRN-28-10, a wide residual network.

Sergey Zagoruyko, Nikos Komodakis: "Wide Residual Networks", BMVC 2016, arXiv 1605.07146; as in the codes of FEAT (arXiv
1812.03664) and SimpleShot (1911.04623).

    block(x) = conv relu norm drop conv relu norm x  +  x,   x by conv1x1 where its shape changes

Differs from the codes in: the convolutions have no bias unless model.bias=true; under batch norm of the batch a bias
changes nothing, since each is subtracted with the mean of its channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.conv_net import ConvNet, ConvSize, End, TaskPass
from metalearn_cli.nets.noise import dropout
from metalearn_cli.system.limits import Count, Share
from metalearn_cli.tasks.base import Spec

STEM = 16  # channels


@dataclass(frozen=True)
class WideResNet(ConvNet):
    spec: Spec
    depth: Count = 28  # convolutions: 6 n + 4, n blocks in each of three stages
    width: Count = 10  # stage i has 16 * 2^(i - 1) * width channels
    dropout: Share = 0.0  # of numbers, between the convolutions of each block
    bias: bool = False  # of the convolutions
    end: End = End.mean

    def __post_init__(self) -> None:
        if self.depth < 10 or self.depth % 6 != 4:
            raise UserError(f"model.depth={self.depth} must be 6 n + 4 with n of 1 or above, e.g. 28")
        self.require_images("wrn28_10", 8)

    def _blocks(self) -> Iterator[tuple[str, int, int, int]]:
        """Name, input channels, output channels and stride of each block."""
        inputs = STEM
        for stage in (1, 2, 3):
            outputs = STEM * 2 ** (stage - 1) * self.width
            for number in range(1, (self.depth - 4) // 6 + 1):
                yield f"stage{stage}.{number}", inputs, outputs, 2 if stage > 1 and number == 1 else 1
                inputs = outputs

    @property
    def convs(self) -> dict[str, ConvSize]:
        convs = {"stem.conv": ConvSize(self.spec.input_shape[0], STEM, bias=self.bias)}
        for name, inputs, outputs, stride in self._blocks():
            convs[f"{name}.1.conv"] = ConvSize(inputs, outputs, bias=self.bias)
            convs[f"{name}.2.conv"] = ConvSize(outputs, outputs, bias=self.bias)
            if stride > 1 or inputs != outputs:
                convs[f"{name}.shortcut.conv"] = ConvSize(inputs, outputs, kernel=1, bias=self.bias)
        return convs

    @property
    def norms(self) -> dict[str, int]:
        norms: dict[str, int] = {}
        for name, inputs, outputs, _ in self._blocks():
            norms |= {f"{name}.1.norm": inputs, f"{name}.2.norm": outputs}
        return norms | {"end.norm": 4 * STEM * self.width}

    @property
    def map_shape(self) -> tuple[int, int, int]:
        height, width = (-(-side // 4) for side in self.spec.input_shape[1:])
        return 4 * STEM * self.width, height, width

    def forward(self, run: TaskPass, x: Tensor) -> Tensor:
        x = run.conv("stem.conv", x)
        for layer, (name, inputs, outputs, stride) in enumerate(self._blocks()):
            y = run.conv(f"{name}.1.conv", F.relu(run.norm(f"{name}.1.norm", x)))
            y = dropout(y, self.dropout, run.call, layer)
            y = run.conv(f"{name}.2.conv", F.relu(run.norm(f"{name}.2.norm", y)), stride)
            x = y + (run.conv(f"{name}.shortcut.conv", x, stride) if stride > 1 or inputs != outputs else x)
        return F.relu(run.norm("end.norm", x))
