"""The Meta-LSTM against its definition with constant inner gradients, against gradient descent, and its batch norm."""

import math
from typing import NamedTuple

import pytest
import torch
from problems import (
    DOUBLE,
    along,
    cases,
    expect_definition,
    finite_difference,
    images,
    init,
    points,
    relative_error,
    torch_cell,
)
from torch import Tensor, nn

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_lstm import LEARNER, MetaLSTM
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.nets.user_module import ModuleNet
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch, Spec


class Scaled(nn.Module):
    """A user's module with a parameter of one number, and names that the meta-learner's own have."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.lstm = nn.Linear(spec.input_shape[0], 4)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.lstm(x)) * self.scale)  # type: ignore[no-any-return]


WITH_NAMES = ModuleNet(points()[0], Scaled, {}), points()[1]


class CellInputs(NamedTuple):
    """What the meta-learner is given in one update of one task."""

    loss: Tensor  # []
    gradient: Params  # [*shape]


def start(algorithm: MetaLSTM, net: Net) -> Meta:
    """Meta-parameters that matter: the gates far from saturation, so that every weight changes the update."""
    meta = init(algorithm, net)
    rng = torch.Generator().manual_seed(7)
    for name, value in meta.params.items():
        if not name.startswith(LEARNER):
            value.data += 0.3 * torch.randn(value.shape, generator=rng, dtype=torch.float64)
    meta.params["forget.bias"].data.fill_(2.0)
    meta.params["input.bias"].data.fill_(-2.0)
    return meta


def preprocessed(value: Tensor) -> Tensor:
    """The four lines of Andrychowicz et al.'s appendix A, p = 10: [...] -> [..., 2]."""
    if abs(value.item()) >= math.exp(-10):
        return torch.stack([value.abs().log() / 10, value.sign()])
    return torch.stack([torch.full_like(value, -1.0), math.exp(10) * value])


def definition(
    algorithm: MetaLSTM, net: Net, params: Params, task: Batch, frozen: list[CellInputs] | None = None
) -> tuple[Tensor, list[CellInputs], Params]:
    """The query loss of one task by the paper's equations, one coordinate after the other in torch's own LSTMCell.

    `frozen`: what the meta-learner is given in each update, else what the network has there.
    """
    cell = torch_cell(params, "lstm")
    theta = {name.removeprefix(LEARNER): value for name, value in params.items() if name.startswith(LEARNER)}
    h = {name: torch.zeros(value.numel(), algorithm.hidden).double() for name, value in theta.items()}
    c = dict(h)
    f = {name: torch.zeros(value.numel()).double() for name, value in theta.items()}
    i = dict(f)
    inputs: list[CellInputs] = []
    for number in range(algorithm.inner_steps):
        if frozen is None:
            leaf = {name: value.detach().requires_grad_() for name, value in theta.items()}
            loss = task_loss(net.spec, net(leaf, task.support_x)[0], task.support_y)[0]
            slopes = torch.autograd.grad(loss, list(leaf.values()))
            scale = 1 / task.support_y.shape[1] if algorithm.gradient_divided_twice else 1
            inputs.append(CellInputs(loss.detach(), {n: scale * s for n, s in zip(leaf, slopes, strict=True)}))
        else:
            inputs.append(frozen[number])
        loss, gradient = inputs[-1]
        moved = {}
        for name, value in theta.items():
            slope, weight = gradient[name].flatten(), value.flatten()
            x = torch.stack([torch.cat([preprocessed(loss), preprocessed(one)]) for one in slope])
            h[name], c[name] = cell(x, (h[name], c[name]))
            f[name], i[name] = (
                torch.cat([h[name], weight[:, None], before[:, None]], 1) @ params[f"{gate}.weight"][0]
                + params[f"{gate}.bias"]
                for gate, before in (("forget", f[name]), ("input", i[name]))
            )
            moved[name] = (torch.sigmoid(f[name]) * weight - torch.sigmoid(i[name]) * slope).view(value.shape)
        theta = moved
    return task_loss(net.spec, net(theta, task.query_x)[0], task.query_y)[0], inputs, theta


ALGORITHMS = [
    MetaLSTM(inner_steps=1, hidden=3),
    MetaLSTM(inner_steps=4, hidden=3),
    MetaLSTM(inner_steps=3, hidden=3, gradient_divided_twice=True),
]


@pytest.mark.parametrize(("net", "batch"), [*cases()[:2], WITH_NAMES])
@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences_with_what_it_is_given_held(
    net: Net, batch: Batch, algorithm: MetaLSTM
) -> None:
    meta = start(algorithm, net)
    tasks = batch.chunks(1)
    held = [definition(algorithm, net, meta.params, task)[1] for task in tasks]

    def loss(params: Params) -> Tensor:
        losses = [definition(algorithm, net, params, task, inputs)[0] for task, inputs in zip(tasks, held, strict=True)]
        return torch.stack(losses).mean()

    slope, direction = finite_difference(loss, meta.params)
    assert along(algorithm.meta_gradient(net, meta, batch, 0), direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(("net", "batch"), [*cases(), WITH_NAMES])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(net: Net, batch: Batch, algorithm: MetaLSTM) -> None:
    update = expect_definition(
        *(algorithm, net, start(algorithm, net), batch),
        lambda params, task: definition(algorithm, net, params, task)[0],
    )
    for name, value in update.gradient.items():  # theta_0 and every weight of the meta-learner
        if name != "lstm.weight_hh" or algorithm.inner_steps > 1:  # h_0 = 0
            assert value.abs().max() > 0, name


@pytest.mark.parametrize(("net", "batch"), [*cases(), WITH_NAMES])
def test_gates_that_are_forced_make_it_first_order_maml(net: Net, batch: Batch) -> None:
    algorithm, descent = MetaLSTM(inner_steps=3, hidden=3), MAML(inner_lr=0.1, inner_steps=3, first_order=True)
    meta = start(algorithm, net)
    for gate, bias in (("forget", 1e3), ("input", math.log(0.1 / 0.9))):  # sigmoid: 1, and 0.1
        meta.params[f"{gate}.weight"].data.zero_()
        meta.params[f"{gate}.bias"].data.fill_(bias)
    theta = {name.removeprefix(LEARNER): value for name, value in meta.params.items() if name.startswith(LEARNER)}
    expected = descent.meta_gradient(net, Meta(theta, meta.buffers), batch, 0)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    torch.testing.assert_close(update.loss, expected.loss)
    of_theta = {name: update.gradient[LEARNER + name] for name in theta}
    assert relative_error(of_theta, expected.gradient) < 1e-10


@pytest.mark.parametrize("momentum", [0.9, 0.95, 1.0])
def test_batch_norm_statistics_are_averaged_over_the_support_passes_of_the_episode(momentum: float) -> None:
    """The pass that gives the gradient of an update gives its statistics: that at theta_0 first, at theta_T never."""
    spec, batch = images()
    net, algorithm = Conv4(spec, filters=3), MetaLSTM(inner_steps=3, hidden=3, bn_momentum=momentum)
    meta = start(algorithm, net)
    with torch.no_grad():
        *before, last = list(algorithm.adapt(net, meta, batch.support, 3))
        stats = {name: torch.stack([value.double()] * 3) for name, value in net.init_stats().items()}
        for adapted in before:
            _, used = net(adapted.params, batch.support_x)
            stats = {name: (1 - momentum) * value + momentum * used[name] for name, value in stats.items()}
        out = last(batch.query_x, BatchNorm.inductive)
        expected = net(last.params, batch.query_x, Call(stats))[0]
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert before[0].episode_stats.keys() == stats.keys()
    for name, value in net.init_stats().items():  # each episode begins with them
        assert torch.equal(before[0].episode_stats[name], torch.stack([value.double()] * 3))


def test_it_begins_near_gradient_descent_with_a_small_rate() -> None:
    spec, _ = images()
    params = MetaLSTM().init(Conv4(spec, filters=3), torch.Generator().manual_seed(0)).params
    gates = {name: value for name, value in params.items() if not name.startswith(LEARNER)}
    assert {name: tuple(value.shape) for name, value in gates.items()} == {
        "lstm.weight_ih": (80, 4),
        "lstm.weight_hh": (80, 20),
        "lstm.bias": (80,),
        "forget.weight": (1, 22),
        "input.weight": (1, 22),
        "forget.bias": (1,),
        "input.bias": (1,),
    }
    assert 4 <= gates.pop("forget.bias").item() <= 5
    assert -5 <= gates.pop("input.bias").item() <= -4
    assert all(value.abs().max() <= 0.01 for value in gates.values())
    assert gates["lstm.weight_hh"].std() == pytest.approx(0.01 / 3**0.5, rel=0.05)
    fresh = Conv4(spec, filters=3).init(torch.Generator().manual_seed(0))
    assert all(torch.equal(params[LEARNER + name], value) for name, value in fresh.items())


@pytest.mark.parametrize("held", [False, True], ids=["learned", "held"])
def test_it_learns_small_sinusoids(held: bool) -> None:
    """The amplitudes have both signs, so that no start is good without updates: a constant 0 has a loss near 1.

    With the LSTM and the gates held at their start, three updates with their small rate do not get as far.
    """
    spec, _ = points()
    net, algorithm = MLP(spec, hidden=(10, 10), activation=Activation.tanh), MetaLSTM(inner_steps=3, hidden=5)
    learner = Learner(algorithm, net, Optimizer(lr=0.02), torch.Generator().manual_seed(0), DOUBLE)
    gates = {name: value for name, value in learner.meta.params.items() if not name.startswith(LEARNER)}
    fresh = {name: value.detach().clone() for name, value in gates.items()}
    sign = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)[:, None, None]
    losses = []
    for step in range(120):
        _, batch = points(tasks=8, seed=step)
        batch = batch._replace(support_y=sign * batch.support_y, query_y=sign * batch.query_y)
        losses.append(learner.step(batch, step).mean().item())
        if held:
            for name, value in gates.items():
                value.data.copy_(fresh[name])
    last = sum(losses[-20:]) / 20
    assert last > 0.3 if held else last < 0.2
