"""The learned optimizer.

Marcin Andrychowicz, Misha Denil, Sergio Gómez Colmenarejo, Matthew W. Hoffman, David Pfau, Tom Schaul, Brendan
Shillingford, Nando de Freitas: "Learning to learn by gradient descent by gradient descent", NeurIPS 2016,
arXiv 1606.04474.

    theta_{t+1} = theta_t + g_t,  [g_t, h_{t+1}] = m(grad f(theta_t), h_t, phi),  min_phi  E_f  sum_t w_t f(theta_t)

with w_t = 1 (equations 2 and 3). m is an LSTM of two layers that is applied to every coordinate of theta alike: they
share phi, and each has its own state h. The gradients that it is fed are constants (section 2.1), so that what phi
changes is theta alone, and the derivative of f(theta_t) in theta_t is the very gradient that is fed next:

    grad_phi  sum_t f(theta_t)  =  grad_phi  sum_t <grad f(theta_t), theta_t>,   the left of each pair a constant

which needs no second pass through the optimizee. The sum runs over `unroll` steps, then phi is updated and goes on from
the same theta and h, cut from their past, until `horizon`.

Differs from the paper in: the start theta_0 and the minibatches come from each task's key, and batch norm starts from
gamma 1 and beta 0. One LSTM serves all layers of an optimizee (the paper has two for its convolutional ones). A
minibatch is drawn without replacement until the support set has been seen. The read-out starts at zero (the paper does
not say from what). The loss that is reported is f at the end of the unroll, after a whole step that at the horizon,
whatever `unroll` is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import AdaptedNet, log_sign
from metalearn_cli.algorithms.losses import running_average
from metalearn_cli.algorithms.optimizee import Optimizee
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.layers import init_lstm, linear, lstm_cell
from metalearn_cli.system.limits import Count, Limit, NonNegative, Positive
from metalearn_cli.tasks.base import Batch, Support


class Preprocess(Enum):
    none = "none"
    log_sign = "log_sign"  # (log|g| / p, sign g), for optimizees whose gradients differ by orders of magnitude


LayerStates = list[tuple[Tensor, Tensor]]  # (h, c) of each layer, [T, P, hidden] each


class LearnedPosition(NamedTuple):
    """How far the optimizees have come."""

    theta: Tensor  # [T, P]
    state: LayerStates
    step: int  # t


@dataclass(frozen=True)
class LearnedOptimizer(Algorithm):
    # Units of each LSTM layer; none: a linear function of the gradient.
    hidden: Annotated[
        tuple[int, ...],
        Limit("a list of widths, each 1 or above, e.g. [20,20]", lambda widths: min(widths, default=1) >= 1),
    ] = (20, 20)
    preprocess: Preprocess = Preprocess.none
    p: Positive = 10.0  # of log_sign; 5 in the authors' code
    scale: Positive = 1.0  # of the LSTM's output; for networks 0.1 in the paper, 0.01 in the authors' code
    start_std: NonNegative = 0.01  # theta_0 ~ N(0, start_std^2)
    batch_size: Count | None = None  # support examples per step; null: all of them
    unroll: Count = 20  # steps between two updates of the optimizer
    horizon: Count = 100  # steps on one optimizee in training
    test_steps: Count = 100  # steps at validation and test

    batch_norm = BatchNorm.transductive

    def __post_init__(self) -> None:
        if self.horizon % self.unroll:
            raise UserError(
                f"algo.horizon={self.horizon} must be a multiple of algo.unroll={self.unroll}, "
                f"e.g. {self.unroll * math.ceil(self.horizon / self.unroll)}"
            )

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        self.require_equal_sizes(net.spec, "batch_size")
        params: Params = {}
        inputs = 2 if self.preprocess is Preprocess.log_sign else 1
        for layer, width in enumerate(self.hidden, 1):
            params |= init_lstm(f"lstm{layer}", inputs, width, rng)
            inputs = width
        # An untrained optimizer takes no steps. Any others, the same for all coordinates, would saturate a network.
        params["readout.weight"], params["readout.bias"] = torch.zeros(1, inputs), torch.zeros(1)
        return Meta(params, net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        optimizee = Optimizee(net, support, self.batch_size)
        at = self.begin(optimizee)
        for step in range(steps + 1):
            if step:
                at = self.advance(meta.params, at, optimizee.gradient(at.theta, at.step).gradient)
            yield AdaptedNet(net, optimizee.parameters(at.theta), meta.buffers, support, step)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        optimizee = Optimizee(net, batch.support, self.batch_size)
        at: LearnedPosition = self.begin(optimizee) if carry is None else carry
        total = torch.zeros((), dtype=at.theta.dtype, device=at.theta.device)
        for _ in range(self.unroll):
            fed = optimizee.gradient(at.theta, at.step).gradient
            total = total + (fed * at.theta).sum()  # nothing for the first theta, which phi cannot change
            at = self.advance(meta.params, at, fed)
        final = optimizee.gradient(at.theta, at.step)
        total = total + (final.gradient * at.theta).sum()
        gradient = torch.autograd.grad(total / len(batch.key), list(meta.params.values()))
        cut = LearnedPosition(at.theta.detach(), [(h.detach(), c.detach()) for h, c in at.state], at.step)
        buffers = running_average(meta.buffers, final.stats)
        goes_on = cut if at.step < self.horizon else None
        return Update(dict(zip(meta.params, gradient, strict=True)), final.loss, buffers, goes_on)

    def begin(self, optimizee: Optimizee) -> LearnedPosition:
        """theta_0, and every coordinate's LSTM at zero."""
        theta = optimizee.start(self.start_std)
        zeros = [theta.new_zeros(*theta.shape, width) for width in self.hidden]
        return LearnedPosition(theta, [(zero, zero) for zero in zeros], 0)

    def advance(self, params: Params, at: LearnedPosition, gradient: Tensor) -> LearnedPosition:
        """One step of the optimizer on gradient [T, P]; differentiable in `params`."""
        x = log_sign(gradient, self.p) if self.preprocess is Preprocess.log_sign else gradient[..., None]
        state: LayerStates = []
        for layer, before in enumerate(at.state, 1):
            state.append(lstm_cell(params, f"lstm{layer}", x, before))
            x = state[-1][0]
        return LearnedPosition(at.theta + self.scale * linear(params, "readout", x)[..., 0], state, at.step + 1)
