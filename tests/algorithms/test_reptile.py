"""Reptile against its written definition and the paper's expansions, in float64."""

import pytest
import torch
from problems import cases, init, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import minibatch
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.reptile import ADAM_STEPS, SECOND_MOMENT, AdamSlots, InnerOptimizer, Reptile
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch

SGD = InnerOptimizer.sgd


def gradient(net: Net, params: Params, batch: Batch) -> Params:
    """The gradient of the mean support loss over tasks in shared parameters, differentiable."""
    loss = task_loss(net.spec, net(params, batch.support_x)[0], batch.support_y).mean()
    return dict(zip(params, torch.autograd.grad(loss, list(params.values()), create_graph=True), strict=True))


@pytest.mark.parametrize(("net", "batch"), cases()[::2])
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("optimizer", InnerOptimizer)
@pytest.mark.row("D3")
def test_meta_gradient_is_the_way_that_torchs_optimizer_goes_task_by_task(
    net: Net, batch: Batch, size: int | None, optimizer: InnerOptimizer
) -> None:
    algorithm = Reptile(optimizer, inner_lr=0.01, inner_steps=4, inner_batch=size, adam_slots=AdamSlots.reset)
    meta = init(algorithm, net)
    ends: list[Params] = []
    for task in batch.chunks(1):
        phi = {name: value.detach().clone().requires_grad_() for name, value in meta.params.items()}
        inner: torch.optim.Optimizer = (
            torch.optim.SGD(phi.values(), lr=0.01)
            if optimizer is SGD
            else torch.optim.Adam(phi.values(), lr=0.01, betas=(0.0, 0.999))
        )
        for step in range(4):
            part = minibatch(task.support, size, step)
            inner.zero_grad()
            task_loss(net.spec, net(phi, part.x)[0], part.y).sum().backward()
            inner.step()
        ends.append(phi)
    expected = {name: value - torch.stack([phi[name] for phi in ends]).mean(0) for name, value in meta.params.items()}
    update = algorithm.meta_gradient(net, meta, batch, 0).gradient
    assert relative_error(update, expected) < 1e-10


@pytest.mark.parametrize(("net", "batch"), cases()[::2])
def test_with_one_step_of_sgd_it_is_joint_training(net: Net, batch: Batch) -> None:
    algorithm = Reptile(SGD, inner_lr=0.1, inner_steps=1, inner_batch=None)
    meta = init(algorithm, net)
    expected = {name: 0.1 * value for name, value in gradient(net, meta.params, batch).items()}
    assert relative_error(algorithm.meta_gradient(net, meta, batch, 0).gradient, expected) < 1e-12


def test_the_gradient_over_the_rate_is_the_sum_of_the_inner_gradients() -> None:
    net, batch = cases()[0]
    algorithm = Reptile(SGD, inner_lr=0.1, inner_steps=3, inner_batch=None)
    meta = init(algorithm, net)
    states = [state.params for state in algorithm.inner_loop(net, meta, batch.support, 3, None)]
    total = {name: torch.zeros_like(value) for name, value in meta.params.items()}
    for params in states[:-1]:
        for number, task in enumerate(batch.chunks(1)):
            phi = {name: value[number].detach().requires_grad_() for name, value in params.items()}
            for name, value in gradient(net, phi, task).items():
                total[name] += value.detach() / len(batch.key)
    update = algorithm.meta_gradient(net, meta, batch, 0).gradient
    assert relative_error({name: value / 0.1 for name, value in update.items()}, total) < 1e-10


@pytest.mark.parametrize(
    ("kind", "first", "second", "cross"),
    [("maml", 0.0, 1.0, 1.0), ("fomaml", 0.0, 1.0, 0.0), ("reptile", 1.0, 1.0, 0.0)],
)
@pytest.mark.row("D3")
def test_the_papers_expansion_in_the_rate(kind: str, first: float, second: float, cross: float) -> None:
    """Section 5.1, k = 2: minibatches A and then B with gradients a, b and Hessians Ha, Hb:

    MAML b - alpha (Hb a + Ha b),  FOMAML b - alpha Hb a,  Reptile a + b - alpha Hb a,  each up to alpha squared. In
    expectation over the order: 1, 1, 2 times AvgGrad, less alpha times 2, 1, 1 times AvgGradInner.
    """
    alpha, (net, batch) = 1e-4, cases()[0]
    batch = batch.task(0)
    meta = init(MAML(), net)
    halves = [minibatch(batch.support, 2, step) for step in range(2)]
    a, b = (gradient(net, meta.params, batch._replace(support_x=h.x, support_y=h.y)) for h in halves)

    def hessian_times(slope: Params, vector: Params) -> Params:
        product = sum((slope[name] * vector[name].detach()).sum() for name in slope)
        assert isinstance(product, Tensor)
        parts = torch.autograd.grad(product, list(meta.params.values()), retain_graph=True)
        return dict(zip(meta.params, parts, strict=True))

    hb_a, ha_b = hessian_times(b, a), hessian_times(a, b)
    expected = {name: hb_a[name] + cross * ha_b[name] for name in a}
    if kind == "reptile":
        algorithm = Reptile(SGD, inner_lr=alpha, inner_steps=2, inner_batch=2)
        update = algorithm.meta_gradient(net, meta, batch, 0).gradient
        update = {name: value / alpha for name, value in update.items()}
    else:
        pair = Batch(halves[0].x, halves[0].y, halves[1].x, halves[1].y, batch.key)
        maml = MAML(inner_lr=alpha, first_order=kind == "fomaml")
        update = maml.meta_gradient(net, meta, pair, 0).gradient
    correction = {name: (first * a[name] + second * b[name] - update[name]) / alpha for name in a}
    assert relative_error(correction, expected) < 1e-2


def test_adams_slots_are_kept_as_buffers_and_are_the_means_over_tasks() -> None:
    net, batch = cases()[0]
    algorithm = Reptile(inner_steps=2, inner_batch=None)
    meta = init(algorithm, net)
    for number in (1, 2):  # the second meta-iteration goes on from the slots of the first
        before, (*_, state) = meta, algorithm.inner_loop(net, meta, batch.support, 2, None)
        meta = meta._replace(buffers=algorithm.meta_gradient(net, meta, batch, number).buffers)
        assert meta.buffers[ADAM_STEPS].item() == 2 * number
        for name, value in state.second_moment.items():
            torch.testing.assert_close(meta.buffers[SECOND_MOMENT + name], value.mean(0))
            assert not torch.equal(meta.buffers[SECOND_MOMENT + name], before.buffers[SECOND_MOMENT + name])
    forgetful = Reptile(inner_steps=2, adam_slots=AdamSlots.reset)
    assert not init(forgetful, net).buffers


def test_with_one_task_a_meta_batch_the_kept_slots_are_those_of_one_adam_that_goes_on() -> None:
    """The authors' code: Adam's slots stay, the weights go back to theta."""
    net, batch = cases()[0]
    algorithm = Reptile(inner_lr=0.01, inner_steps=3, inner_batch=None)
    meta = init(algorithm, net)
    phi = {name: value.detach().clone().requires_grad_() for name, value in meta.params.items()}
    adam = torch.optim.Adam(phi.values(), lr=0.01, betas=(0.0, 0.999))
    for task in batch.chunks(1):
        for name, value in meta.params.items():
            phi[name].data.copy_(value)
        for _ in range(3):
            adam.zero_grad()
            task_loss(net.spec, net(phi, task.support_x)[0], task.support_y).sum().backward()
            adam.step()
        update = algorithm.meta_gradient(net, meta, task, 0)
        expected = {name: value - phi[name] for name, value in meta.params.items()}
        assert relative_error(update.gradient, expected) < 1e-10
        meta = meta._replace(buffers=update.buffers)


@pytest.mark.parametrize("algorithm", [Reptile(inner_steps=3), Reptile(SGD, inner_lr=0.1)])
@pytest.mark.row("D4")
def test_training_looks_at_no_query_set(algorithm: Reptile) -> None:
    net, batch = cases()[1]
    meta = init(algorithm, net)
    other = batch._replace(query_x=batch.query_x + 1, query_y=(batch.query_y + 1) % 3)
    update, expected = (algorithm.meta_gradient(net, meta, b, 0).gradient for b in (batch, other))
    assert all(torch.equal(update[name], expected[name]) for name in update)


def test_the_test_goes_on_from_the_kept_slots_and_changes_nothing() -> None:
    net, batch = cases()[1]
    algorithm = Reptile(inner_steps=3, test_batch=2)
    meta = init(algorithm, net)
    meta = Meta(meta.params, algorithm.meta_gradient(net, meta, batch, 0).buffers)
    before = {name: value.clone() for name, value in (meta.params | meta.buffers).items()}
    with torch.no_grad():
        predictors = list(algorithm.adapt(net, meta, batch.support, 4))
        whole = predictors[-1](batch.query_x, BatchNorm.one_query)
        alone = predictors[-1](batch.query_x[:, :1], BatchNorm.one_query)
    assert len(predictors) == 5
    torch.testing.assert_close(whole[:, :1], alone)
    assert all(torch.equal(value, before[name]) for name, value in (meta.params | meta.buffers).items())
    fresh = Meta(meta.params, {**meta.buffers, ADAM_STEPS: torch.zeros((), dtype=torch.float64)})
    fresh = fresh._replace(
        buffers={n: torch.zeros_like(v) if n.startswith(SECOND_MOMENT) else v for n, v in fresh.buffers.items()}
    )
    with torch.no_grad():
        *_, predict = algorithm.adapt(net, fresh, batch.support, 4)
        assert not torch.allclose(predict(batch.query_x, BatchNorm.one_query), whole)
