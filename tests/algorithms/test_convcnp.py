"""Convolutional neural processes: the formula, translations, what is out of sight, and gradients."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from problems import expect_definition, expect_slope, gaussian_points, init, with_padding
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.convcnp import ConvCNP
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.base import Batch, Spec

SMALL = ConvCNP(low=-4, high=4, points_per_unit=4, width=4, layers=2, kernel=3)


def problem(inputs: int) -> tuple[Net, Batch]:
    spec, batch = gaussian_points()
    if inputs == 2:
        batch = batch._replace(**{name: _with_another(getattr(batch, name)) for name in ("support_x", "query_x")})
    return Linear(spec._replace(input_shape=(inputs,))), batch


def _with_another(x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(1).cos()], -1)


EACH = pytest.mark.parametrize("inputs", [1, 2])


def predicted(net: Net, batch: Batch, algorithm: ConvCNP = SMALL, meta: Meta | None = None) -> Tensor:
    predict = final_of(algorithm.adapt(net, meta or init(algorithm, net), batch.support, 0))
    return predict(batch.query_x, BatchNorm.running, batch.query_mask)


@EACH
def test_the_meta_gradient_is_the_slope_of_the_loss(inputs: int) -> None:
    expect_slope(SMALL, *problem(inputs), step=1e-6)


@EACH
def test_order_padding_and_other_queries_change_no_prediction(inputs: int) -> None:
    net, batch = problem(inputs)
    expected = predicted(net, batch)
    shuffled = batch._replace(support_x=batch.support_x.flip(1), support_y=batch.support_y.flip(1))
    torch.testing.assert_close(predicted(net, shuffled), expected, rtol=1e-10, atol=1e-10)
    alone = batch._replace(query_x=batch.query_x[:, 1:2], query_y=batch.query_y[:, 1:2])
    torch.testing.assert_close(predicted(net, alone), expected[:, 1:2], rtol=1e-10, atol=1e-10)
    padded = with_padding(batch)
    padded = padded._replace(support_x=padded.support_x.where(padded.support_mask.unsqueeze(-1), 0.5))  # in sight
    torch.testing.assert_close(predicted(net, padded)[:, :-1], expected, rtol=1e-10, atol=1e-10)
    updates = [SMALL.meta_gradient(net, init(SMALL, net), part, 0) for part in (batch, padded)]
    torch.testing.assert_close(updates[1].loss, updates[0].loss, rtol=1e-10, atol=1e-10)
    for name, value in updates[0].gradient.items():
        torch.testing.assert_close(updates[1].gradient[name], value, rtol=1e-8, atol=1e-10)


@EACH
def test_the_network_is_the_papers_formula(inputs: int) -> None:
    """Task by task, with every distance between points and the grid."""
    net, batch = problem(inputs)
    line = -4.1 + 0.25 * torch.arange(34, dtype=torch.float64)  # the last one lies at 4.15
    grid = torch.cartesian_prod(*[line] * inputs).view(-1, inputs)

    def kernel(x: Tensor, name: str, params: Params) -> Tensor:
        return (-0.5 * ((x.unsqueeze(1) - grid) / params[f"set:{name}.log_length"].exp()).square().sum(-1)).exp()

    def layer(params: Params, name: str, x: Tensor) -> Tensor:  # [points, channels]
        return F.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def loss_of(params: Params, task: Batch) -> Tensor:
        near = kernel(task.support_x[0], "encode", params)
        density = near.sum(0).unsqueeze(-1)
        h = layer(params, "set:first", torch.cat([density, near.T @ task.support_y[0] / (density + 1e-8)], -1))
        convolve = F.conv1d if inputs == 1 else F.conv2d
        for number in range(2):
            weight = params[f"set:layer{number}.depthwise.weight"]
            image = h.relu().T.view(1, 4, *[len(line)] * inputs)
            seen = convolve(image, weight.view(*weight.shape[: 2 + inputs]), padding=1, groups=4)
            h = h + layer(params, f"set:layer{number}", seen.view(4, -1).T)
        near = kernel(task.query_x[0], "decode", params)
        out = layer(params, "set:head", near / (near.sum(1, keepdim=True) + 1e-8) @ h.relu())
        return task_loss(net.spec, out.unsqueeze(0), task.query_y)

    expect_definition(SMALL, net, init(SMALL, net), batch, loss_of)


@EACH
def test_a_translation_by_spacings_of_the_grid_moves_the_prediction_with_it(inputs: int) -> None:
    net, batch = problem(inputs)
    wide = replace(SMALL, low=-9, high=9)
    moved = [
        batch._replace(support_x=batch.support_x + by, query_x=batch.query_x + by) for by in (0.25, -0.75, 0.25 / 3)
    ]
    meta, expected = init(wide, net), predicted(net, batch, wide)
    for part in moved[:2]:
        torch.testing.assert_close(predicted(net, part, wide, meta), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(predicted(net, moved[2], wide, meta), expected, rtol=1e-5, atol=1e-5)


@EACH
def test_what_is_out_of_sight_has_no_influence(inputs: int) -> None:
    net, batch = problem(inputs)
    wide = replace(SMALL, low=-25, high=25, points_per_unit=2)
    far, near = (
        batch._replace(
            support_x=torch.cat([batch.support_x, torch.full_like(batch.support_x[:, :1], place)], 1),
            support_y=torch.cat([batch.support_y, torch.full_like(batch.support_y[:, :1], 9.0)], 1),
        )
        for place in (24.0, 1.0)
    )
    meta, expected = init(wide, net), predicted(net, batch, wide)
    assert torch.equal(predicted(net, far, wide, meta), expected)
    assert not torch.allclose(predicted(net, near, wide, meta), expected)
    outside = batch._replace(query_x=batch.query_x + 1000)  # of the grid: what the head says of nothing
    nothing = meta.params["set:head.bias"].expand_as(expected)
    torch.testing.assert_close(predicted(net, outside, wide, meta), nothing)


def test_what_it_cannot_do_is_said() -> None:
    spec, _ = gaussian_points()
    for net, sentence in (
        (
            Linear(spec._replace(input_shape=(3,))),
            "grid of one or two inputs, and this task's examples have 3: take task=",
        ),
        (MLP(Spec((1,), *spec[1:]), hidden=(2,)), "which this model changes: give model=identity"),
    ):
        with pytest.raises(UserError, match=sentence):
            init(SMALL, net)
    with pytest.raises(UserError, match=r"algo\.low=2 must be below algo\.high=-1"):
        ConvCNP(low=2, high=-1)
    with pytest.raises(UserError, match=r"algo\.kernel=4 must be an odd whole number"):
        load_job(["algo=convcnp", "algo.kernel=4"])
    with pytest.raises(UserError, match=r"inputs of this task go from -5 to 5: give algo\.low=-5 algo\.high=5"):
        load_job(["algo=convcnp", "task=sinusoid", "task.likelihood=gaussian"])
    load_job(["algo=convcnp", "task=sinusoid", "task.likelihood=gaussian", "algo.low=-5", "algo.high=5"])
