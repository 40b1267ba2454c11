"""Reptile.

Alex Nichol, Joshua Achiam, John Schulman: "On First-Order Meta-Learning Algorithms", 2018, arXiv 1803.02999.

    phi = U_k(theta) after k minibatch steps on a task,   theta <- theta + epsilon * mean over tasks of (phi - theta)

(algorithm 2). The meta-gradient is theta - mean(phi): `optimizer=sgd` with rate epsilon is the paper's interpolation,
and with `optimizer.schedule=linear` epsilon goes to 0 as it does there; any other outer optimizer can take it too.
U is Adam with beta1 = 0, or SGD, on minibatches that cycle through the support set. Training looks at no query set, so
that its shots are those of `task.train_shot` (10 or 15 in the paper), whatever the test's.

Differs from the paper in: the tasks of a meta-batch are adapted beside one another, where the authors' code takes them
one after the other. There Adam's second moments, which are never reset, pass from task to task; here all tasks of a
meta-batch start from the same ones, and the means of what they end with are kept (`adam_slots=keep`; `reset` forgets
them). `train/loss` is the query loss after adapting, which training does not use.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import AdaptedNet, Head, final_of, minibatch, query_loss, support_gradient
from metalearn_cli.algorithms.losses import running_average
from metalearn_cli.nets.base import Net, Params, per_task
from metalearn_cli.system.limits import Count, NonNegative
from metalearn_cli.tasks.base import Batch, Support

BETA2, EPSILON = 0.999, 1e-8  # Adam's own
SECOND_MOMENT, ADAM_STEPS = "adam.second_moment.", "adam.steps"  # names of the buffers


class InnerOptimizer(Enum):
    adam = "adam"  # with beta1 = 0: each weight's step is the gradient over its running root mean square
    sgd = "sgd"


class AdamSlots(Enum):
    keep = "keep"  # from one meta-iteration to the next, as in the authors' code
    reset = "reset"  # to 0 before each task


class InnerState(NamedTuple):
    """Where the inner loop of T tasks stands."""

    params: Params  # [T, *shape]
    second_moment: Params  # Adam's running mean of squared gradients, [T, *shape]
    steps: Tensor  # [] that it has seen


@dataclass(frozen=True)
class Reptile(Algorithm):
    inner_optimizer: InnerOptimizer = InnerOptimizer.adam
    inner_lr: NonNegative = 1e-3
    inner_steps: Count = 5  # k in training
    inner_batch: Count | None = 10  # examples of a minibatch in training; None: the whole support set
    test_steps: Count = 50  # k at validation and test
    test_batch: Count | None = 5  # examples of a minibatch there
    adam_slots: AdamSlots = AdamSlots.keep
    head: Head = Head.learned  # mean: the second moments likewise

    batch_norm = BatchNorm.one_query

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        self.head.check(net)
        self.require_equal_sizes(net.spec, "inner_batch", "test_batch")
        theta, buffers = net.init(rng), net.init_stats()
        if self._keeps_slots:
            buffers |= {SECOND_MOMENT + name: torch.zeros_like(value) for name, value in theta.items()}
            buffers[ADAM_STEPS] = torch.zeros(())
        return Meta(theta, buffers)

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        for step, state in enumerate(self.inner_loop(net, meta, support, steps, self.test_batch)):
            yield AdaptedNet(net, state.params, meta.buffers, support, step)

    def inner_loop(
        self, net: Net, meta: Meta, support: Support, steps: int, batch_size: int | None
    ) -> Iterator[InnerState]:
        """Yield the state after 0, 1, ... `steps` minibatches."""
        state = self._start(net, meta, len(support.key))
        yield state
        for step in range(steps):
            with torch.no_grad():
                examples = minibatch(support, batch_size, step)
                there = support_gradient(net, state.params, examples, state.params, second_order=False, step=step)
                state = self._inner_step(state, there.gradient)
            yield state

    def _start(self, net: Net, meta: Meta, tasks: int) -> InnerState:
        theta = {name: value.detach() for name, value in meta.params.items()}
        params = per_task(self.head.start(net, theta), tasks)
        if self._keeps_slots:
            kept = self.head.start(net, {name: meta.buffers[SECOND_MOMENT + name] for name in params})
            return InnerState(params, per_task(kept, tasks), meta.buffers[ADAM_STEPS])
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return InnerState(params, zeros, next(iter(zeros.values())).new_zeros(()))

    def _inner_step(self, state: InnerState, gradient: Params) -> InnerState:
        """Take one step, under no_grad: one call for all weights needs fewer kernels than one for each."""
        names, theta, slope = list(gradient), list(state.params.values()), list(gradient.values())
        if self.inner_optimizer is InnerOptimizer.sgd:
            stepped = torch._foreach_add(theta, slope, alpha=-self.inner_lr)
            return state._replace(params=dict(zip(names, stepped, strict=True)))
        moment = torch._foreach_mul(list(state.second_moment.values()), BETA2)
        torch._foreach_addcmul_(moment, slope, slope, 1 - BETA2)
        steps = state.steps + 1
        root = torch._foreach_div(moment, 1 - BETA2**steps)  # the moments started at 0
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, EPSILON)
        stepped = torch._foreach_addcdiv(theta, slope, root, -self.inner_lr)
        return InnerState(dict(zip(names, stepped, strict=True)), dict(zip(names, moment, strict=True)), steps)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        state = final_of(self.inner_loop(net, meta, batch.support, self.inner_steps, self.inner_batch))
        with torch.no_grad():
            gradient = {name: value - state.params[name].mean(0) for name, value in meta.params.items()}
            loss, stats = query_loss(net, state.params, batch, self.inner_steps)
            buffers = running_average(meta.buffers, stats)
            if self._keeps_slots:
                buffers |= {SECOND_MOMENT + name: value.mean(0) for name, value in state.second_moment.items()}
                buffers[ADAM_STEPS] = state.steps
            return Update(gradient, loss, buffers)

    @property
    def _keeps_slots(self) -> bool:
        return self.inner_optimizer is InnerOptimizer.adam and self.adam_slots is AdamSlots.keep
