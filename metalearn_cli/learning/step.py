"""A training step as one function of tensors, and three ways to run it: as it stands, compiled, or as a CUDA graph.

It asks nothing of the host: on a GPU nothing waits within a step.

Shapes: T tasks of all ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, Carry, Meta, Update
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.optimizer import Optimizer, Slots
from metalearn_cli.system.compiled import Compiled, require_compiler
from metalearn_cli.system.cuda_graph import Captured, require_gpu
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch


class NonFinite(Exception):
    """A meta-batch whose loss or gradient is not finite; the learner is as it was before that update (one of several
    from a meta-batch, where the algorithm carries on)."""

    def __init__(self, what: str, step: int, tasks: list[int]) -> None:
        super().__init__(what, step, tasks)
        self.what, self.step, self.tasks = what, step, tasks


class Execution(NamedTuple):
    """Where a learner computes, and how."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    tasks_per_chunk: int | None = None  # a batch goes through in pieces of that many tasks; None: all at once
    compile: bool = False  # a step is native code, and the first one slow, unless `warm_up` was called
    cuda_graph: bool = False  # a step is one graph of kernels, and the first one slow likewise
    ranks: Ranks = ALONE  # equal learners, each of which steps on its share of the tasks
    steps: int = 1  # of the whole training, of which `Batch.progress` is a share


ON_THE_CPU = Execution()


class State(NamedTuple):
    """All that a step changes, in place."""

    params: Params
    buffers: Params
    slots: Slots  # in the order of params
    stopped: Tensor  # [] 0; 1 once an update was not finite, after which no update is made
    step: Tensor  # [] int64, of the update that was the last, or that was not finite
    loss: Tensor  # [T], of the same


@dataclass(frozen=True)
class Updater:
    """One update of a state, in place, by the mean meta-gradient of a batch."""

    algorithm: Algorithm
    net: Net
    optimizer: Optimizer
    tasks_per_chunk: int | None
    ranks: Ranks

    def __call__(
        self, state: State, batch: Batch, carries: list[Carry] | None, step: Any, rate: Tensor
    ) -> list[Carry] | None:
        """Update `state` -> what each chunk of the batch carries to the next update; None: there is none.

        `step`, counted from 0, is an int, or an int64 [] where this call is recorded; `rate` [] is its learning rate.
        """
        meta = Meta({name: value.detach().requires_grad_() for name, value in state.params.items()}, state.buffers)
        chunks = batch.chunks(self.tasks_per_chunk or len(batch.key))
        updates = [
            self.algorithm.meta_gradient(self.net, meta, chunk, step, carry)
            for chunk, carry in zip(chunks, carries or [None] * len(chunks), strict=True)
        ]
        with torch.no_grad():  # an algorithm's update may still have a graph
            shares = [len(chunk.key) / len(batch.key) for chunk in chunks]
            loss = torch.cat([update.loss for update in updates])
            gradient = _weighted_sum(shares, [update.gradient for update in updates])
            buffers = _weighted_sum(shares, [update.buffers for update in updates])
            loss, gradient, buffers = self.ranks.mean(loss, gradient, buffers)
            self._apply(state, Update(gradient, loss, buffers), step, rate)
        return None if updates[0].carry is None else [update.carry for update in updates]

    def _apply(self, state: State, update: Update, step: Any, rate: Tensor) -> None:
        """Make this update of all ranks, unless its loss [T] or gradient is not finite, or one before it was not."""
        gradient = [update.gradient[name] for name in state.params]
        finite = torch.cat([update.loss, *(part.flatten() for part in gradient)]).isfinite().all()
        had_stopped = state.stopped.bool()
        state.step.copy_(torch.where(had_stopped, state.step, step))
        state.loss.copy_(torch.where(had_stopped, state.loss, update.loss))
        state.stopped.masked_fill_(~finite, 1)
        self.optimizer.update(state.params, gradient, state.slots, rate, state.stopped)
        for name, buffer in state.buffers.items():
            buffer.copy_(torch.where(state.stopped.bool(), buffer, update.buffers[name]))


def _weighted_sum(weights: list[float], parts: list[Params]) -> Params:
    """The sum of weights[i] * parts[i], name by name; the weights' sum is 1."""
    if len(parts) == 1:
        return parts[0]
    total = {name: weights[0] * value for name, value in parts[0].items()}
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = {name: value + weight * part[name] for name, value in total.items()}
    return total


class StepRunner:
    """Runs an updater, in the way that `execution` asks for."""

    def __init__(self, updater: Updater, execution: Execution) -> None:
        zero = torch.zeros((), device=execution.device)
        self._optimizer = updater.optimizer
        self._update: Callable[..., list[Carry] | None] = updater
        self._number: Tensor | None = None  # of the step, where it must not be a constant of what is recorded
        if execution.compile:
            require_compiler(execution.device)
            self._update, self._number = Compiled(self._update), zero.long()
        if execution.cuda_graph:
            require_gpu(execution.device)
            self._update, self._number = Captured(self._update), zero.long()
        self._checks_every_update = execution.device.type == "cpu"  # where it costs nothing
        # CUDA's fused kernels read a float; the others take any, and a double keeps all digits.
        self._rate = zero.double() if execution.device.type == "cpu" else zero.clone()

    def run(self, state: State, batch: Batch, step: int) -> None:
        """Make all updates of meta-iteration `step`, counted from 0. On the CPU it raises NonFinite."""
        self._rate.fill_(self._optimizer.rate(step))
        number = step if self._number is None else self._number.fill_(step)
        carries = None
        while True:
            carries = self._update(state, batch, carries, number, self._rate)
            if self._checks_every_update:
                require_finite(state)
            if carries is None:
                return


def require_finite(state: State) -> None:
    """Raises NonFinite if an update of this state was not finite since the last call. A GPU is waited for."""
    if state.stopped:
        state.stopped.zero_()
        tasks = torch.nonzero(~torch.isfinite(state.loss)).flatten().tolist()
        raise NonFinite("loss" if tasks else "gradient", int(state.step), tasks)
