"""Four blocks of 3x3 convolution, batch norm and ReLU, halving the image each time: the field's standard network.

With max-pooling, as in Vinyals et al. 2016 and Snell et al. 2017; with stride 2 instead, as MAML has it for Omniglot
(filters=64, downsample=stride, spatial_mean=true). The convolutions have no bias: batch norm would subtract it.
Differs from MAML's code in: padding is 1 on every side where TensorFlow's "same" at stride 2 pads the far side only.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Forward, Net, Params
from metalearn_cli.nets.conv_block import Block, conv_block
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.layers import fold, init_linear, linear, unfold
from metalearn_cli.system.limits import Count, Positive
from metalearn_cli.tasks.base import Spec

BLOCKS = ("block1", "block2", "block3", "block4")


class Downsample(Enum):
    max_pool = "max_pool"
    stride = "stride"


class Init(Enum):
    torch = "torch"  # uniform within 1/sqrt(inputs), as in ProtoNet's code
    xavier = "xavier"  # uniform within sqrt(6/(inputs + outputs)), with zero biases, as in MAML's code

    def bound(self, inputs: int, outputs: int) -> float:
        return math.sqrt(1 / inputs if self is Init.torch else 6 / (inputs + outputs))


@dataclass(frozen=True)
class Conv4(Net):
    spec: Spec
    filters: Count = 64
    downsample: Downsample = Downsample.max_pool
    spatial_mean: bool = False  # features: the mean over the last image instead of all its pixels
    gamma: bool = True  # batch norm learns a scale; the original MAML does not
    init_weights: Init = Init.torch  # of the convolutions, and of the head where head_std is null
    head_std: Positive | None = None  # normal weights of this standard deviation, cut at two of them, zero bias
    convolution: Convolution = Convolution.auto

    def __post_init__(self) -> None:
        if len(self.spec.input_shape) != 3:
            raise UserError(
                f"model=conv4 needs images, and this task's examples have shape {list(self.spec.input_shape)}: "
                "take model=mlp"
            )
        if min(self.spec.input_shape[1:]) < 16 and self.downsample is Downsample.max_pool:
            raise UserError(
                f"model=conv4 halves an image four times, and {self.spec.input_shape[1]}x{self.spec.input_shape[2]} "
                "is too small for that: take images of 16x16 or more, or model.downsample=stride"
            )

    def variants(self) -> dict[Convolution, Net]:
        ways = (Convolution.grouped, Convolution.product) if self.convolution is Convolution.auto else ()
        return {way: replace(self, convolution=way) for way in ways}

    @property
    def feature_count(self) -> int:
        if self.spatial_mean:
            return self.filters
        height, width = self.spec.input_shape[1:]
        rounding = 0 if self.downsample is Downsample.max_pool else 1
        for _ in BLOCKS:
            height, width = (height + rounding) // 2, (width + rounding) // 2
        return self.filters * height * width

    def init(self, rng: torch.Generator) -> Params:
        params: Params = {}
        channels = self.spec.input_shape[0]
        for block in BLOCKS:
            bound = self.init_weights.bound(9 * channels, 9 * self.filters)
            uniform = 2 * torch.rand(self.filters, channels, 3, 3, generator=rng) - 1
            params[f"{block}.conv.weight"] = bound * uniform
            if self.gamma:
                params[f"{block}.norm.weight"] = torch.ones(self.filters)
            params[f"{block}.norm.bias"] = torch.zeros(self.filters)
            channels = self.filters
        inputs, outputs = self.feature_count, self.spec.outputs
        params["head.weight"], params["head.bias"] = init_linear(inputs, outputs, self.head_std, rng)
        if self.init_weights is Init.xavier and self.head_std is None:
            params["head.weight"] *= self.init_weights.bound(inputs, outputs) / Init.torch.bound(inputs, outputs)
            params["head.bias"] = torch.zeros(outputs)
        return params

    def init_stats(self) -> Params:
        stats: Params = {}
        for block in BLOCKS:
            stats[f"{block}.norm.mean"] = torch.zeros(self.filters)
            stats[f"{block}.norm.var"] = torch.ones(self.filters)
        return stats

    def maps(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        images, used = self._folded_maps(params, x, stats, mask)
        return unfold(images, len(x)), used

    def features(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        images, used = self._folded_maps(params, x, stats, mask)
        if self.spatial_mean:
            images = images.mean((2, 3), keepdim=True)
        return unfold(images, len(x)).flatten(2), used

    def __call__(self, params: Params, x: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
        x, used = self.features(params, x, stats, mask)
        return linear(params, "head", x), used

    def _folded_maps(self, params: Params, x: Tensor, stats: Params | None, mask: Tensor | None) -> Forward:
        """x [T, B, C, H, W] -> the last images [B, T*filters, H', W'], and the statistics used."""
        pool = self.downsample is Downsample.max_pool
        used: Params = {}
        x = fold(x)
        for block in BLOCKS:
            x, block_stats = conv_block(params, Block(block, pool, self.convolution), x, stats, mask)
            used |= block_stats
        return x, used
