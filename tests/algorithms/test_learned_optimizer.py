"""The learned optimizer's meta-gradient against its definition, in float64, and what DeepMind's own test asks of it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import DOUBLE, along, finite_difference, images, init, points, relative_error, torch_cell
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import from_vector, minibatch
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer, LearnedPosition, Preprocess
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.optimizee import Optimizee
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch, Spec, Support
from metalearn_cli.tasks.likelihood import SquaredError

MODE = BatchNorm.transductive


class Module(torch.nn.Module):
    """A user's own."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.body = torch.nn.Linear(*spec.input_shape, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.head = torch.nn.Linear(3, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.body(x)).tanh())
        return out


def cases() -> list[tuple[Net, Batch, LearnedOptimizer]]:
    (image_spec, image_batch), (point_spec, point_batch) = images(), points()
    raw = LearnedOptimizer(hidden=(4, 3), scale=0.1, start_std=0.5, unroll=3, horizon=9)
    prepared = replace(raw, preprocess=Preprocess.log_sign, p=5.0, batch_size=4)
    return [
        (Linear(point_spec, bias=True), point_batch, raw),
        (MLP(point_spec, hidden=(3,), activation=Activation.sigmoid), point_batch, prepared),
        (MLP(image_spec, hidden=(2,), batch_norm=True), image_batch, prepared),
        (Conv4(image_spec, filters=2), image_batch, prepared),
        (module_net(Module, point_spec, {}), point_batch, raw),
    ]


Gradient = Callable[[int, int, Tensor], Tensor]  # task, step, theta [P] -> the gradient [P] that the LSTM is fed


def loss_of(net: Net, task: Batch, batch_size: int | None, step: int, theta: Tensor) -> Tensor:
    """f(theta) of one task, theta [P], on the minibatch of that step."""
    examples = minibatch(task.support, batch_size, step)
    return task_loss(net.spec, net(from_vector(theta[None], net.shapes), examples.x)[0], examples.y).sum()


def definition(
    algorithm: LearnedOptimizer, net: Net, params: Params, batch: Batch, at: list[Any], gradient: Gradient | None = None
) -> tuple[Tensor, list[Any]]:
    """The mean over tasks of the sum of f over one unroll, by the paper's equations, with torch's own LSTMCell.

    One task after the other. `at` is each task's (theta, state, step); the new ones are returned.
    """
    cells = [torch_cell(params, f"lstm{layer}") for layer in range(1, len(algorithm.hidden) + 1)]
    total, after = torch.zeros((), dtype=torch.float64), []
    for number, (task, (theta, state, step)) in enumerate(zip(batch.chunks(1), at, strict=True)):
        for now in range(step, step + algorithm.unroll):
            if gradient is None:
                point = theta.detach().requires_grad_()
                fed = torch.autograd.grad(loss_of(net, task, algorithm.batch_size, now, point), point)[0]
            else:
                fed = gradient(number, now, theta)
            x = fed[:, None]
            if algorithm.preprocess is Preprocess.log_sign:
                small = fed.abs() < math.exp(-algorithm.p)
                x = torch.stack([fed.abs().log() / algorithm.p, fed.sign()], 1)
                x[small] = torch.stack([torch.full_like(fed, -1), math.exp(algorithm.p) * fed], 1)[small]
            states = []
            for cell, before in zip(cells, state, strict=True):
                states.append(cell(x, before))
                x = states[-1][0]
            state = states
            theta = theta + algorithm.scale * (x @ params["readout.weight"].T + params["readout.bias"])[:, 0]
            total = total + loss_of(net, task, algorithm.batch_size, now + 1, theta)
        after.append((theta.detach(), [(h.detach(), c.detach()) for h, c in state], step + algorithm.unroll))
    return total / len(batch.key), after


def starts(algorithm: LearnedOptimizer, net: Net, batch: Batch) -> list[Any]:
    theta = Optimizee(net, batch.support, None).start(algorithm.start_std)
    zeros = [theta.new_zeros(theta.shape[1], width) for width in algorithm.hidden]
    return [(row, [(zero, zero) for zero in zeros], 0) for row in theta]


@pytest.mark.parametrize(("net", "batch", "algorithm"), cases())
@pytest.mark.row("D3")
def test_the_updates_of_a_horizon_equal_the_definition_task_by_task(
    net: Net, batch: Batch, algorithm: LearnedOptimizer
) -> None:
    """Three unrolls: the second goes on where the first has ended, and its gradient does not reach behind."""
    meta = init(algorithm, net)
    at, carry = starts(algorithm, net, batch), None
    for unroll in range(3):
        loss, at = definition(algorithm, net, meta.params, batch, at)
        expected = dict(zip(meta.params, torch.autograd.grad(loss, list(meta.params.values())), strict=True))
        update = algorithm.meta_gradient(net, meta, batch, 0, carry)
        assert relative_error(update.gradient, expected) < 1e-10
        end = [
            loss_of(net, task, algorithm.batch_size, step, theta)
            for task, (theta, _, step) in zip(batch.chunks(1), at, strict=True)
        ]
        torch.testing.assert_close(update.loss, torch.stack(end))
        carry = update.carry
        assert (carry is None) == (unroll == 2)
        if carry is not None:
            assert not carry.theta.requires_grad
            assert not any(part.requires_grad for pair in carry.state for part in pair)


@pytest.mark.parametrize(("net", "batch", "algorithm"), cases()[:2])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences_where_the_gradients_that_are_fed_stay(
    net: Net, batch: Batch, algorithm: LearnedOptimizer
) -> None:
    """A difference with gradients that move along would see the second derivatives that the paper drops."""
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    recorded: dict[tuple[int, int], Tensor] = {}

    def record(task: int, step: int, theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        one = batch.chunks(1)[task]
        loss = loss_of(net, one, algorithm.batch_size, step, theta)
        recorded[task, step] = torch.autograd.grad(loss, theta)[0]
        return recorded[task, step]

    begin = starts(algorithm, net, batch)
    definition(algorithm, net, meta.params, batch, begin, record)

    def frozen(params: Params) -> Tensor:
        return definition(algorithm, net, params, batch, begin, lambda task, step, _: recorded[task, step])[0]

    def moving(params: Params) -> Tensor:
        return definition(algorithm, net, params, batch, begin)[0]

    slope, direction = finite_difference(frozen, meta.params)
    assert along(update, direction) == pytest.approx(slope, rel=1e-6)
    assert along(update, direction) != pytest.approx(finite_difference(moving, meta.params)[0], rel=1e-5)


@pytest.mark.parametrize(("net", "batch", "algorithm"), cases())
def test_adapting_for_a_test_equals_adapting_in_training(net: Net, batch: Batch, algorithm: LearnedOptimizer) -> None:
    """And a test may go on for longer than the horizon."""
    meta = init(algorithm, net)
    carry, ends = None, []
    for _ in range(2):
        carry = algorithm.meta_gradient(net, meta, batch, 0, carry).carry
        assert isinstance(carry, LearnedPosition)
        ends.append(carry.theta)
    with torch.no_grad():
        predictors = list(algorithm.adapt(net, meta, batch.support, 12))
    assert len(predictors) == 13
    optimizee = Optimizee(net, batch.support, None)
    for predict, theta in ((predictors[3], ends[0]), (predictors[6], ends[1])):
        expected = net(optimizee.parameters(theta), batch.query_x)[0]
        torch.testing.assert_close(predict(batch.query_x, MODE), expected)
        assert not predict(batch.query_x, MODE).requires_grad


def test_adapting_can_be_differentiated_in_the_optimizer() -> None:
    net, batch, algorithm = cases()[1]
    meta = init(algorithm, net)
    *_, last = algorithm.adapt(net, meta, batch.support, 3)
    gradient = torch.autograd.grad(last(batch.query_x, MODE).sum(), list(meta.params.values()))
    assert all(part.abs().sum() > 0 for part in gradient)


def test_a_meta_iteration_is_an_update_for_each_unroll() -> None:
    net, batch, _ = cases()[0]
    algorithm = LearnedOptimizer(hidden=(4, 3), unroll=20, horizon=100)
    trained = Learner(algorithm, net, Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    loss = trained.step(batch, 0)
    assert all(
        value.item() == 5 for name, value in trained.state_dict().items() if name.endswith(".step")
    )  # Adam has counted
    assert loss.shape == (3,)


STARTED, FORTY = images(tasks=40, size=16)


@pytest.mark.parametrize(
    "net", [MLP(STARTED, (20,)), Conv4(STARTED, filters=8), MLP(STARTED, (20,), batch_norm=True)], ids=str
)
def test_the_start_is_normal_and_each_tasks_own(net: Net) -> None:
    batch = FORTY
    optimizee = Optimizee(net, batch.support, None)
    start = optimizee.parameters(optimizee.start(0.01))
    norms = {key.rpartition(".")[0] for key in net.init_stats()}
    drawn = torch.cat([value.flatten(1) for key, value in start.items() if key.rpartition(".")[0] not in norms], 1)
    count = drawn.numel()
    assert abs(drawn.mean()) < 4 * 0.01 / math.sqrt(count)
    assert drawn.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * count))
    assert (drawn.abs() < 0.01).double().mean().item() == pytest.approx(0.6827, abs=4 * 0.466 / math.sqrt(count))
    assert (drawn.abs() < 0.02).double().mean().item() == pytest.approx(0.9545, abs=4 * 0.208 / math.sqrt(count))
    rows = drawn - drawn.mean(1, keepdim=True)
    alike = torch.corrcoef(rows) - torch.eye(40, dtype=rows.dtype)
    assert alike.abs().max() < 6 / math.sqrt(drawn.shape[1])
    assert all((start[f"{norm}.weight"] == 1).all() and (start[f"{norm}.bias"] == 0).all() for norm in norms)
    other = batch.support._replace(key=batch.key.flip(0))
    again = Optimizee(net, other, None).start(0.01)
    assert torch.equal(again.flip(0), optimizee.start(0.01))


def test_steps_take_the_minibatches_that_they_should() -> None:
    spec, batch = images()
    optimizee = Optimizee(MLP(spec, hidden=(3,)), batch.support, 4)
    theta = optimizee.start(0.5)
    for step in (0, 1, 7):
        some = minibatch(batch.support, 4, step)
        whole = Optimizee(optimizee.net, Support(*some), None)
        torch.testing.assert_close(optimizee.gradient(theta, step).gradient, whole.gradient(theta, 0).gradient)
    assert not torch.allclose(optimizee.gradient(theta, 0).gradient, optimizee.gradient(theta, 1).gradient)


@pytest.mark.nightly
def test_deepminds_own_test_is_passed() -> None:
    """learning-to-learn's convergence test: f(x) = x^2 by a linear optimizer that starts at zero, 5 unrolls of 20 steps
    an epoch, Adam with 1e-2; below 1e-5 within 500 epochs."""
    spec = Spec((1,), 1, 1, SquaredError())
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    batch = Batch(one, zero, one, zero, torch.arange(1))
    algorithm = LearnedOptimizer(hidden=(), start_std=1.0)
    trained = Learner(algorithm, Linear(spec), Optimizer(lr=1e-2), torch.Generator())
    assert not any(value.any() for value in trained.meta.params.values())
    start = trained.evaluate(batch, [MODE])[MODE].loss[0, -1]
    assert start > 1e-2
    assert any(trained.step(batch, epoch).item() < 1e-5 for epoch in range(500))
    assert trained.evaluate(batch, [MODE])[MODE].loss[0, -1] < 1e-5


def test_running_statistics_are_those_of_the_last_step() -> None:
    net, batch, algorithm = cases()[2]
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    stats = Optimizee(net, batch.support, algorithm.batch_size).gradient(update.carry.theta, 3).stats
    for name, value in update.buffers.items():
        torch.testing.assert_close(value, 0.9 * meta.buffers[name] + 0.1 * stats[name].mean(0))


def test_meta_names_are_the_optimizers_alone() -> None:
    meta: Meta = LearnedOptimizer().init(MLP(points()[0]), torch.Generator())
    assert {name.partition(".")[0] for name in meta.params} == {"lstm1", "lstm2", "readout"}
    assert not meta.buffers
