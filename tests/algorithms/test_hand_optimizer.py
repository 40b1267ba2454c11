"""The hand-made optimizers against torch.optim, and how their rate is chosen."""

import pytest
import torch
from problems import DOUBLE, images, points
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.hand_optimizer import WORST, HandOptimizer, UpdateRule
from metalearn_cli.algorithms.inner_loop import minibatch
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.optimizee import Optimizee
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.quadratics import Quadratics

MODE = BatchNorm.transductive
CPU = torch.device("cpu")


def torchs(method: UpdateRule, theta: Tensor, rate: float) -> torch.optim.Optimizer:
    match method:
        case UpdateRule.sgd:
            return torch.optim.SGD([theta], rate)
        case UpdateRule.nesterov:
            return torch.optim.SGD([theta], rate, momentum=0.9, nesterov=True)
        case UpdateRule.rmsprop:
            return torch.optim.RMSprop([theta], rate)
        case UpdateRule.adam:
            return torch.optim.Adam([theta], rate)


def learner(algorithm: HandOptimizer, dimension: int = 4) -> Learner:
    net = Linear(Quadratics(dimension=dimension).spec)
    return Learner(algorithm, net, Optimizer(), generator(0), DOUBLE)


def quadratics(tasks: int = 3, dimension: int = 4, step: int = 0) -> Batch:
    task = Quadratics(dimension=dimension)
    return task.gather(task.draw(tasks, "train", generator(0, step)), CPU).to(torch.float64)


@pytest.mark.parametrize("method", UpdateRule)
@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.row("D3")
def test_every_step_is_torchs(method: UpdateRule, batch_size: int | None) -> None:
    spec, batch = images()
    net = MLP(spec, hidden=(3,), activation=Activation.tanh)
    rates = (0.03, 0.1)
    algorithm = HandOptimizer(method, rates, start_std=0.5, batch_size=batch_size)
    meta = Meta({}, {"final_loss": torch.tensor([1.0, 0.5], dtype=torch.float64)})
    predictors = list(algorithm.adapt(net, meta, batch.support, 12))
    assert len(predictors) == 13
    for number, task in enumerate(batch.chunks(1)):
        optimizee = Optimizee(net, task.support, None)
        theta = optimizee.start(0.5).requires_grad_()
        optimizer = torchs(method, theta, rates[1])
        for step, predict in enumerate(predictors):
            expected = net(optimizee.parameters(theta), task.query_x)[0]
            torch.testing.assert_close(predict(batch.query_x, MODE)[number], expected[0], rtol=1e-10, atol=1e-12)
            some = minibatch(task.support, batch_size, step)
            loss = task_loss(spec, net(optimizee.parameters(theta), some.x)[0], some.y).sum()
            (theta.grad,) = torch.autograd.grad(loss, theta)
            optimizer.step()


@pytest.mark.parametrize("method", UpdateRule)
def test_training_sums_the_final_loss_of_every_rate(method: UpdateRule) -> None:
    """Each candidate as if it had been alone."""
    rates = (0.001, 0.01, 0.02)
    trained = learner(HandOptimizer(method, rates, horizon=7, test_steps=7))
    loss = [trained.step(quadratics(), 0)]
    best = trained.meta.buffers["final_loss"].argmin()
    loss.append(trained.step(quadratics(step=1), 1))
    final_loss = trained.meta.buffers["final_loss"]
    for number, rate in enumerate(rates):
        alone = learner(HandOptimizer(method, (rate,), horizon=7, test_steps=7))
        ends = [alone.evaluate(quadratics(step=step), [MODE])[MODE].loss[:, -1] for step in range(2)]
        torch.testing.assert_close(final_loss[number], ends[0].mean() + ends[1].mean())
        if number == best:
            torch.testing.assert_close(loss[1], ends[1])
    ends = trained.evaluate(quadratics(step=0), [MODE])[MODE].loss[:, -1]
    alone = learner(HandOptimizer(method, (rates[int(final_loss.argmin())],), horizon=7, test_steps=7))
    torch.testing.assert_close(ends, alone.evaluate(quadratics(step=0), [MODE])[MODE].loss[:, -1])


def test_a_rate_that_diverges_neither_wins_nor_stops_the_run() -> None:
    trained = learner(HandOptimizer(UpdateRule.sgd, (1e200, 1e3, 0.01), horizon=30, test_steps=5))
    assert (trained.step(quadratics(), 0) == WORST).all()  # of the first: nothing is known yet
    final_loss = trained.meta.buffers["final_loss"]
    assert final_loss[:2].tolist() == [WORST, WORST]
    assert (trained.step(quadratics(), 1) < 100).all()
    assert final_loss.argmin() == 2
    # All of them: the loss is as bad as can be, and still a number.
    trained = learner(HandOptimizer(UpdateRule.sgd, (1e200, 1e3), horizon=30, test_steps=5))
    for step in range(2):
        assert (trained.step(quadratics(), step) == WORST).all()


def test_a_net_that_diverges_leaves_the_running_statistics_alone() -> None:
    spec, batch = images()
    net = Conv4(spec, filters=2)
    trained = Learner(HandOptimizer(UpdateRule.sgd, (1e200,), horizon=3), net, Optimizer(), generator(0))
    trained.step(batch, 0)
    assert all(torch.isfinite(value).all() for value in trained.meta.buffers.values())
    trained = Learner(HandOptimizer(UpdateRule.sgd, (1e-3, 1e200), horizon=3), net, Optimizer(), generator(0))
    before = {name: value.clone() for name, value in trained.meta.buffers.items()}
    trained.step(batch, 0)
    assert all(not torch.equal(value, before[name]) for name, value in trained.meta.buffers.items())


def test_it_starts_where_the_learned_optimizer_starts_and_sees_the_same_minibatches() -> None:
    spec, batch = points()
    net = MLP(spec, hidden=(3,))
    hand = HandOptimizer(UpdateRule.sgd, (0.1,), start_std=0.5, batch_size=2)
    learned = LearnedOptimizer(hidden=(), scale=0.1, start_std=0.5, batch_size=2)
    descent = {"readout.weight": -torch.ones(1, 1), "readout.bias": torch.zeros(1)}
    params = {name: value.double() for name, value in descent.items()}
    pairs = zip(
        hand.adapt(net, Meta({}, {"final_loss": torch.zeros(1).double()}), batch.support, 6),
        learned.adapt(net, Meta(params, {}), batch.support, 6),
        strict=True,
    )
    for a, b in pairs:
        torch.testing.assert_close(a(batch.query_x, MODE), b(batch.query_x, MODE))


def test_the_tuned_rate_is_far_better_than_the_first_one() -> None:
    task = Quadratics(dimension=5)
    trained = Learner(HandOptimizer(horizon=50, test_steps=50), Linear(task.spec), Optimizer(), generator(0))
    batch = task.gather(task.draw(64, "test", generator(1)), CPU)
    before = trained.evaluate(batch, [MODE])[MODE].loss.mean(0)
    trained.step(task.gather(task.draw(32, "train", generator(2)), CPU), 0)
    after = trained.evaluate(batch, [MODE])[MODE].loss.mean(0)
    assert before[-1] > 4
    assert after[-1] < 0.7
