"""The fast block against the same in torch's own operations, in float64, to the third derivative."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import nightly
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv_block import Block, _Collect, _Moments, _Spread, conv_block, moments, reference_block, sums
from metalearn_cli.nets.convolution import Convolution, Geometry, _Convolve, _Transpose, convolve
from metalearn_cli.nets.layers import fold

# T tasks with B images each, [C, H, W]; in the gate each number and each size is there once.
SHAPES = list(itertools.product([1, 3], [1, 4], [(1, 6, 6), (2, 7, 5), (3, 2, 9)]))
GATE = [(3, 4, (2, 7, 5)), (1, 4, (1, 6, 6)), (3, 1, (3, 2, 9))]
POOLED = Block("b", pool=True)
WAYS = (Convolution.grouped, Convolution.product)
BLOCKS = [Block("b", *how) for how in itertools.product([True, False], WAYS)]
BLOCKS += [POOLED._replace(slope=0.2), Block("b", pool=False, pool_first=True)]


def problem(
    tasks: int, batch: int, size: tuple[int, int, int], gamma: float | None, per_task: bool, has_bias: bool = False
) -> tuple[Params, Tensor]:
    """Parameters of one block, and images [B, T*C, H, W]; the first channel's gamma has the sign of `gamma`."""
    rng, outputs = torch.Generator().manual_seed(0), 3

    def normal(*shape: int) -> Tensor:
        lead = (tasks,) if per_task else ()
        return torch.randn(*lead, *shape, generator=rng, dtype=torch.float64)

    params = {"b.conv.weight": normal(outputs, size[0], 3, 3), "b.norm.bias": normal(outputs)}
    if has_bias:
        params["b.conv.bias"] = normal(outputs)
    if gamma is not None:
        params["b.norm.weight"] = normal(outputs).abs() + 0.1
        params["b.norm.weight"][..., 0] = gamma
    x = fold(torch.randn(tasks, batch, *size, generator=rng, dtype=torch.float64))
    return {name: value.requires_grad_() for name, value in params.items()}, x.requires_grad_()


def derivatives(values: list[Tensor], leaves: list[Tensor], order: int) -> list[Tensor]:
    """The values, and slopes in the leaves of a number that depends on all of them, of that number's slopes, ..."""
    rng = torch.Generator().manual_seed(1)
    results = list(values)
    for _ in range(order):
        total = torch.zeros((), dtype=torch.float64)
        for value in values:  # random weights, so that nothing cancels
            weight = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            total = total + (weight * value).sum() + 0.1 * (weight * value).square().sum()
        values = list(torch.autograd.grad(total, leaves, create_graph=True))
        results += values
    return results


def assert_close(values: list[Tensor], expected: list[Tensor]) -> None:
    for value, reference in zip(values, expected, strict=True):
        assert (value - reference).norm() <= 1e-10 * reference.norm() + 1e-13


@pytest.mark.parametrize(("tasks", "batch", "size"), [*GATE, *nightly(shape for shape in SHAPES if shape not in GATE)])
@pytest.mark.parametrize("gamma", [0.5, -0.5, None], ids=["positive", "mixed", "none"])
@pytest.mark.parametrize("per_task", [True, False], ids=["per task", "shared"])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_is_the_plain_one_to_the_third_derivative(
    tasks: int, batch: int, size: tuple[int, int, int], gamma: float | None, per_task: bool, block: Block
) -> None:
    """Under the statistics of the batch, and under statistics that are given."""
    params, x = problem(tasks, batch, size, gamma, per_task, has_bias=block not in BLOCKS[:2])
    rng = torch.Generator().manual_seed(2)
    shapes = {"b.norm.mean": (3,), "b.norm.var": (tasks, 3)}
    stats = {name: 1 + torch.rand(shape, generator=rng).double() for name, shape in shapes.items()}
    for used in ({}, stats):
        leaves = [leaf.requires_grad_() for leaf in (x, *params.values(), *used.values())]
        results = []
        for function in (conv_block, reference_block):
            out, used_stats = function(params, block, x, used or None)
            results.append(derivatives([out, *used_stats.values()], leaves, order=3))
        assert_close(*results)


def test_where_gamma_is_0_its_slope_is_the_one_from_above_and_the_rest_is_the_plain_block() -> None:
    """There the maximum of gamma * z has two slopes: the greatest z for a greater gamma, and the least for a lower."""
    params, x = problem(2, 3, (2, 6, 6), 0.0, per_task=True)
    with torch.no_grad():
        params["b.norm.bias"].abs_().add_(0.1)  # where beta is not positive, ReLU lets nothing through
    weight = torch.rand(3, 6, 3, 3, dtype=torch.float64)

    def slopes(block: Callable[..., Any], gamma: Tensor) -> list[Tensor]:
        at = params | {"b.norm.weight": gamma}
        out, _ = block(at, POOLED, x)
        return list(torch.autograd.grad((weight * out).sum(), [gamma, params["b.conv.weight"], params["b.norm.bias"]]))

    gamma = params["b.norm.weight"]
    above = gamma.detach().clone()
    above[:, 0] = 1e-9
    (in_gamma, *rest), (_, *plain_rest) = slopes(conv_block, gamma), slopes(reference_block, gamma)
    assert_close(rest, plain_rest)
    torch.testing.assert_close(in_gamma, slopes(reference_block, above.requires_grad_())[0], rtol=1e-6, atol=1e-6)


def normal(*shapes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]


def check_derivatives(function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
    """The first and second ones, against torch's finite differences."""
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("pooled", [True, False])
def test_spread_and_collect_are_each_others_transpose_and_derivative(pooled: bool) -> None:
    y, u, g, shift, scale = normal((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 2, 2), (3,), (3,))
    index = torch.ops.aten.max_pool2d_with_indices(y.detach(), [2, 2], [2, 2])[1] if pooled else None
    check_derivatives(_Spread.apply, (y, index, g if pooled else None, shift, scale))
    start = 0 if pooled else 1  # without an index nothing is taken, and there are no maxima
    check_derivatives(lambda y, u: _Collect.apply(y, index, u)[start:], (y, u))
    check_derivatives(lambda y: _Moments.apply(y, pooled)[start:], (y,))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_three_maps_of_a_convolution_are_each_others_derivatives(stride: int) -> None:
    x, weight, y = normal((2, 4, 4, 4), (6, 2, 3, 3), (2, 6, 4 // stride, 4 // stride))
    geometry = Geometry(stride, groups=2)
    check_derivatives(lambda x, weight: _Convolve.apply(x, weight, geometry), (x, weight))
    check_derivatives(lambda weight, y: _Transpose.apply(weight, y, x.detach(), True, geometry), (weight, y))
    check_derivatives(lambda x, y: _Transpose.apply(x, y, weight.detach(), False, geometry), (x, y))


def test_a_shortcut_of_few_channels_has_its_slopes() -> None:
    """In torch 2.13 on some processors the plain one, with a stride, ends the process."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4, 4, 84, 84, generator=rng).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(4, 4, 1, 1, generator=rng).requires_grad_()
    y = convolve(weight, x, 2, Convolution.grouped)
    plain = torch.nn.functional.conv2d(x.detach().double(), weight.detach().double(), stride=2)
    assert torch.allclose(y.double(), plain, atol=1e-5)
    slopes = torch.autograd.grad(y.square().sum() / 2, [x, weight])
    wanted = torch.einsum("bohw,ocij->bchw", plain, weight.detach().double())
    assert torch.allclose(slopes[0][..., ::2, ::2].double(), wanted, atol=1e-4)
    assert not slopes[0][..., 1::2, :].any()


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_input_of_the_first_layer_costs_no_slope(tasks: int) -> None:
    """Its convolution's second derivative is that in the weight alone: nothing is computed for images."""
    params, x = problem(tasks, 2, (1, 6, 6), 0.5, per_task=True)
    out, _ = conv_block(params, POOLED, x.detach())
    first = torch.autograd.grad(out.square().sum(), list(params.values()), create_graph=True)
    masks = []

    class Recorded(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is torch.ops.aten.convolution_backward:
                masks.append(args[-1])
            return func(*args, **(kwargs or {}))

    with Recorded():
        torch.autograd.grad(sum(slope.square().sum() for slope in first), list(params.values()))
    assert masks
    assert all(mask == [False, True, False] for mask in masks)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("tasks", [1, 3])
def test_every_layer_stays_in_channels_last_memory(tasks: int, channels: int) -> None:
    """In another layout the network runs at half the speed; with one channel torch would choose another."""
    params, x = problem(tasks, 4, (channels, 8, 8), 0.5, per_task=True)
    y = convolve(params["b.conv.weight"], x, 1, Convolution.grouped)
    assert y.is_contiguous(memory_format=torch.channels_last)
    out, _ = conv_block(params, POOLED, x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (slope,) = torch.autograd.grad(out.sum(), [y := x], create_graph=True)
    assert slope.stride() == y.stride()


def test_moments_and_sums_are_accurate_in_float32() -> None:
    """Half a million values a channel, of mean 3: torch's own kernel is off by 1e-4 in the variance."""
    y = (torch.randn(75, 84, 84, 2, generator=torch.Generator().manual_seed(0)) + 3).permute(0, 3, 1, 2)
    mean, var = moments(y)
    true_var, true_mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    true_sums = y.double().sum((0, 2, 3)), y.double().square().sum((0, 2, 3))
    values = torch.stack([mean, var, *sums(y, y)]).double()
    torch.testing.assert_close(values, torch.stack([true_mean, true_var, *true_sums]), rtol=1e-6, atol=0)
