"""CAVIA against finite differences, the paper's equations and MAML, in float64."""

from functools import partial

import pytest
import torch
from problems import ON_MAPS, expect_definition, expect_slope, images, init, points, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.cavia import CAVIA
from metalearn_cli.algorithms.inner_loop import query_loss
from metalearn_cli.algorithms.losses import mean_gradient, task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import CONTEXT, Net, Params
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch
from metalearn_cli.trained.learned import for_way, learned_network

(SPEC, IMAGES), (VALUES, POINTS) = images(), points()
CONV = Conv4(SPEC, filters=3, context=2)
CASES: list[tuple[Net, Batch]] = [
    (MLP(VALUES, hidden=(6, 6), activation=Activation.tanh, context=3), POINTS),
    (CONV, IMAGES),
    (Conv4(SPEC, filters=3, slope=0.1, downsample=Downsample.stride, context=2), IMAGES),
]


def definition(algorithm: CAVIA, net: Net, params: Params, task: Batch) -> Tensor:
    """The query loss of one task by the paper's equations."""
    context = torch.zeros(net.shapes[CONTEXT], dtype=torch.float64, requires_grad=True)
    for _ in range(algorithm.inner_steps):
        loss = task_loss(net.spec, net(params | {CONTEXT: context}, task.support_x)[0], task.support_y).sum()
        (slope,) = torch.autograd.grad(loss, context, create_graph=True)
        context = context - algorithm.inner_lr * (slope.detach() if algorithm.first_order else slope)
    return task_loss(net.spec, net(params | {CONTEXT: context}, task.query_x)[0], task.query_y)


def test_meta_gradient_equals_finite_differences() -> None:
    expect_slope(CAVIA(inner_lr=0.5, inner_steps=2), *CASES[0])


@pytest.mark.parametrize(("net", "batch"), CASES)
@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_equals_the_definition_task_by_task(net: Net, batch: Batch, first_order: bool) -> None:
    algorithm = CAVIA(inner_lr=0.5, inner_steps=2, first_order=first_order)
    expect_definition(algorithm, net, init(algorithm, net), batch, partial(definition, algorithm, net))


def test_without_a_rate_it_is_joint_training_on_the_query_sets() -> None:
    algorithm, (net, batch) = CAVIA(inner_lr=0.0), CASES[0]
    meta = init(algorithm, net)
    loss, _ = query_loss(net, meta.params | {CONTEXT: torch.zeros(3).double()}, batch, 0)
    expected = mean_gradient(loss, meta.params)
    assert relative_error(algorithm.meta_gradient(net, meta, batch, 0).gradient, expected) < 1e-12


def test_a_step_on_a_context_is_one_on_the_first_bias_multiplied_by_its_weights() -> None:
    algorithm, (net, batch) = CAVIA(inner_lr=0.5), CASES[0]
    params = {name: value.detach() for name, value in init(algorithm, net).params.items()}
    weight = params["layer1.weight"][:, 1:]  # of the context
    bias = params["layer1.bias"].expand(3, -1).clone().requires_grad_()
    plain = params | {CONTEXT: torch.zeros(3).double(), "layer1.weight": params["layer1.weight"].expand(3, -1, -1)}
    loss = task_loss(VALUES, net(plain | {"layer1.bias": bias}, batch.support_x)[0], batch.support_y).sum()
    (slope,) = torch.autograd.grad(loss, bias)
    moved = bias.detach() - 0.5 * slope @ (weight @ weight.T)
    expected = net(plain | {"layer1.bias": moved}, batch.query_x)[0]
    with torch.no_grad():
        *_, predict = algorithm.adapt(net, init(algorithm, net), batch.support, 1)
    torch.testing.assert_close(predict(batch.query_x, BatchNorm.transductive), expected)


def test_a_context_of_zeros_changes_no_image_and_is_drawn_last() -> None:
    plain = Conv4(SPEC, filters=3)
    start, other = (net.init(torch.Generator().manual_seed(0)) for net in (CONV, plain))
    assert all(torch.equal(start[name], value) for name, value in other.items())
    x = IMAGES.query_x.float()
    torch.testing.assert_close(CONV(start, x)[0], plain(other, x)[0])
    assert not torch.allclose(CONV(start | {CONTEXT: torch.ones(2)}, x)[0], plain(other, x)[0])


@pytest.mark.parametrize("algorithm", ON_MAPS)
def test_other_algorithms_learn_the_context_as_they_learn_a_weight(algorithm: Algorithm) -> None:
    expect_slope(algorithm, CONV, IMAGES, step=1e-6)
    assert algorithm.meta_gradient(CONV, init(algorithm, CONV), IMAGES, 0).gradient[CONTEXT].any()


def test_what_was_learned_is_the_network_of_a_context_of_zeros() -> None:
    meta = init(CAVIA(), CONV)
    net, params, _ = learned_network(CAVIA(), CONV, meta)
    assert params.keys() == net.shapes.keys()
    assert not params[CONTEXT].any()


def test_a_network_without_a_context_and_another_way_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"^algo=cavia needs inputs that a task sets, .*: take model=mlp or .* with model\.context=5"
    ):
        CAVIA().init(MLP(VALUES), torch.Generator())
    with pytest.raises(
        UserError, match="trained with 3 classes, the support has 4, and algo=cavia never changes the head"
    ):
        for_way(CAVIA(), CONV, init(CAVIA(), CONV), 4)
