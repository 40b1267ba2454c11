"""MAML++.

Antreas Antoniou, Harrison Edwards, Amos Storkey: "How to train your MAML", ICLR 2019, arXiv 1810.09502.

    phi_{k+1} = phi_k - alpha_{p,k} grad L(phi_k, support),   theta <- theta - beta grad_theta sum_k w_k L(phi_k, query)

(equations 2 to 4). Each part of it is a key, and without all of them this is MAML:

    step_losses    w_k = (1 - t/E)+ / K for k < K, and w_K takes the rest: losses after every step, which fade out over
                   the first part E of the training, at t of it (multi-step loss, MSL)
    learned_rates  a rate alpha for each tensor p and each step k (LSLR), in place of one fixed alpha
    step_norms     batch norm's gamma, beta and running statistics for each step (BNWB, BNRS); the inner loop does not
                   change them
    first_order    in a first stage, `stages=[{algo.first_order: true, steps: ...}]`, derivative-order annealing (DA);
                   the outer optimizer begins afresh at the border
    optimizer.schedule=cosine  of beta (CA)

Differs from the paper in: w_k falls with every step of the training, in the authors' code with every epoch. There the
query pass after step k shares batch norm's row with the support pass before it, and each pass moves the statistics;
here there is a row for each number of steps taken, of the support up to K - 1 and of the query after K. The paper's
figures are of an ensemble of the five checkpoints that are best on validation; here one is tested.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import AdaptedNet, query_loss, support_gradient
from metalearn_cli.algorithms.losses import gradient_update
from metalearn_cli.algorithms.maml import AdaptedPart
from metalearn_cli.algorithms.meta_sgd import RATE, figures_of_rates
from metalearn_cli.algorithms.rematerialise import unroll
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params, per_task
from metalearn_cli.system.limits import Count, Fraction, NonNegative
from metalearn_cli.tasks.base import Batch, Support

STEP = "step:"  # before a name: what each step has of its own, a row for each


class Unrolled(NamedTuple):
    """Where the unroll of T tasks stands."""

    phi: Params  # [T, *shape]
    own: Params  # rates [K], gamma and beta [K + 1, C] of the steps, which stay
    loss: Tensor  # [T], the weighted ones of the steps so far
    stats: tuple[Params, ...]  # batch norm's of the support in each step so far, where steps have their own
    step: int  # k

    @property
    def params(self) -> Params:
        """The networks after k steps."""
        rows = {name.removeprefix(STEP): rows[self.step] for name, rows in self.own.items() if name.startswith(STEP)}
        return self.phi | rows


@dataclass(frozen=True)
class MAMLPlusPlus(Algorithm):
    inner_lr: NonNegative = 0.1  # alpha, or where learned rates start
    inner_steps: Count = 5  # K in training
    test_steps: Count = 5  # K at validation and test
    step_losses: Fraction = 0.1  # E; 0: the loss after the last step alone
    learned_rates: bool = True
    step_norms: bool = True
    first_order: bool = False
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.transductive
    memory_savers = ("remat", "first_order")

    def __post_init__(self) -> None:
        if self.test_steps > self.inner_steps and (self.learned_rates or self.step_norms):
            raise UserError(
                f"algo.test_steps={self.test_steps} is more than algo.inner_steps={self.inner_steps}, and each step "
                "has rates and batch norm of its own: give as many or fewer, or algo.learned_rates=false and "
                "algo.step_norms=false"
            )

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        params, buffers, steps = net.init(rng), net.init_stats(), self.inner_steps
        part = AdaptedPart.no_batch_norm if self.step_norms else AdaptedPart.all
        adapted = part.names(net, params)
        rates = {RATE + name: torch.full((steps,), self.inner_lr) for name in adapted if self.learned_rates}
        rows = {STEP + name: value.repeat(steps + 1, 1) for name, value in params.items() if name not in adapted}
        own_buffers = {STEP + name: value.repeat(steps, 1) for name, value in buffers.items() if self.step_norms}
        return Meta({name: params[name] for name in adapted} | rates | rows, buffers | own_buffers)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        state = self._start(meta, len(support.key))
        for step in range(steps + 1):
            if step:
                state = self._step(net, support, state)
            has_own = self.step_norms and step < self.inner_steps
            own = {name: meta.buffers[STEP + name][step] for name in net.init_stats() if has_own}
            yield AdaptedNet(net, state.params, meta.buffers | own, support, step)

    def network(self, meta: Meta) -> Params:
        start = {name: value for name, value in meta.params.items() if not name.startswith(RATE)}
        return {n.removeprefix(STEP): value[0] if n.startswith(STEP) else value for n, value in start.items()}

    def learned(self, meta: Meta) -> dict[str, float]:
        return figures_of_rates(meta) if self.learned_rates else {}

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        progress = batch.query_x.new_zeros(len(batch.key)) if batch.progress is None else batch.progress
        early = (1 - progress / (self.step_losses or 1)).clamp(min=0) / self.inner_steps  # w_k for k < K, [T]

        def with_loss(state: Unrolled) -> Unrolled:
            if self.step_losses and state.step:
                loss, _ = query_loss(net, state.params, batch, state.step)
                state = state._replace(loss=state.loss + early * loss)
            return self._step(net, batch.support, state)

        end = unroll(with_loss, self._start(meta, len(batch.key)), self.inner_steps, self.remat)
        loss, stats = query_loss(net, end.params, batch, self.inner_steps)
        if self.step_losses:
            loss = end.loss + (1 - (self.inner_steps - 1) * early) * loss
        if self.step_norms:
            stats = stats | {STEP + name: torch.stack([used[name] for used in end.stats], 1) for name in stats}
        return gradient_update(meta, loss, stats)

    def _start(self, meta: Meta, tasks: int) -> Unrolled:
        theta = {name: value for name, value in meta.params.items() if not name.startswith((RATE, STEP))}
        phi = per_task(theta, tasks)
        own = {name: value for name, value in meta.params.items() if name not in theta}
        return Unrolled(phi, own, next(iter(phi.values())).new_zeros(tasks), (), 0)

    def _step(self, net: Net, support: Support, state: Unrolled) -> Unrolled:
        there = support_gradient(net, state.params, support, state.phi, not self.first_order, state.step)
        rates = {
            name: state.own[RATE + name][state.step] if self.learned_rates else self.inner_lr for name in state.phi
        }
        phi = {name: value - rates[name] * there.gradient[name] for name, value in state.phi.items()}
        stats = (*state.stats, there.stats) if self.step_norms else ()
        return state._replace(phi=phi, stats=stats, step=state.step + 1)
