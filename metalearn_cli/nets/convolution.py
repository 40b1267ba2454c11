"""Convolutions of all tasks, each with its own weights, as one grouped convolution.

Shapes: B examples per task, T tasks, C input and O output channels of a task, an odd kernel of k x k pixels. Images are
folded, [B, T*C, H, W] in channels_last memory: then a grouped convolution runs at the speed of a matrix product, where
vmap and im2col do not.

A convolution is linear in its input x and in its weight w, so that derivatives of any order are made of three maps:
    convolve(x, w),   and its transposes in x and in w:   transpose(w, y) -> x,   transpose(x, y) -> w,
where y has the shape of the output. The derivatives of each are the other two. (torch's own second derivative goes
task by task, and always computes that of the input: a tenth of a step of second-order MAML.)

The other way is one matrix product for each task with the columns of its images: less than half as fast on a CPU, but a
GPU's grouped convolutions may be slower still.
"""

from enum import Enum
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Context = Any  # torch's own, which takes any attribute


class Convolution(Enum):
    auto = "auto"  # grouped on a CPU; on a GPU the faster one, by timing when a run starts
    grouped = "grouped"
    product = "product"


class Geometry(NamedTuple):
    """What makes a convolution, beside its input and its weight; its padding is half of its kernel."""

    stride: int
    groups: int  # T


def tasks_of(weight: Tensor, x: Tensor) -> int:
    """T, of weight [O, C, k, k] or [T, O, C, k, k] and x [B, T*C, H, W]."""
    return x.shape[1] // weight.shape[-3]


def convolve(weight: Tensor, x: Tensor, stride: int, way: Convolution) -> Tensor:
    """x [B, T*C, H, W] -> [B, T*O, ceil(H/stride), ceil(W/stride)]; weight [O, C, k, k] or [T, O, C, k, k], no bias."""
    tasks = tasks_of(weight, x)
    if weight.shape[-1] == 1 and stride > 1:  # of 4 or 8 channels, torch 2.13's backward pass of that ends the process
        x, stride = x[..., ::stride, ::stride].contiguous(memory_format=torch.channels_last), 1
    if weight.dim() == 4 and tasks > 1:
        weight = weight.expand(tasks, *weight.shape)
    dtype, device = x.dtype, x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        # By itself it would convert inside of the Function, unseen by its derivatives.
        x, weight = (value.to(torch.get_autocast_dtype(device)) for value in (x, weight))
    if way is Convolution.product:
        return _by_product(weight.view(tasks, -1, *weight.shape[-3:]), x, stride).to(dtype)
    flat = weight if weight.dim() == 4 else weight.flatten(0, 1)  # a weight of one task is not copied
    return _Convolve.apply(x, flat, Geometry(stride, tasks)).to(dtype)


def _by_product(weight: Tensor, x: Tensor, stride: int) -> Tensor:
    """weight [T, O, C, k, k] by the columns of x [B, T*C, H, W]: the k*k pixels of C channels that each output sees."""
    tasks, outputs, channels, kernel, _ = weight.shape
    batch, _, *size = x.shape
    height, width = ((length + stride - 1) // stride for length in size)
    columns = F.unfold(x, kernel, padding=kernel // 2, stride=stride)
    columns = columns.view(batch, tasks, channels * kernel**2, height * width)
    columns = columns.permute(1, 0, 3, 2).reshape(tasks, -1, channels * kernel**2)  # [T, B*H*W, C*k*k]
    y = torch.bmm(columns, weight.flatten(2).transpose(1, 2))  # [T, B*H*W, O]
    folded = y.view(tasks, batch, height, width, outputs).permute(1, 0, 4, 2, 3)
    return folded.reshape(batch, -1, height, width).contiguous(memory_format=torch.channels_last)


class _Convolve(Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, stride=geometry.stride, padding=weight.shape[-1] // 2, groups=geometry.groups)

    @staticmethod
    def backward(ctx: Context, y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            _Transpose.apply(weight, y, x, True, ctx.geometry) if needs_x else None,
            _Transpose.apply(x, y, weight, False, ctx.geometry) if needs_weight else None,
            None,
        )


class _Transpose(Function):
    """With `to_x`: the weight as `factor`, y -> the transpose in x. Without: x as `factor`, y -> the transpose in the
    weight. Of `like` only the shape is used, which is that of the result."""

    @staticmethod
    def forward(ctx: Context, factor: Tensor, y: Tensor, like: Tensor, to_x: bool, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(factor, y)
        ctx.to_x, ctx.geometry = to_x, geometry
        stride, groups = geometry
        x, weight = (like, factor) if to_x else (factor, like)
        sizes = [stride] * 2, [weight.shape[-1] // 2] * 2, [1, 1]  # strides, padding, dilation
        transposes = torch.ops.aten.convolution_backward(
            y, x, weight, None, *sizes, False, [0, 0], groups, [to_x, not to_x, False]
        )
        result: Tensor = transposes[0 if to_x else 1]
        return result

    @staticmethod
    def backward(ctx: Context, slope: Tensor) -> tuple[Tensor | None, ...]:
        factor, y = ctx.saved_tensors
        needs_factor, needs_y, *_ = ctx.needs_input_grad
        x, weight = (slope, factor) if ctx.to_x else (factor, slope)
        return (
            _Transpose.apply(slope, y, factor, not ctx.to_x, ctx.geometry) if needs_factor else None,
            _Convolve.apply(x, weight, ctx.geometry) if needs_y else None,
            *(None, None, None),
        )
