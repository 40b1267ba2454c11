"""Four blocks of 3x3 convolution, batch norm and ReLU, halving the image each time: the field's standard network.

With max-pooling, as in Vinyals et al. 2016 and Snell et al. 2017; with stride 2 instead, as MAML has it for Omniglot
(filters=64, downsample=stride, spatial_mean=true). The convolutions have no bias unless model.bias=true: batch norm
would subtract it. Codes that pool before the activation compute the same, since it never falls; those that pool before
batch norm do not (downsample=pool_first). Relation Net's encoder has halvings=2.
With a `context` c (a number of inputs that a task sets) the third block's images are scaled and shifted by a linear
function of it, after batch norm and pooling and before ReLU: gamma(c) x + beta(c), which begins with gamma 1 and beta 0
at c = 0 (FiLM, as in CAVIA: Zintgraf et al. 2019, arXiv 1810.03642).
Differs from MAML's code in: padding is 1 on every side where TensorFlow's "same" at stride 2 pads the far side only.
"""

import math
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import CONTEXT, PLAIN, Call, Forward, Net, Params
from metalearn_cli.nets.conv_block import Block, conv_block
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.layers import LinearHead, fold, init_linear, linear, to_tasks, unfold
from metalearn_cli.nets.noise import dropout
from metalearn_cli.system.limits import Count, Natural, Positive, Share, Widths
from metalearn_cli.tasks.base import Spec

BLOCKS = ("block1", "block2", "block3", "block4")
SET_BY_TASK = BLOCKS[2]  # the block that a context scales and shifts


class Downsample(Enum):
    max_pool = "max_pool"
    pool_first = "pool_first"
    stride = "stride"


class Init(Enum):
    torch = "torch"  # uniform within 1/sqrt(inputs), as in ProtoNet's code
    xavier = "xavier"  # uniform within sqrt(6/(inputs + outputs)), with zero biases, as in MAML's code

    def bound(self, inputs: int, outputs: int) -> float:
        return math.sqrt(1 / inputs if self is Init.torch else 6 / (inputs + outputs))


@dataclass(frozen=True)
class Conv4(LinearHead):
    spec: Spec
    filters: Count = 64
    widths: Widths | None = None  # the filters of the four blocks, where they are not all `filters`
    downsample: Downsample = Downsample.max_pool
    halvings: Natural = 4  # blocks that halve the image, of which the others keep the size
    slope: Share = 0.0  # of the activation below 0; above 0 it is a leaky ReLU
    bias: bool = False  # of the convolutions
    dropout: Share = 0.0  # of numbers, after each block
    context: Natural = 0  # inputs that a task sets
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
        if self.halvings > len(BLOCKS):
            raise UserError(f"model.halvings={self.halvings} must be at most 4, the blocks of model=conv4")
        least = 2**self.halvings
        if min(self.spec.input_shape[1:]) < least and self.downsample is not Downsample.stride:
            raise UserError(
                f"model=conv4 halves an image {self.halvings} times, and {self.spec.input_shape[1]}x"
                f"{self.spec.input_shape[2]} is too small for that: take images of {least}x{least} or more, or "
                "model.downsample=stride"
            )

    def variants(self) -> dict[Convolution, Net]:
        ways = (Convolution.grouped, Convolution.product) if self.convolution is Convolution.auto else ()
        return {way: replace(self, convolution=way) for way in ways}

    @property
    def block_filters(self) -> dict[str, int]:
        """The filters of each block, by its name."""
        return dict(zip(BLOCKS, self.widths or (self.filters,) * len(BLOCKS), strict=True))

    @property
    def feature_count(self) -> int:
        last = self.block_filters[BLOCKS[-1]]
        if self.spatial_mean:
            return last
        height, width = self.spec.input_shape[1:]
        rounding = 1 if self.downsample is Downsample.stride else 0
        for _ in range(self.halvings):
            height, width = (height + rounding) // 2, (width + rounding) // 2
        return last * height * width

    def init(self, rng: torch.Generator) -> Params:
        params: Params = {}
        channels = self.spec.input_shape[0]
        for block, filters in self.block_filters.items():
            bound = self.init_weights.bound(9 * channels, 9 * filters)
            uniform = 2 * torch.rand(filters, channels, 3, 3, generator=rng) - 1
            params[f"{block}.conv.weight"] = bound * uniform
            if self.bias and self.init_weights is Init.xavier:
                params[f"{block}.conv.bias"] = torch.zeros(filters)
            elif self.bias:
                params[f"{block}.conv.bias"] = bound * (2 * torch.rand(filters, generator=rng) - 1)
            if self.gamma:
                params[f"{block}.norm.weight"] = torch.ones(filters)
            params[f"{block}.norm.bias"] = torch.zeros(filters)
            channels = filters
        inputs, outputs = self.feature_count, self.spec.outputs
        params["head.weight"], params["head.bias"] = init_linear(inputs, outputs, self.head_std, rng)
        if self.init_weights is Init.xavier and self.head_std is None:
            params["head.weight"] *= self.init_weights.bound(inputs, outputs) / Init.torch.bound(inputs, outputs)
            params["head.bias"] = torch.zeros(outputs)
        if self.context:
            channels = self.block_filters[SET_BY_TASK]
            params["film.weight"], _ = init_linear(self.context, 2 * channels, None, rng)
            params["film.bias"] = torch.cat([torch.ones(channels), torch.zeros(channels)])
            params[CONTEXT] = torch.zeros(self.context)
        return params

    def init_stats(self) -> Params:
        stats: Params = {}
        for block, filters in self.block_filters.items():
            stats[f"{block}.norm.mean"], stats[f"{block}.norm.var"] = torch.zeros(filters), torch.ones(filters)
        return stats

    def maps(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        images, used = self._folded_maps(params, x, call)
        return unfold(images, len(x)), used

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        images, used = self._folded_maps(params, x, call)
        if self.spatial_mean:
            images = images.mean((2, 3), keepdim=True)
        return unfold(images, len(x)).flatten(2), used

    def _folded_maps(self, params: Params, x: Tensor, call: Call) -> Forward:
        """x [T, B, C, H, W] -> the last images [B, T*filters, H', W'], and the statistics used."""
        used: Params = {}
        pool, pool_first = (self.downsample is way for way in (Downsample.max_pool, Downsample.pool_first))
        x = fold(x)
        for layer, name in enumerate(BLOCKS):
            halves, is_set = layer < self.halvings, bool(self.context) and name == SET_BY_TASK
            slope = 1.0 if is_set else self.slope
            block = Block(name, pool and halves, self.convolution, slope, pool_first and halves, halves)
            x, block_stats = conv_block(params, block, x, call.stats, call.mask)
            x = block._replace(slope=self.slope).activate(_film(params, x)) if is_set else x
            x = dropout(x, self.dropout, call, layer)
            used |= block_stats
        return x, used


def _film(params: Params, x: Tensor) -> Tensor:
    """x [B, T*C, H, W] scaled and shifted as the tasks set it."""
    tasks = 2 * x.shape[1] // params["film.bias"].shape[-1]
    scale, shift = linear(params, "film", to_tasks(params[CONTEXT], tasks).unsqueeze(1)).to(x.dtype).chunk(2, -1)
    return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
