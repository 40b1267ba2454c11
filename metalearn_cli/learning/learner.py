"""The learner: the only thing in the program that changes. It holds the meta-parameters and the optimizer's slots.

A step is one function of tensors, `update`, which asks nothing of the host: on a GPU nothing waits within a step.

Shapes: T tasks, Q query examples, E = T episodes, K inner steps at test.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Predictor, task_loss, task_metric
from metalearn_cli.algorithms.inner_loop import last
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.optimizer import Optimizer, Slots
from metalearn_cli.system.compiled import Compiled, require_compiler, unchanged
from metalearn_cli.system.cuda_graph import Captured, require_gpu
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch, Support

# Numbers in the examples that a test takes through a CPU at once: those of four 5-way tasks of 84-pixel images.
AT_ONCE = 1 << 23


class NonFinite(Exception):
    """A meta-batch whose loss or gradient is not finite; the learner is as it was before that update (of several from
    one meta-batch, where the algorithm carries on)."""

    def __init__(self, what: str, step: int, tasks: list[int]) -> None:
        super().__init__(what, step, tasks)
        self.what, self.step, self.tasks = what, step, tasks


class Scores(NamedTuple):
    """Query loss and metric of each episode after 0, 1, ... K inner steps, or after the last one only."""

    loss: Tensor  # [E, K + 1], or [E, 1]
    metric: Tensor  # the same shape


class State(NamedTuple):
    """All that a step changes, in place."""

    params: Params
    buffers: Params
    slots: Slots  # in the order of params
    stopped: Tensor  # [] 0; 1 once an update was not finite: no other one is made
    step: Tensor  # [] int64, of the update that was the last, or that was not finite
    loss: Tensor  # [T], of the same


def update(
    algorithm: Algorithm,
    net: Net,
    optimizer: Optimizer,
    tasks_per_chunk: int | None,
    ranks: Ranks,
    state: State,
    batch: Batch,
    carries: list[Any] | None,
    step: Any,
    rate: Tensor,
) -> list[Any] | None:
    """One update of `state`, in place -> what each chunk of the batch carries to the next one; None: there is none.

    `step`, counted from 0, is an int, or an int64 [] where this function is recorded; `rate` [] is its learning rate.
    """
    meta = Meta({name: value.detach().requires_grad_() for name, value in state.params.items()}, state.buffers)
    chunks = batch.chunks(tasks_per_chunk or len(batch.key))
    updates = [
        algorithm.meta_gradient(net, meta, chunk, step, carry)
        for chunk, carry in zip(chunks, carries or [None] * len(chunks), strict=True)
    ]
    with torch.no_grad():  # whatever of an algorithm's update still has a graph
        shares = [len(chunk.key) / len(batch.key) for chunk in chunks]
        loss = torch.cat([update.loss for update in updates])
        gradient = _weighted_sum(shares, [update.gradient for update in updates])
        buffers = _weighted_sum(shares, [update.buffers for update in updates])
        _apply(optimizer, state, *ranks.mean(loss, gradient, buffers), step, rate)
    return None if updates[0].carry is None else [update.carry for update in updates]


def _apply(
    optimizer: Optimizer, state: State, loss: Tensor, mean: Params, buffers: Params, step: Any, rate: Tensor
) -> None:
    """The update with this mean gradient and these buffers, made where loss [T] and gradient are finite."""
    gradient = [mean[name] for name in state.params]
    finite = torch.cat([loss, *(part.flatten() for part in gradient)]).isfinite().all()
    had_stopped = state.stopped.bool()
    state.step.copy_(torch.where(had_stopped, state.step, step))
    state.loss.copy_(torch.where(had_stopped, state.loss, loss))
    state.stopped.masked_fill_(~finite, 1)
    optimizer.update(list(state.params.values()), gradient, state.slots, rate, state.stopped)
    for name, buffer in state.buffers.items():
        buffer.copy_(torch.where(state.stopped.bool(), buffer, buffers[name]))


def _weighted_sum(weights: list[float], parts: list[Params]) -> Params:
    """The sum of weights[i] * parts[i], name by name; the weights' sum is 1."""
    if len(parts) == 1:
        return parts[0]
    total = {name: weights[0] * value for name, value in parts[0].items()}
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = {name: value + weight * part[name] for name, value in total.items()}
    return total


class Learner:
    def __init__(
        self,
        algorithm: Algorithm,
        net: Net,
        optimizer: Optimizer,
        rng: torch.Generator,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        tasks_per_chunk: int | None = None,
        compile: bool = False,
        cuda_graph: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        """`tasks_per_chunk` bounds memory: a batch goes through in pieces of that many tasks; null: all at once.

        `ranks`: this is one of several equal learners, each of which steps on its share of the tasks.

        `compile`: a step is native code; `cuda_graph`: one graph of kernels. Then the first step takes long, or
        `warm_up`, where it is called before.
        """
        self.algorithm, self.net, self.optimizer = algorithm, net, optimizer
        self.device, self.dtype, self.tasks_per_chunk = device or torch.device("cpu"), dtype, tasks_per_chunk
        self.ranks = ranks
        meta = algorithm.init(net, rng)
        _ = net.shapes  # drawn now, and not while a step is recorded
        self.meta = Meta(  # its own tensors, which a step changes in place
            *(
                {
                    name: value.detach().to(self.device, dtype).clone(memory_format=torch.contiguous_format)
                    for name, value in part.items()
                }
                for part in meta
            )
        )
        zero = torch.zeros((), device=self.device)
        self._state = State(
            *self.meta,
            slots=optimizer.slots(list(self.meta.params.values())),
            stopped=zero,
            step=zero.long(),
            loss=zero.new_zeros(0, dtype=dtype),
        )
        self._update: Any = self._update_eagerly
        self._number: Tensor | None = None  # of the step, where it must not be a constant of what is recorded
        if compile:
            require_compiler(self.device)
            self._update, self._number = Compiled(self._update), zero.long()
        if cuda_graph:
            require_gpu(self.device)
            self._update, self._number = Captured(self._update), zero.long()
        self.begun = 0  # the meta-iteration that was begun last
        self._looks_at_once = self.device.type == "cpu"  # where it costs nothing
        # CUDA's fused kernels read a float; the others take any, and a double keeps all digits.
        self._rate = zero.double() if self.device.type == "cpu" else zero.clone()

    def step(self, batch: Batch, step: int) -> Tensor:
        """One meta-iteration, counted from 0, on this rank's tasks [T / ranks] -> the loss of each task of all [T].

        An update whose loss or gradient is not finite is not made, and no other after it; `check` tells of it, which is
        called here on the CPU.
        """
        self.begun = step
        self._expect(len(batch.key) * self.ranks.size)
        batch = batch.to(self.dtype)
        self._rate.fill_(self.optimizer.rate(step))
        number = step if self._number is None else self._number.fill_(step)
        carries = None
        while True:
            carries = self._update(self._state, batch, carries, number, self._rate)
            if self._looks_at_once:
                self.check()
            if carries is None:
                return self._state.loss.clone()

    def _update_eagerly(self, *arguments: Any) -> list[Any] | None:
        return update(self.algorithm, self.net, self.optimizer, self.tasks_per_chunk, self.ranks, *arguments)

    def warm_up(self, batch: Batch, step: int) -> None:
        """Compile, or capture, what a step on such a batch needs. The state stays as it is."""
        self._expect(len(batch.key))
        with unchanged(self._state):
            self.step(batch, step)

    def _expect(self, tasks: int) -> None:
        """Make room for the loss of so many tasks: another state, so that what was compiled is compiled anew."""
        if len(self._state.loss) != tasks:
            self.check()
            self._state = self._state._replace(loss=self._state.loss.new_zeros(tasks))

    def check(self) -> None:
        """Raises NonFinite where an update was not finite since the last call. A GPU is waited for.

        What reads the state asks first: `evaluate`, `adapt` and `state_dict`.
        """
        if self._state.stopped:
            self._state.stopped.zero_()
            tasks = torch.nonzero(~torch.isfinite(self._state.loss)).flatten().tolist()
            raise NonFinite("loss" if tasks else "gradient", int(self._state.step), tasks)

    def evaluate(self, batch: Batch, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
        """Adapt to the support set of each task, and score the query set.

        In the first mode after every inner step, in the others, from the same adaptation, after the last one.
        """
        self.check()
        with torch.no_grad():
            chunks = batch.to(self.dtype).chunks(self.scored_at_once(batch))
            parts = [self._evaluate(chunk, modes) for chunk in chunks]
        return {
            mode: Scores(torch.cat([p[mode].loss for p in parts]), torch.cat([p[mode].metric for p in parts]))
            for mode in modes
        }

    def scored_at_once(self, batch: Batch) -> int:
        """How many tasks go through a test at once: `tasks_per_chunk`, and on the CPU no more than an operation is soon
        done with, since a signal waits for it."""
        size = self.tasks_per_chunk or len(batch.key)
        if self.device.type == "cpu":
            numbers = (batch.support_x[0].numel() + batch.query_x[0].numel()) or 1  # of the examples of a task
            size = min(size, max(1, AT_ONCE // numbers))
        return size

    def _evaluate(self, batch: Batch, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
        def score(predict: Predictor, mode: BatchNorm) -> Scores:
            out = predict(batch.query_x, mode, batch.query_mask)
            real = batch.query_y, batch.query_mask, batch.way
            return Scores(task_loss(spec, out, *real), task_metric(spec, out, *real))

        spec, per_step = self.net.spec, []
        for predict in self.algorithm.adapt(self.net, self.meta, batch.support, self.algorithm.test_steps):
            per_step.append(score(predict, modes[0]))
        scored = {modes[0]: per_step} | {mode: [score(predict, mode)] for mode in modes[1:]}
        return {mode: Scores(*(torch.stack(p, 1) for p in zip(*s, strict=True))) for mode, s in scored.items()}

    def adapt(self, support: Support, steps: int | None = None) -> Predictor:
        """The predictor after `steps` inner steps (None: as many as at test)."""
        self.check()
        with torch.no_grad():
            steps = self.algorithm.test_steps if steps is None else steps
            predict = last(self.algorithm.adapt(self.net, self.meta, support, steps))
        return torch.no_grad()(predict)

    def state_dict(self) -> Params:
        """Everything that training changes, as flat names: params.*, buffers.*, optimizer.<parameter>.<slot>."""
        self.check()
        return self._named()

    def _named(self) -> Params:
        state = {f"params.{name}": value for name, value in self.meta.params.items()}
        state |= {f"buffers.{name}": value for name, value in self.meta.buffers.items()}
        for slot, values in self._state.slots.items():
            state |= {f"optimizer.{name}.{slot}": value for name, value in zip(self.meta.params, values, strict=True)}
        return state

    def load_state_dict(self, state: Params) -> None:
        """Raises UserError, and changes nothing, where names or shapes are not this learner's."""
        own = self._named()
        require_same_model(state, own, self.net)
        for name, value in own.items():
            value.copy_(state[name])
        self._state.stopped.zero_()


def require_same_model(state: Params, own: Params, net: Net) -> None:
    """Raises UserError where the names or shapes in a checkpoint's `state` are not the `own` ones of this network."""
    shared = own.keys() & state.keys()
    differing = sorted(own.keys() ^ state.keys())
    differing += sorted(name for name in shared if own[name].shape != state[name].shape)
    heads = [name for name in differing if "head." in name and name in shared]
    if differing and differing == heads and net.spec.kind == "classes":
        outputs = len(state[heads[0]])
        raise UserError(
            f"the last layer of this checkpoint tells {outputs} classes apart, and not {len(own[heads[0]])}: give "
            f"task.way={outputs}, or train with another way"
        )
    if differing:
        raise UserError(
            f"this checkpoint holds another model: {differing[0]} (and {len(differing) - 1} more) is missing on one "
            "side or has another shape; take the model, task and algorithm that it was trained with"
        )
