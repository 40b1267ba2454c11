"""Meta-SGD's meta-gradient, in float64."""

import pytest
import torch
from problems import along, finite_difference, images, init, one_task, points, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import Meta, task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_sgd import RATE, MetaSGD
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Spec


def cases() -> list[tuple[Net, Batch]]:
    (image_spec, image_batch), (point_spec, point_batch) = images(), points()
    return [
        (MLP(point_spec, hidden=(6, 6), activation=Activation.tanh), point_batch),
        (MLP(image_spec, hidden=(6,), batch_norm=True, activation=Activation.tanh), image_batch),
        (Conv4(image_spec, filters=3), image_batch),
    ]


def with_constant_rate(meta: Meta, rate: float) -> Meta:
    params = {
        name: torch.full_like(value, rate).requires_grad_() if name.startswith(RATE) else value
        for name, value in meta.params.items()
    }
    return Meta(params, meta.buffers)


@pytest.mark.parametrize(("net", "batch"), cases()[:2])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch, steps: int) -> None:
    """In the weights and in the rates."""
    algorithm = MetaSGD(inner_steps=steps)
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)

    def loss(params: Params) -> Tensor:
        return algorithm.meta_gradient(net, Meta(params, meta.buffers), batch, 0).loss.mean()

    slope, direction = finite_difference(loss, meta.params)
    assert along(update, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(("net", "batch"), cases())
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(net: Net, batch: Batch) -> None:
    algorithm = MetaSGD()
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    theta = {name: value for name, value in meta.params.items() if not name.startswith(RATE)}
    losses = []
    for task in one_task(batch):
        loss = task_loss(net.spec, net(theta, task.support_x)[0], task.support_y).sum()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        phi = {name: theta[name] - meta.params[RATE + name] * g for name, g in zip(theta, slopes, strict=True)}
        losses.append(task_loss(net.spec, net(phi, task.query_x)[0], task.query_y))
    loss = torch.cat(losses).mean()
    expected = dict(zip(meta.params, torch.autograd.grad(loss, list(meta.params.values())), strict=True))
    assert relative_error(update.gradient, expected) < 1e-10


@pytest.mark.parametrize(("net", "batch"), cases())
@pytest.mark.parametrize("steps", [1, 2])
def test_with_one_constant_rate_it_is_maml(net: Net, batch: Batch, steps: int) -> None:
    meta = with_constant_rate(init(MetaSGD(), net), 0.1)
    found = MetaSGD(inner_steps=steps).meta_gradient(net, meta, batch, 0).gradient
    theta = Meta({name: value for name, value in meta.params.items() if not name.startswith(RATE)}, meta.buffers)
    expected = MAML(inner_lr=0.1, inner_steps=steps).meta_gradient(net, theta, batch, 0).gradient
    assert relative_error({name: found[name] for name in expected}, expected) < 1e-12
    assert all(found[RATE + name].abs().sum() > 0 for name in expected)


def test_all_rates_start_at_one_value_from_the_range() -> None:
    net, _ = cases()[0]
    starts = []
    for seed in range(5):
        params = MetaSGD(initial_lr=(0.02, 0.03)).init(net, torch.Generator().manual_seed(seed)).params
        rates = torch.cat([value.flatten() for name, value in params.items() if name.startswith(RATE)])
        assert (rates == rates[0]).all()
        assert 0.02 <= rates[0] <= 0.03
        starts.append(rates[0].item())
    assert len(set(starts)) == 5


@pytest.mark.parametrize("bad", [(0.1,), (0.2, 0.1), (-0.1, 0.1), (0.1, float("inf"))])
def test_a_range_that_is_none_is_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"algo\.initial_lr="):
        MetaSGD(initial_lr=bad)


def test_another_training_way_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="algo=meta_sgd learns one output per class"):
        MetaSGD().init(Conv4(Spec((1, 16, 16), 5, 20, "classes")), torch.Generator())
