"""The fast block against the same in torch's own operations, in float64, to the third derivative."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import nightly
from torch import Tensor

from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv_block import (
    Block,
    _Collect,
    _Moments,
    _PoolMoments,
    _Spread,
    conv_block,
    moments,
    reference_block,
    sums,
)
from metalearn_cli.nets.convolution import Convolution, _Convolve, _InputSlope, _WeightSlope, convolve
from metalearn_cli.nets.layers import fold

# Of T tasks with B images each, [C, H, W]; in the gate each number and each size is there once.
SHAPES = list(itertools.product([1, 3], [1, 4], [(1, 6, 6), (2, 7, 5), (3, 2, 9)]))
GATE = [(3, 4, (2, 7, 5)), (1, 4, (1, 6, 6)), (3, 1, (3, 2, 9))]
POOLED = Block("b", pool=True)
GAMMAS = {"positive": 0.5, "mixed": -0.5, "none": None}


def problem(
    tasks: int, batch: int, size: tuple[int, int, int], gamma: float | None, per_task: bool, outputs: int = 3
) -> tuple[Params, Tensor]:
    """Parameters of one block, and images [B, T*C, H, W]; the first channel's gamma has the sign of `gamma`."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        lead = (tasks,) if per_task else ()
        return torch.randn(*lead, *shape, generator=rng, dtype=torch.float64)

    params = {"b.conv.weight": normal(outputs, size[0], 3, 3), "b.norm.bias": normal(outputs)}
    if gamma is not None:
        params["b.norm.weight"] = normal(outputs).abs() + 0.1
        params["b.norm.weight"][..., 0] = gamma
    x = fold(torch.randn(tasks, batch, *size, generator=rng, dtype=torch.float64))
    return {name: value.requires_grad_() for name, value in params.items()}, x.requires_grad_()


def derivatives(values: list[Tensor], leaves: list[Tensor], order: int) -> list[Tensor]:
    """The values, and slopes in the leaves of a number that depends on all of them, of that number's slopes, ..."""
    rng = torch.Generator().manual_seed(1)
    found = list(values)
    for _ in range(order):
        total = torch.zeros((), dtype=torch.float64)
        for value in values:  # random weights, so that nothing cancels
            weight = torch.randn(value.shape, generator=rng, dtype=torch.float64)
            total = total + (weight * value).sum() + 0.1 * (weight * value).square().sum()
        values = list(torch.autograd.grad(total, leaves, create_graph=True))
        found += values
    return found


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-10 * other.norm() + 1e-13


@pytest.mark.parametrize(("tasks", "batch", "size"), [*GATE, *nightly(shape for shape in SHAPES if shape not in GATE)])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("per_task", [True, False], ids=["per task", "shared"])
@pytest.mark.parametrize("pool", [True, False], ids=["pool", "stride"])
@pytest.mark.parametrize("given", [True, False], ids=["given stats", "batch stats"])
@pytest.mark.parametrize("way", [Convolution.grouped, Convolution.product])
def test_the_block_is_the_plain_one_to_the_third_derivative(
    tasks: int,
    batch: int,
    size: tuple[int, int, int],
    gamma: str,
    per_task: bool,
    pool: bool,
    given: bool,
    way: Convolution,
) -> None:
    params, x = problem(tasks, batch, size, GAMMAS[gamma], per_task)
    stats = {"b.norm.mean": torch.rand(3).double(), "b.norm.var": 1 + torch.rand(tasks, 3).double()} if given else None
    leaves = [x, *params.values(), *(stats or {}).values()]
    for leaf in leaves:
        leaf.requires_grad_()
    results = []
    for function in (conv_block, reference_block):
        out, used = function(params, Block("b", pool, way), x, stats)
        results.append(derivatives([out, used["b.norm.mean"], used["b.norm.var"]], leaves, order=3))
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


@pytest.mark.parametrize("pooled", [True, False])
def test_spread_and_collect_are_each_others_transpose_and_derivative(pooled: bool) -> None:
    """torch's finite differences, for first and second derivatives of each Function alone."""
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    y, u, g, shift, scale = normal(2, 3, 5, 4), normal(2, 3, 5, 4), normal(2, 3, 2, 2), normal(3), normal(3)
    index = torch.ops.aten.max_pool2d_with_indices(y.detach(), [2, 2], [2, 2])[1] if pooled else None
    spread = (y, index, g if pooled else None, shift, scale)
    assert torch.autograd.gradcheck(_Spread.apply, spread)
    assert torch.autograd.gradgradcheck(_Spread.apply, spread)
    start = 0 if pooled else 1  # without an index nothing is taken
    assert torch.autograd.gradcheck(lambda y, u: _Collect.apply(y, index, u)[start:], (y, u))
    assert torch.autograd.gradgradcheck(lambda y, u: _Collect.apply(y, index, u)[start:], (y, u))
    function = _PoolMoments if pooled else _Moments
    assert torch.autograd.gradcheck(function.apply, (y,))
    assert torch.autograd.gradgradcheck(function.apply, (y,))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_three_maps_of_a_convolution_are_each_others_derivatives(stride: int) -> None:
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    size = 4 if stride == 1 else 2
    x, weight, y = normal(2, 4, 4, 4), normal(6, 2, 3, 3), normal(2, 6, size, size)
    for function, inputs in (
        (_Convolve, (x, weight)),
        (_InputSlope, (weight, y, x.detach())),
        (_WeightSlope, (x, y, weight.detach())),
    ):
        assert torch.autograd.gradcheck(function.apply, (*inputs, stride, 2))
        assert torch.autograd.gradgradcheck(function.apply, (*inputs, stride, 2))


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_input_of_the_first_layer_costs_no_slope(tasks: int) -> None:
    """Its convolution's second derivative is that in the weight alone: nothing is computed for images."""
    params, x = problem(tasks, 2, (1, 6, 6), 0.5, per_task=True)
    out, _ = conv_block(params, POOLED, x.detach())
    first = torch.autograd.grad(out.square().sum(), list(params.values()), create_graph=True)
    with torch.profiler.profile() as profile:
        torch.autograd.grad(sum(slope.square().sum() for slope in first), list(params.values()))
    called = {event.key for event in profile.key_averages()}
    assert "_WeightSlope" in called
    assert "_InputSlope" not in called


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
    torch.testing.assert_close(mean.double(), true_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), true_var, rtol=1e-6, atol=0)
    total, product = sums(y, y)
    torch.testing.assert_close(total.double(), y.double().sum((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(product.double(), y.double().square().sum((0, 2, 3)), rtol=1e-6, atol=0)
