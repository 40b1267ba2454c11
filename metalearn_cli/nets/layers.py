"""Layers that run every task of the meta-batch in one kernel call; those of images: convolution.py, conv_block.py.

Shapes: T tasks, B examples per task, C channels. Image activations are folded, [B, T*C, H, W] in channels_last memory.
All layers are built from torch's differentiable operations and are exact to any order of derivative.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params

EPSILON = 1e-5  # added to the variance by every batch norm


def fold(x: Tensor) -> Tensor:
    """[T, B, C, H, W] -> [B, T*C, H, W] in channels_last memory."""
    tasks, batch, channels, height, width = x.shape
    folded = tasks * channels
    # as_strided, because with a single channel torch would take the tensor for an NCHW one, and every later layer
    # would follow: half the speed.
    memory = x.permute(1, 3, 4, 0, 2).contiguous()
    return memory.as_strided((batch, folded, height, width), (height * width * folded, 1, width * folded, folded))


def unfold(x: Tensor, tasks: int) -> Tensor:
    """[B, T*C, H, W] -> [T, B, C, H, W]."""
    batch, folded, height, width = x.shape
    return x.reshape(batch, tasks, folded // tasks, height, width).transpose(0, 1)


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """x [T, B, I] -> [T, B, O]; weight [O, I] or [T, O, I], bias (absent: none) [O] or [T, O]."""
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    if bias is None:
        return torch.bmm(x, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


class LinearHead(Net):
    """A network that ends in a linear layer on its features. A final class says what these are."""

    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        features, used = self.features(params, x, call)
        return linear(params, "head", features), used


def batch_norm(
    params: Params, name: str, x: Tensor, tasks: int, stats: Params | None, mask: Tensor | None = None
) -> tuple[Tensor, Params]:
    """Normalise each channel of each task: x [B, T*C, H, W] or [T, B, C] -> the same shape, and the statistics used.

    gamma `weight` (absent: 1) and beta `bias` are [C] or [T, C]; the statistics `mean` and `var` likewise. Without
    `stats` they are those of x, over all examples of a task (and all pixels), with the biased variance; with a mask
    [T, B] over the real ones.
    """
    x = x.to(params[f"{name}.bias"].dtype)  # of a product in reduced precision
    dims, shape = ([0, 2, 3], [1, -1, 1, 1]) if x.dim() == 4 else ([1], [tasks, 1, -1])
    if stats is None:
        var, mean = torch.var_mean(x, dims, correction=0, keepdim=True) if mask is None else _var_mean(x, dims, mask)
        stats = {f"{name}.mean": mean.view(tasks, -1), f"{name}.var": var.view(tasks, -1)}
    else:
        stats = {key: stats[key] for key in (f"{name}.mean", f"{name}.var")}
        mean, var = (to_tasks(value, tasks).reshape(shape) for value in stats.values())
    scale = torch.rsqrt(var + EPSILON)
    if f"{name}.weight" in params:
        scale = scale * to_tasks(params[f"{name}.weight"], tasks).reshape(shape)
    bias = to_tasks(params[f"{name}.bias"], tasks).reshape(shape)
    return torch.addcmul(bias - mean * scale, x, scale), stats


def _var_mean(x: Tensor, dims: list[int], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean over `dims` of the real examples only: mask [T, B], x [B, T*C, H, W] or [T, B, C]."""
    share = mask.to(x.dtype) / mask.sum(1, keepdim=True)  # of an example in its task's mean
    if x.dim() == 4:
        channels, pixels = x.shape[1] // len(mask), x.shape[2] * x.shape[3]
        weight = (share / pixels).t().repeat_interleave(channels, 1)[..., None, None]
    else:
        weight = share.unsqueeze(-1)
    mean = (weight * x).sum(dims, keepdim=True)
    return (weight * (x - mean).square()).sum(dims, keepdim=True), mean


def to_tasks(value: Tensor, tasks: int) -> Tensor:
    """[C] or [T, C] -> [T, C]."""
    return value if value.dim() == 2 else value.expand(tasks, -1)


def init_linear(inputs: int, outputs: int, std: float | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight [outputs, inputs] and bias [outputs].

    With `std`: a normal distribution cut at two standard deviations and a zero bias (the initialisation of MAML's
    code). Without: uniform within 1/sqrt(inputs), for both (torch's own).
    """
    if std is not None:
        weight = torch.empty(outputs, inputs)
        torch.nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=rng)
        return weight, torch.zeros(outputs)
    bound = 1 / math.sqrt(inputs)
    uniform = torch.rand(outputs, inputs + 1, generator=rng) * (2 * bound) - bound
    return uniform[:, :-1].contiguous(), uniform[:, -1].contiguous()


def lstm_cell(params: Params, name: str, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One step of a long short-term memory: x [..., I], state (h, c) [..., H] each -> the next (h, c).

    c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c'). The gates i, f, g, o stand in torch's order in
    `weight_ih` [4H, I], `weight_hh` [4H, H] and `bias` [4H] (torch has two biases, whose sum it is).
    """
    lead = x.shape[:-1]
    weight = torch.cat([params[f"{name}.weight_ih"], params[f"{name}.weight_hh"]], 1)  # one product is faster than two
    # Inside, all coordinates come last, so that each gate is one piece of memory: the sigmoids of strided rows take
    # several times as long.
    x, h, c = (value.flatten(0, -2).t() for value in (x, *state))
    i, f, g, o = torch.addmm(params[f"{name}.bias"].unsqueeze(1), weight, torch.cat([x, h])).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h.t().reshape(*lead, -1), c.t().reshape(*lead, -1)


def init_lstm(name: str, inputs: int, hidden: int, rng: torch.Generator) -> Params:
    """The parameters of a cell, uniform within 1/sqrt(hidden) (torch's own)."""
    shapes = {"weight_ih": (4 * hidden, inputs), "weight_hh": (4 * hidden, hidden), "bias": (4 * hidden,)}
    bound = 1 / math.sqrt(hidden)
    return {f"{name}.{part}": torch.rand(shape, generator=rng) * (2 * bound) - bound for part, shape in shapes.items()}
