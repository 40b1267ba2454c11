"""Meta-LSTM.

Sachin Ravi, Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.

    theta_t = sigmoid(f_t) theta_{t-1} - sigmoid(i_t) grad L(theta_{t-1}, support)
    f_t = W_F [h_t, theta_{t-1}, f_{t-1}] + b_F,  i_t = W_I [h_t, theta_{t-1}, i_{t-1}] + b_I,  h_t = LSTM(loss, grad)

The update of an LSTM whose cell state c_t is theta_t, the weights of the network; theta_0 is learned too. Each weight
is a coordinate with a state of its own, and all share one LSTM. Losses and inner gradients are constants in the
meta-gradient (the paper's gradient independence assumption), which runs through theta_t and the gates.

Differs from the paper in: as in the authors' code, the gates see their own last value before its sigmoid. That code
divides the inner gradient by the number of support examples a second time (`gradient_divided_twice=true`), adds 1e-3
to batch norm's variances (1e-5 here) and averages the unbiased ones. Every update takes the whole support set; the
code takes 5 updates, not 8, where a model that was trained with 5 shots is tested with one. Running statistics
over the training tasks are kept beside it, for the batch-norm mode `running`; training does not use them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import (
    AdaptedNet,
    from_vector,
    log_sign,
    query_update,
    support_gradient,
    to_vector,
)
from metalearn_cli.algorithms.rematerialise import unroll
from metalearn_cli.nets.base import Net, Params, per_task, standard_normal
from metalearn_cli.nets.layers import init_lstm, lstm_cell
from metalearn_cli.system.limits import Count, Limit
from metalearn_cli.tasks.base import Batch, Support

LEARNER = "learner."  # the prefix of theta_0 among the meta-parameters; a user's module may have an `lstm` of its own
LOG_RANGE = 10.0  # p of the preprocessing


class Gates(NamedTuple):
    """What the meta-learner remembers of each coordinate, besides the weight itself; P coordinates, H hidden units."""

    lstm: tuple[Tensor, Tensor]  # h, c of the first layer, [T, P, H]
    forget: Tensor  # f_t before the sigmoid, [T, P]
    input: Tensor  # i_t before the sigmoid, [T, P]


class EpisodeState(NamedTuple):
    """What an update of T tasks takes and changes."""

    theta: Tensor  # the weights of the networks, [T, P]
    gates: Gates
    stats: Params  # batch-norm statistics, averaged over the support passes so far, [T, channels]
    meta: Params  # the weights of the LSTM and of the gates, which stay
    step: int


@dataclass(frozen=True)
class MetaLSTM(Algorithm):
    inner_steps: Count = 12  # updates in training
    test_steps: Count = 12  # updates at validation and test
    hidden: Count = 20  # units of the first layer
    # Weight of the newest support pass in an episode's batch-norm statistics.
    bn_momentum: Annotated[float, Limit("above 0 and at most 1", lambda value: 0 < value <= 1)] = 0.95
    gradient_divided_twice: bool = False  # by the number of support examples, as the authors' code does
    remat: bool = False  # compute each update again in the backward pass: less memory, more time

    batch_norm = BatchNorm.inductive
    memory_savers = ("remat",)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        theta = {LEARNER + name: value for name, value in net.init(rng).items()}
        shapes = {name: value.shape for name, value in init_lstm("lstm", 4, self.hidden, rng).items()}
        shapes |= {f"{gate}.weight": torch.Size([1, self.hidden + 2]) for gate in ("forget", "input")}
        gates = {name: 0.02 * torch.rand(shape, generator=rng) - 0.01 for name, shape in shapes.items()}
        # Open to what was learned, nearly closed to the gradient: gradient descent with a small rate.
        gates["forget.bias"] = 4 + torch.rand(1, generator=rng)
        gates["input.bias"] = -5 + torch.rand(1, generator=rng)
        return Meta(theta | gates, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        state = self._start(meta, len(support.key))
        for step in range(steps + 1):
            if step:
                state = self._step(net, support, state)
            yield AdaptedNet(net, from_vector(state.theta, net.shapes), meta.buffers, support, step, state.stats)

    def network(self, meta: Meta) -> Params:
        return {name.removeprefix(LEARNER): v for name, v in meta.params.items() if name.startswith(LEARNER)}

    def _start(self, meta: Meta, tasks: int) -> EpisodeState:
        weights = {name: value for name, value in meta.params.items() if not name.startswith(LEARNER)}
        theta = to_vector(per_task(self.network(meta), tasks))
        hidden, gate = theta.new_zeros(*theta.shape, self.hidden), torch.zeros_like(theta)
        stats = per_task(standard_normal(meta.buffers), tasks)
        return EpisodeState(theta, Gates((hidden, hidden), gate, gate), stats, weights, 0)

    def _step(self, net: Net, support: Support, state: EpisodeState) -> EpisodeState:
        with torch.no_grad():  # constants for the meta-gradient
            params = from_vector(state.theta, net.shapes)
            loss, by_name, used = support_gradient(net, params, support, params, second_order=False, step=state.step)
            gradient = to_vector(by_name)
            if self.gradient_divided_twice:
                size = support.y.shape[1] if support.mask is None else support.mask.sum(1, keepdim=True)
                gradient = gradient / size
            stats = {name: old.lerp(used[name].detach(), self.bn_momentum) for name, old in state.stats.items()}
        theta, gates = gated_update(state.meta, state.theta, state.gates, loss, gradient)
        return EpisodeState(theta, gates, stats, state.meta, state.step + 1)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        update = partial(self._step, net, batch.support)
        end = unroll(update, self._start(meta, len(batch.key)), self.inner_steps, self.remat)
        return query_update(net, meta, from_vector(end.theta, net.shapes), batch, self.inner_steps)


def gated_update(params: Params, theta: Tensor, gates: Gates, loss: Tensor, gradient: Tensor) -> tuple[Tensor, Gates]:
    """theta_{t-1} [T, P], its loss [T] and gradient [T, P] -> theta_t, and what the gates remember."""
    losses = log_sign(loss, LOG_RANGE).unsqueeze(1).expand(-1, theta.shape[1], -1)
    lstm = lstm_cell(params, "lstm", torch.cat([losses, log_sign(gradient, LOG_RANGE)], -1), gates.lstm)

    def gate(name: str, before: Tensor) -> Tensor:
        """W [h_t, theta_{t-1}, the gate before] + b, [T, P]."""
        inputs = torch.cat([lstm[0], theta.unsqueeze(-1), before.unsqueeze(-1)], -1)
        return F.linear(inputs, params[f"{name}.weight"], params[f"{name}.bias"]).squeeze(-1)

    gates = Gates(lstm, gate("forget", gates.forget), gate("input", gates.input))
    return torch.sigmoid(gates.forget) * theta - torch.sigmoid(gates.input) * gradient, gates
