"""What the algorithms with an inner loop share."""

import math

import pytest
import torch
from problems import CASES, images, init, points

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.inner_loop import Descent, adapted_nets, log_sign, minibatch, support_gradient
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.nets.base import Net, per_task
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Support


def numbered(count: int, tasks: int = 3) -> Support:
    """Example i of task t is the number 100 t + i."""
    x = (100 * torch.arange(tasks)[:, None] + torch.arange(count)).double().unsqueeze(-1)
    return Support(x, torch.arange(count).expand(tasks, count), torch.arange(tasks) + 7)


def stream(support: Support, size: int, steps: int) -> torch.Tensor:
    """All labels of `steps` minibatches, one after another: [T, steps * B]."""
    return torch.cat([minibatch(support, size, step).y for step in range(steps)], 1)


def test_minibatches_cycle_without_replacement_in_a_new_order_for_every_pass() -> None:
    support = numbered(7)
    for size in (1, 2, 3, 7, 10, 15):
        labels = stream(support, size, steps=14)
        passes = labels[:, : labels.shape[1] // 7 * 7].view(3, -1, 7)
        assert torch.equal(passes.sort(-1).values, torch.arange(7).expand_as(passes))
    long = stream(support, 7, steps=20).view(3, 20, 7)
    assert len(torch.unique(long.flatten(0, 1), dim=0)) > 50  # of 60 orders that could all differ


def test_a_minibatch_keeps_examples_and_labels_together_and_depends_on_its_own_task_only() -> None:
    support = numbered(7)
    for step in range(5):
        batch = minibatch(support, 3, step)
        assert torch.equal(batch.x.squeeze(-1), 100 * torch.arange(3)[:, None] + batch.y)
        second = minibatch(Support(*(tensor[1:2] for tensor in support[:3])), 3, step)
        assert torch.equal(second.x, batch.x[1:2])
        assert torch.equal(batch.x, minibatch(support, 3, step).x)
    assert minibatch(support, None, 4) is support


def test_a_support_gradient_is_each_tasks_own_gradient() -> None:
    spec, batch = images()
    net = MLP(spec, hidden=(5,), activation=Activation.tanh)
    shared = init(MAML(), net).params
    together = support_gradient(net, per_task(shared, 3), batch.support, shared, second_order=False, step=0)
    for number, task in enumerate(batch.chunks(1)):
        out, _ = net(shared, task.support_x)
        loss = torch.nn.functional.cross_entropy(out[0], task.support_y[0])
        torch.testing.assert_close(together.loss[number], loss.detach())
        for name, value in zip(shared, torch.autograd.grad(loss, list(shared.values())), strict=True):
            torch.testing.assert_close(together.gradient[name][number], value)


def test_a_support_gradient_can_be_differentiated_again_where_that_is_asked_for_and_recorded() -> None:
    spec, batch = points()
    net = MLP(spec, hidden=(5,), activation=Activation.tanh)
    params = init(MAML(), net).params

    def differentiable(second_order: bool) -> bool:
        gradient = support_gradient(net, per_task(params, 3), batch.support, params, second_order, 0).gradient
        return gradient["head.weight"].requires_grad

    assert differentiable(second_order=True)
    assert not differentiable(second_order=False)
    with torch.no_grad():
        assert not differentiable(second_order=True)


def test_parameters_without_a_rate_stay_as_they_are() -> None:
    spec, batch = points()
    net = MLP(spec, hidden=(5,))
    params = init(MAML(), net).params
    start = Descent(per_task(params, 3), {"head.bias": 0.1})
    *_, end = adapted_nets(net, init(MAML(), net), batch.support, start, 3, second_order=True)
    assert end.steps == 3
    assert end.params.keys() == params.keys()
    for name, value in params.items():
        assert torch.equal(end.params[name], value.expand_as(end.params[name])) is (name != "head.bias")


@CASES
@pytest.mark.parametrize("make", [MAML, MetaSGD, MetaLSTM])
def test_adapting_for_a_test_equals_adapting_in_training(make: type[MAML], net: Net, batch: Batch) -> None:
    algorithm = make(inner_steps=3, test_steps=3)
    meta = init(algorithm, net)
    with torch.no_grad():
        predictors = list(algorithm.adapt(net, meta, batch.support, 3))
        out = predictors[-1](batch.query_x, BatchNorm.transductive)
    assert len(predictors) == 4
    loss = task_loss(net.spec, out, batch.query_y)
    torch.testing.assert_close(loss, algorithm.meta_gradient(net, meta, batch, 0).loss)
    assert not out.requires_grad


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_log_sign_is_continuous_and_as_the_paper_has_it(p: float) -> None:
    edge = math.exp(-p)
    x = torch.tensor([1.0, -1.0, math.e, edge, -edge, edge / 2, -edge / 2, 0.0], dtype=torch.float64)
    expected = [[0, 1], [0, -1], [1 / p, 1], [-1, 1], [-1, -1], [-1, 0.5], [-1, -0.5], [-1, 0]]
    torch.testing.assert_close(log_sign(x, p), torch.tensor(expected, dtype=torch.float64))
    below = log_sign(x[3:5] * (1 - 1e-12), p)
    torch.testing.assert_close(below, log_sign(x[3:5] * (1 + 1e-12), p))
    assert torch.equal(log_sign(torch.tensor([-1e-300, 1e300]).double(), p)[:, 0] > 0, torch.tensor([False, True]))
    assert log_sign(torch.zeros(2, 3), p).shape == (2, 3, 2)
    x.requires_grad_()
    (derivative,) = torch.autograd.grad(log_sign(x, p).sum(), x)
    assert torch.isfinite(derivative).all()
