"""MAML's meta-gradient against finite differences and against its definition, in float64."""

import pytest
import torch
from problems import along, finite_difference, images, init, one_task, points, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta, task_loss
from metalearn_cli.algorithms.inner_loop import descend
from metalearn_cli.algorithms.maml import MAML, AdaptedPart, InnerLoss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Spec


def definition(algorithm: MAML, net: Net, params: Params, batch: Batch, adapted: set[str] | None = None) -> Tensor:
    """The mean query loss by the paper's equations, one task after the other; `adapted` parameters, or all."""
    losses = []
    for task in one_task(batch):
        phi = params
        for _ in range(algorithm.inner_steps):
            loss = task_loss(net.spec, net(phi, task.support_x)[0], task.support_y).sum()
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            if algorithm.first_order:
                slopes = tuple(slope.detach() for slope in slopes)
            phi = {
                name: value - algorithm.inner_lr * slope if adapted is None or name in adapted else value
                for (name, value), slope in zip(phi.items(), slopes, strict=True)
            }
        losses.append(task_loss(net.spec, net(phi, task.query_x)[0], task.query_y))
    return torch.cat(losses).mean()


def cases() -> list[tuple[Net, Batch]]:
    (image_spec, image_batch), (point_spec, point_batch) = images(), points()
    return [
        (MLP(point_spec, hidden=(6, 6), activation=Activation.tanh), point_batch),
        (MLP(image_spec, hidden=(6,), batch_norm=True, activation=Activation.tanh), image_batch),
        (Conv4(image_spec, filters=3), image_batch),
        (Conv4(image_spec, filters=3, downsample=Downsample.stride, gamma=False), image_batch),
    ]


@pytest.mark.parametrize(("net", "batch"), cases()[:2])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch, steps: int) -> None:
    """Smooth activations: a difference across a kink would not be a derivative."""
    algorithm = MAML(inner_lr=0.1, inner_steps=steps)
    meta = init(algorithm, net)

    update = algorithm.meta_gradient(net, meta, batch, 0)

    def loss(params: Params) -> Tensor:
        return algorithm.meta_gradient(net, Meta(params, meta.buffers), batch, 0).loss.mean()

    slope, direction = finite_difference(loss, meta.params)
    assert along(update, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(("net", "batch"), cases())
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(
    net: Net, batch: Batch, first_order: bool, steps: int
) -> None:
    algorithm = MAML(inner_lr=0.1, inner_steps=steps, first_order=first_order)
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    loss = definition(algorithm, net, meta.params, batch)
    expected = dict(zip(meta.params, torch.autograd.grad(loss, list(meta.params.values())), strict=True))
    assert relative_error(update.gradient, expected) < 1e-10
    assert update.loss.mean().item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("net_and_batch", cases()[1:3])
@pytest.mark.parametrize("adapted", AdaptedPart)
def test_a_part_can_be_adapted_and_all_is_meta_learned(net_and_batch: tuple[Net, Batch], adapted: AdaptedPart) -> None:
    """The parts by the names that these two networks have."""
    net, batch = net_and_batch
    algorithm = MAML(inner_lr=0.1, inner_steps=2, adapted=adapted)
    meta = init(algorithm, net)
    names = {
        AdaptedPart.all: set(meta.params),
        AdaptedPart.no_batch_norm: {name for name in meta.params if "norm" not in name},
        AdaptedPart.head: {"head.weight", "head.bias"},
        AdaptedPart.body: set(meta.params) - {"head.weight", "head.bias"},
    }[adapted]
    loss = definition(algorithm, net, meta.params, batch, names)
    expected = dict(zip(meta.params, torch.autograd.grad(loss, list(meta.params.values())), strict=True))
    assert relative_error(algorithm.meta_gradient(net, meta, batch, 0).gradient, expected) < 1e-10
    end = descend(net, algorithm._start(net, meta), batch.support, 2, second_order=True, remat=False)
    changed = {name for name, value in meta.params.items() if not torch.equal(end[name], value.expand_as(end[name]))}
    assert changed == names


def test_a_model_without_the_part_to_adapt_is_refused_in_a_sentence() -> None:
    class Headless:
        spec = images()[0]

        def init(self, rng: torch.Generator) -> Params:
            return {"body.weight": torch.ones(1)}

        def init_stats(self) -> Params:
            return {}

    with pytest.raises(UserError, match=r"algo\.adapted=head leaves nothing to adapt"):
        MAML(adapted=AdaptedPart.head).init(Headless(), torch.Generator())  # type: ignore[arg-type]


def test_first_and_second_order_differ_and_agree_where_the_hessian_is_zero() -> None:
    net, batch = cases()[0]
    meta = init(MAML(), net)
    second, first = (
        MAML(inner_lr=0.1, first_order=order).meta_gradient(net, meta, batch, 0).gradient for order in (False, True)
    )
    assert relative_error(first, second) > 1e-2

    # A linear model far from its targets: (w x - y)^2 has a Hessian of 2 x^2 against a gradient of 2 x y.
    spec, far = points()
    far = far._replace(support_y=far.support_y.sign() * 1e7)
    linear = Linear(spec, bias=True)
    meta = init(MAML(), linear)
    update = {
        (rate, order): MAML(inner_lr=rate, first_order=order).meta_gradient(linear, meta, far, 0).gradient
        for rate in (0.0, 1e-7)
        for order in (False, True)
    }
    assert relative_error(update[1e-7, True], update[1e-7, False]) < 1e-5
    assert relative_error(update[1e-7, True], update[0.0, True]) > 0.1  # the step itself is large


@pytest.mark.parametrize("way", [2, 3])
def test_the_inner_loss_of_the_authors_code_is_way_times_the_rate(way: int) -> None:
    spec, batch = images(way=way)
    net = Conv4(spec, filters=3)
    meta = init(MAML(), net)
    scaled = MAML(inner_lr=0.1, inner_loss=InnerLoss.way_times_mean).meta_gradient(net, meta, batch, 0)
    plain = MAML(inner_lr=0.1 * spec.outputs).meta_gradient(net, meta, batch, 0)
    assert relative_error(scaled.gradient, plain.gradient) < 1e-12


@pytest.mark.parametrize(("net", "batch"), cases())
def test_adapting_for_a_test_equals_adapting_in_training(net: Net, batch: Batch) -> None:
    algorithm = MAML(inner_lr=0.1, inner_steps=2, test_steps=2)
    meta = init(algorithm, net)
    with torch.no_grad():
        predictors = list(algorithm.adapt(net, meta, batch.support, 2))
        out = predictors[-1](batch.query_x, BatchNorm.transductive)
    assert len(predictors) == 3
    loss = task_loss(net.spec, out, batch.query_y)
    torch.testing.assert_close(loss, algorithm.meta_gradient(net, meta, batch, 0).loss)
    assert not out.requires_grad


def test_batch_norm_modes_are_what_they_say() -> None:
    spec, batch = images()
    net = Conv4(spec, filters=3)
    algorithm = MAML(inner_lr=0.1)
    meta = init(algorithm, net)
    with torch.no_grad():
        *_, predict = algorithm.adapt(net, meta, batch.support, 2)
        whole = {mode: predict(batch.query_x, mode) for mode in BatchNorm}
        alone = {mode: predict(batch.query_x[:, :1], mode) for mode in BatchNorm}
    for mode in (BatchNorm.inductive, BatchNorm.running, BatchNorm.one_query):
        torch.testing.assert_close(whole[mode][:, :1], alone[mode])  # a prediction does not depend on its neighbours
    assert not torch.allclose(whole[BatchNorm.transductive][:, :1], alone[BatchNorm.transductive])
    distinct = [whole[mode] for mode in BatchNorm]
    assert all(not torch.allclose(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def test_running_statistics_move_a_tenth_towards_the_query_sets() -> None:
    spec, batch = images()
    net = Conv4(spec, filters=3)
    algorithm = MAML(inner_lr=0.0)
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    with torch.no_grad():
        _, stats = net(meta.params, batch.query_x)
    for name, value in update.buffers.items():
        torch.testing.assert_close(value, 0.9 * meta.buffers[name] + 0.1 * stats[name].mean(0))


def test_another_training_way_is_refused_in_a_sentence() -> None:
    spec = Spec((1, 16, 16), 5, 20, "classes")
    with pytest.raises(UserError, match=r"task.train_way=20 must equal task.way=5"):
        MAML().init(Conv4(spec), torch.Generator())


@pytest.mark.parametrize("bad", [{"inner_lr": float("nan")}, {"inner_lr": -1.0}, {"inner_steps": 0}, {"test_steps": 0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"algo.{next(iter(bad))}="):
        MAML(**bad)  # type: ignore[arg-type]
