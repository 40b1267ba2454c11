"""Convolution, batch norm, (leaky) ReLU and 2x2 max-pooling of all tasks, in the order that is fastest.

Shapes: B examples per task, T tasks, O channels of a task, K = T*O of all of them; images are folded, [B, K, H, W] in
channels_last memory.

Batch norm is an increasing function of its input where gamma > 0, and ReLU is one: so both can come after the maximum,
    max(ReLU(gamma (y - mean) / s + beta)) = ReLU(gamma (max(y) - mean) / s + beta),
and only a quarter of the pixels is normalised. Where gamma < 0, the convolution's weight and gamma change their sign
together. (At gamma = 0 the derivative in gamma is the one from above; torch's layers take that of the first pixel.)

At full size only batch norm's statistics remain, and their derivatives. torch composes second derivatives of many
passes over memory; here each derivative is one of two functions that are each other's transpose:
    spread(g, shift, scale)  puts g on the pixels that were the maxima, and adds shift + scale y on all;
    collect(u)               takes u from the pixels that were the maxima, and sums u and u y.
So the block is exact to any order. `reference_block` is the same in torch's own operations: tests compare the two.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from metalearn_cli.nets.base import Forward, Params
from metalearn_cli.nets.convolution import Convolution, convolve, tasks_of
from metalearn_cli.nets.layers import EPSILON, batch_norm, to_tasks

_aten = torch.ops.aten

Context = Any  # torch's own, which takes any attribute


class Block(NamedTuple):
    """One block of a network, and how it is computed."""

    name: str  # its parameters: NAME.conv.weight and .bias, NAME.norm.weight and .bias; absent: no bias, gamma 1
    pool: bool  # max-pooling of 2x2 at the end; otherwise halves are rounded up, if the convolution has stride 2
    way: Convolution = Convolution.grouped
    slope: float = 0.0  # of the activation below 0
    pool_first: bool = False  # without `pool`: max-pooling before batch norm, in place of the stride
    halves: bool = True  # without `pool`; otherwise the image keeps its size

    def convolve(self, weight: Tensor, x: Tensor) -> Tensor:
        """The images before batch norm, without bias."""
        keeps_size = self.pool or self.pool_first or not self.halves
        y = convolve(weight, x, 1 if keeps_size else 2, self.way)
        return F.max_pool2d(y, 2) if self.pool_first else y

    def activate(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)


def conv_block(
    params: Params, block: Block, x: Tensor, stats: Params | None = None, mask: Tensor | None = None
) -> Forward:
    """x [B, T*C, H, W] -> [B, T*O, H // 2, W // 2], and the statistics used, [T, O] ([O], where they were given so).

    A mask [T, B] says whose statistics count; they are taken in torch's own operations.
    """
    if mask is not None and stats is None:
        return reference_block(params, block, x, stats, mask)
    name, pool = block.name, block.pool
    weight = params[f"{name}.conv.weight"]
    tasks = tasks_of(weight, x)
    bias, beta = params.get(f"{name}.conv.bias"), to_tasks(params[f"{name}.norm.bias"], tasks)
    gamma = params.get(f"{name}.norm.weight")
    sign = None  # that of gamma, where it moves into the weight: y and its mean are then sign times the paper's
    if pool and gamma is not None:
        sign = torch.where(gamma.detach() < 0, -1.0, 1.0).to(gamma.dtype)
        weight, gamma = weight * sign[..., None, None, None], gamma * sign
    y = block.convolve(weight, x)
    mean_name, var_name = f"{name}.norm.mean", f"{name}.norm.var"
    if stats is None:
        maxima, mean, var = _Moments.apply(y, pool)
        y = maxima if pool else y
        mean, var = mean.view(tasks, -1), var.view(tasks, -1)
        own_mean = mean if sign is None else mean * sign
        stats = {mean_name: own_mean if bias is None else own_mean + bias, var_name: var}
    else:
        y = F.max_pool2d(y, 2) if pool else y
        stats = {name: stats[name] for name in (mean_name, var_name)}
        mean, var = stats[mean_name] if sign is None else stats[mean_name] * sign, stats[var_name]
    if bias is not None:  # batch norm subtracts it with the mean, and so it is never added
        mean = stats[mean_name] - bias if sign is None else (stats[mean_name] - bias) * sign
    scale = torch.rsqrt(var + EPSILON)
    if gamma is not None:
        scale = scale * gamma
    scale, shift = (to_tasks(value, tasks).flatten() for value in (scale, beta - mean * scale))
    return block.activate(_Spread.apply(y, None, None, shift, scale)), stats


def fast_norm(params: Params, name: str, y: Tensor, stats: Params | None = None, mask: Tensor | None = None) -> Forward:
    """Batch norm of one task, y [B, C, H, W] -> the same shape, and the statistics used [1, C] (as given: [C])."""
    if mask is not None and stats is None:
        return batch_norm(params, name, y, 1, stats, mask)
    mean_name, var_name = f"{name}.mean", f"{name}.var"
    if stats is None:
        _, mean, var = _Moments.apply(y, False)
        stats = {mean_name: mean.view(1, -1), var_name: var.view(1, -1)}
    stats = {key: stats[key] for key in (mean_name, var_name)}
    scale = params[f"{name}.weight"] * torch.rsqrt(stats[var_name].flatten() + EPSILON)
    shift = params[f"{name}.bias"] - stats[mean_name].flatten() * scale
    return _Spread.apply(y, None, None, shift, scale), stats


def reference_block(
    params: Params, block: Block, x: Tensor, stats: Params | None = None, mask: Tensor | None = None
) -> Forward:
    """Compute what `conv_block` does by torch's operations, in the order of the paper."""
    weight, bias = params[f"{block.name}.conv.weight"], params.get(f"{block.name}.conv.bias")
    tasks, y = tasks_of(weight, x), block.convolve(weight, x)
    y = y if bias is None else y + _wide(to_tasks(bias, tasks).flatten())
    y, stats = batch_norm(params, f"{block.name}.norm", y, tasks, stats, mask)
    y = block.activate(y)
    return F.max_pool2d(y, 2) if block.pool else y, stats


class _Moments(Function):
    """y [B, K, H, W] -> its 2x2 maxima [B, K, H // 2, W // 2], or None without `pool`, and mean and biased variance of
    each channel, [K]."""

    @staticmethod
    def forward(ctx: Context, y: Tensor, pool: bool) -> tuple[Tensor | None, Tensor, Tensor]:
        maxima, index = _aten.max_pool2d_with_indices(y, [2, 2], [2, 2]) if pool else (None, None)
        mean, var = moments(y)
        ctx.save_for_backward(y, index, mean)
        return maxima, mean, var

    @staticmethod
    def backward(ctx: Context, g: Tensor | None, mean_slope: Tensor, var_slope: Tensor) -> tuple[Tensor, None]:
        y, index, mean = ctx.saved_tensors
        count = y.numel() // len(mean)
        scale = var_slope * (2 / count)
        return _Spread.apply(y, index, g, mean_slope / count - scale * mean, scale), None


class _Spread(Function):
    """g [B, K, H // 2, W // 2] on the pixels of y [B, K, H, W] that `index` names, and shift + scale y on all; index
    and g None: without the first."""

    @staticmethod
    def forward(
        ctx: Context, y: Tensor, index: Tensor | None, g: Tensor | None, shift: Tensor, scale: Tensor
    ) -> Tensor:
        ctx.save_for_backward(y, index, scale)
        out = torch.addcmul(_wide(shift), y, _wide(scale)).contiguous(memory_format=torch.channels_last)
        if index is None or g is None:
            return out
        if y.device.type == "cpu":  # which adds in place at less than half the price
            _pixels(out).scatter_add_(1, _pixels(index), _pixels(g))
            return out
        return out.add_(_aten.max_pool2d_with_indices_backward(g, y, [2, 2], [2, 2], [0, 0], [1, 1], False, index))

    @staticmethod
    def backward(ctx: Context, u: Tensor) -> tuple[Tensor | None, ...]:
        y, index, scale = ctx.saved_tensors
        taken, total, product = _Collect.apply(y, index, u)
        return u * _wide(scale) if ctx.needs_input_grad[0] else None, None, taken, total, product


class _Collect(Function):
    """u [B, K, H, W] from the pixels of y that `index` names, [B, K, H // 2, W // 2] (index None: None), and the sums
    of u and u y over each channel, [K]."""

    @staticmethod
    def forward(ctx: Context, y: Tensor, index: Tensor | None, u: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        ctx.save_for_backward(y, index, u)
        total, product = sums(u, y)
        if index is None:
            return None, total, product
        taken = _pixels(u).gather(1, _pixels(index))
        return taken.view(len(u), *index.shape[2:], -1).permute(0, 3, 1, 2), total, product

    @staticmethod
    def backward(ctx: Context, *slopes: Tensor) -> tuple[Tensor, None, Tensor]:
        y, index, u = ctx.saved_tensors
        return u * _wide(slopes[2]), None, _Spread.apply(y, index, *slopes)


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of y [B, K, H, W], [K] each."""
    if y.device.type != "cpu":
        var, mean = torch.var_mean(y, (0, 2, 3), correction=0)
        return mean, var
    rows, width = _rows(y)
    means, variances = (part.view(width, -1) for part in torch.batch_norm_update_stats(rows, None, None, 0.0))
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


def sums(u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of u and of u y over each channel, [K] each, of u and y [B, K, H, W]."""
    if y.device.type != "cpu":
        return u.sum((0, 2, 3)), (u * y).sum((0, 2, 3))
    (rows, width), (y_rows, _) = _rows(u), _rows(y)
    ones = torch.ones_like(rows[0])
    # The derivatives of torch's batch norm in gamma and beta, for mean 0 and standard deviation 1: one pass.
    _, product, total = _aten.native_batch_norm_backward(
        rows, y_rows, ones, None, None, torch.zeros_like(ones), ones, True, 0.0, [False, True, True]
    )
    return total.view(width, -1).sum(0), product.view(width, -1).sum(0)


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """[B, K, H, W] -> [B*H, W*K], and W.

    torch's kernels for statistics add up rows one by one, which in float32 loses digits of the variance (1e-4 of it
    over half a million pixels). With W times the columns and fewer rows they lose W times less, and are as fast.
    """
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch * height, width * channels), width


def _pixels(x: Tensor) -> Tensor:
    """[B, K, H, W] -> [B, H*W, K]: a view of channels_last memory, a copy of any other."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _wide(value: Tensor) -> Tensor:
    """[K] -> [1, K, 1, 1]."""
    return value.view(1, -1, 1, 1)
