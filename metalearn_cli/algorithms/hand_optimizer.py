"""Hand-designed optimizers, the baselines of the learned one, with their rate tuned on the training tasks.

Marcin Andrychowicz et al.: "Learning to learn by gradient descent by gradient descent", NeurIPS 2016,
arXiv 1606.04474, section 3: "for each of these optimizers and each problem we tuned the learning rate".

    theta_{t+1} = theta_t - rate * d_t(grad f(theta_t), ...),   rate = argmin over `rates` of E_f f(theta_horizon)

d_t is the direction of stochastic gradient descent, RMSprop (Hinton 2012), Adam (Kingma and Ba 2015, arXiv 1412.6980)
or Nesterov's momentum (Sutskever et al. 2013), as torch.optim has them, with its other settings. Each meta-batch is
optimised with every candidate at once, from the same starts and on the same minibatches as the learned optimizer. No
meta-parameter gets a gradient: what is learned is the sum of each candidate's final losses. The loss that is reported
is that of the rate that was the best before these tasks, which is the first one at the start.

Differs from the paper in: the grid of candidates, which the paper does not name. Where a candidate diverges its loss
counts as `WORST`, so that it can neither win nor stop the run.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import AdaptedNet, final_of
from metalearn_cli.algorithms.losses import running_average
from metalearn_cli.algorithms.optimizee import Optimizee
from metalearn_cli.nets.base import Net
from metalearn_cli.system.limits import Count, Limit, NonNegative
from metalearn_cli.tasks.base import Batch, Support

WORST = 1e6  # the loss of a candidate that diverged


class UpdateRule(Enum):
    sgd = "sgd"
    rmsprop = "rmsprop"
    adam = "adam"
    nesterov = "nesterov"


class HandPosition(NamedTuple):
    """How far the optimizees have come; N of them, [N, P] each."""

    theta: Tensor
    first: Tensor  # the average of the gradients: momentum
    second: Tensor  # the average of their squares
    step: int  # t


Rates = Annotated[
    tuple[float, ...],
    Limit(
        "a list of finite numbers above 0, e.g. [0.001,0.01,0.1]",
        lambda rates: len(rates) > 0 and all(0 < rate < math.inf for rate in rates),
    ),
]


@dataclass(frozen=True)
class HandOptimizer(Algorithm):
    method: UpdateRule = UpdateRule.adam
    rates: Rates = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # the candidates, R
    start_std: NonNegative = 0.01  # theta_0 ~ N(0, start_std^2)
    batch_size: Count | None = None  # support examples per step; null: all of them
    horizon: Count = 100  # steps on one optimizee in training
    test_steps: Count = 100  # steps at validation and test

    batch_norm = BatchNorm.transductive

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        self.require_equal_sizes(net.spec, "batch_size")
        return Meta({}, net.init_stats() | {"final_loss": torch.zeros(len(self.rates))})

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        """Take steps with the best rate so far, or the first one before any training."""
        optimizee = Optimizee(net, support, self.batch_size)
        rate = self._rates(meta.buffers["final_loss"]).index_select(0, self._best(meta))
        for step, theta in enumerate(self.trajectory(optimizee, rate, steps)):
            yield AdaptedNet(net, optimizee.parameters(theta), meta.buffers, support, step)

    def learned(self, meta: Meta) -> dict[str, float]:
        return {"rate": self.rates[int(meta.buffers["final_loss"].argmin())]}

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        tasks, candidates = len(batch.key), len(self.rates)
        parts = {name: part for name, part in batch.support._asdict().items() if part is not None}
        repeated = Support(**{name: part.repeat_interleave(candidates, 0) for name, part in parts.items()})
        optimizee = Optimizee(net, repeated, self.batch_size)  # of T*R tasks: each once for each candidate
        rates = self._rates(meta.buffers["final_loss"]).repeat(tasks)[:, None]
        theta = final_of(self.trajectory(optimizee, rates, self.horizon))
        final = optimizee.gradient(theta, self.horizon)
        loss = final.loss.nan_to_num(WORST, WORST).clamp(max=WORST).view(tasks, candidates)
        best = self._best(meta)  # before these tasks, so that every chunk of them takes the same
        stats = {
            name: value.view(tasks, candidates, -1).index_select(1, best).squeeze(1)
            for name, value in final.stats.items()
        }
        averages = running_average(meta.buffers, stats)
        kept = {name: torch.where(value.isfinite(), value, meta.buffers[name]) for name, value in averages.items()}
        final_loss = meta.buffers["final_loss"] + loss.mean(0)
        return Update({}, loss.index_select(1, best).squeeze(1), kept | {"final_loss": final_loss})

    def trajectory(self, optimizee: Optimizee, rate: Tensor, steps: int) -> Iterator[Tensor]:
        """theta_0, theta_1, ... theta_steps, [N, P] each; rate [1] or [N, 1]."""
        theta = optimizee.start(self.start_std)
        at = HandPosition(theta, torch.zeros_like(theta), torch.zeros_like(theta), 0)
        yield at.theta
        for _ in range(steps):
            at = self.advance(at, optimizee.gradient(at.theta, at.step).gradient, rate)
            yield at.theta

    def advance(self, at: HandPosition, gradient: Tensor, rate: Tensor) -> HandPosition:
        """One step on gradient [N, P], with the other settings of torch.optim."""
        theta, first, second, step = at
        match self.method:
            case UpdateRule.sgd:
                direction = gradient
            case UpdateRule.nesterov:
                first = 0.9 * first + gradient
                direction = gradient + 0.9 * first
            case UpdateRule.rmsprop:
                second = 0.99 * second + 0.01 * gradient.square()
                direction = gradient / (second.sqrt() + 1e-8)
            case UpdateRule.adam:
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient.square()
                unbiased = (second / (1 - 0.999 ** (step + 1))).sqrt()
                direction = first / (1 - 0.9 ** (step + 1)) / (unbiased + 1e-8)
        return HandPosition(theta - rate * direction, first, second, step + 1)

    def _rates(self, like: Tensor) -> Tensor:
        """The candidates [R], on the device and in the precision of `like`; made there, not copied from the host."""
        rates = [torch.full((1,), rate, dtype=torch.float64, device=like.device) for rate in self.rates]
        return torch.cat(rates).to(like.dtype)

    def _best(self, meta: Meta) -> Tensor:
        """The number of the best candidate so far, [1]: an index on the device, at which the host need not look."""
        return meta.buffers["final_loss"].argmin(0, keepdim=True)
