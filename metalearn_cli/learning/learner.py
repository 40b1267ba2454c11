"""The learner: the only thing in the program that changes. It holds the meta-parameters and the optimizer's slots.

Shapes: T tasks, Q query examples, E = T episodes, K inner steps at test.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Predictor
from metalearn_cli.algorithms.capabilities import conditionals, steps_at_test
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.algorithms.losses import task_loss, task_scores
from metalearn_cli.errors import UserError
from metalearn_cli.learning.step import ON_THE_CPU, Execution, State, StepRunner, Updater, require_finite
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.system.compiled import unchanged
from metalearn_cli.tasks.base import Batch, Support

# Numbers in the examples that a test takes through a CPU at once: those of four 5-way tasks of 84-pixel images.
AT_ONCE = 1 << 23


class Scores(NamedTuple):
    """Query loss and metric of each episode after 0, 1, ... K inner steps, or after the last one only."""

    loss: Tensor  # [E, K + 1], or [E, 1]
    metric: Tensor  # the same shape: the headline
    beside: dict[str, Tensor]  # the other metrics after the last step, [E, ...] by their names


class Learner:
    def __init__(
        self,
        algorithm: Algorithm,
        net: Net,
        optimizer: Optimizer,
        rng: torch.Generator,
        execution: Execution = ON_THE_CPU,
    ) -> None:
        self.algorithm, self.net, self.optimizer = algorithm, net, optimizer
        self.device, self.dtype, self.tasks_per_chunk = execution[:3]
        self.ranks, self._steps = execution.ranks, execution.steps
        self._runner = StepRunner(Updater(algorithm, net, optimizer, self.tasks_per_chunk, self.ranks), execution)
        _ = net.shapes  # drawn now, and not while a step is recorded
        self.meta = Meta(*(self._copied(part) for part in algorithm.init(net, rng)))  # a step changes them in place
        zero = torch.zeros((), device=self.device)
        slots = optimizer.slots(list(self.meta.params.values()))
        loss = zero.new_zeros(0, dtype=self.dtype)
        self._state = State(*self.meta, slots=slots, stopped=zero, step=zero.long(), loss=loss)
        self.last_started_step = 0

    def _copied(self, tensors: Params) -> Params:
        return {
            name: value.detach().to(self.device, self.dtype).clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }

    def step(self, batch: Batch, step: int) -> Tensor:
        """One meta-iteration, counted from 0, on this rank's tasks [T / ranks] -> the loss of each task of all [T].

        An update whose loss or gradient is not finite is not made, nor any after it; `check` raises for it, and on the
        CPU this calls it.
        """
        self.last_started_step = step
        self._expect(len(batch.key) * self.ranks.size)
        batch = batch.to(self.dtype)
        progress = batch.query_x.new_full((len(batch.key),), min(step / self._steps, 1.0))
        self._runner.run(self._state, batch._replace(progress=progress), step)
        return self._state.loss.clone()

    def warm_up(self, batch: Batch, step: int) -> None:
        """Compile, or capture, what a step on such a batch needs. The state stays as it is."""
        self._expect(len(batch.key))
        with unchanged(self._state):
            self.step(batch, step)

    def _expect(self, tasks: int) -> None:
        """Make room for the loss of this many tasks: a new state, so that what was compiled is compiled again."""
        if len(self._state.loss) != tasks:
            self.check()
            self._state = self._state._replace(loss=self._state.loss.new_zeros(tasks))

    def check(self) -> None:
        """Raises NonFinite if an update was not finite since the last call. A GPU is waited for.

        What reads the state asks first: `evaluate`, `adapt` and `state_dict`.
        """
        require_finite(self._state)

    def evaluate(self, batch: Batch, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
        """Adapt to the support set of each task, and score the query set.

        In the first mode after every inner step, in the others, from the same adaptation, after the last one.
        """
        self.check()
        batch, spec = batch.to(self.dtype), self.net.spec

        def score(predict: Predictor, mode: BatchNorm) -> tuple[Tensor, dict[str, Tensor]]:
            out = predict(batch.query_x, mode, batch.query_mask)
            real = batch.query_y, batch.query_mask, batch.way
            return task_loss(spec, out, *real), task_scores(spec, out, *real)

        with torch.no_grad():
            steps, last = [], steps_at_test(self.algorithm, spec)
            for predict in self.algorithm.adapt(self.net, self.meta, batch.support, last):
                steps.append(score(predict, modes[0]))
            if (joint := conditionals(self.algorithm, self.net, self.meta, batch)) is not None:
                loss = task_loss(spec._replace(likelihood=joint[0]), joint[1], batch.query_y, batch.query_mask)
                steps[-1][1]["joint_log_likelihood"] = -loss
            # Now `predict` is the predictor after the last step.
            by_mode = {modes[0]: steps} | {mode: [score(predict, mode)] for mode in modes[1:]}
        return {mode: _stacked(spec.metric, scores) for mode, scores in by_mode.items()}

    def scored_at_once(self, batch: Batch) -> int:
        """How many tasks go through `evaluate` at once: `tasks_per_chunk`, and on the CPU no more than an operation is
        soon done with, since a signal waits for it."""
        size = self.tasks_per_chunk or len(batch.key)
        if self.device.type == "cpu":
            numbers = sum(x[0].numel() for name, x in batch.tensors().items() if name.endswith("_x")) or 1  # of a task
            size = min(size, max(1, AT_ONCE // numbers))
        return size

    def adapt(self, support: Support, steps: int | None = None) -> Predictor:
        """The predictor after `steps` inner steps (None: as many as at test)."""
        self.check()
        with torch.no_grad():
            steps = steps_at_test(self.algorithm, self.net.spec) if steps is None else steps
            predict = final_of(self.algorithm.adapt(self.net, self.meta, support, steps))
        return torch.no_grad()(predict)  # its calls record no gradients either

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
        current = self._named()
        require_same_model(state, current, self.net)
        for name, value in current.items():
            value.copy_(state[name])
        self._state.stopped.zero_()


def _stacked(metric: str, steps: list[tuple[Tensor, dict[str, Tensor]]]) -> Scores:
    """The scores of the loss and the metrics after each step, [T, ...]."""
    losses, headline = [loss for loss, _ in steps], [scores.pop(metric) for _, scores in steps]
    return Scores(torch.stack(losses, 1), torch.stack(headline, 1), steps[-1][1])


def require_same_model(state: Params, current: Params, net: Net) -> None:
    """Raises UserError where the names or shapes in a checkpoint's `state` are not the current ones of this network."""
    shared = current.keys() & state.keys()
    differing = sorted(current.keys() ^ state.keys())
    differing += sorted(name for name in shared if current[name].shape != state[name].shape)
    heads = [name for name in differing if "head." in name and name in shared]
    if differing and differing == heads and net.spec.kind == "classes":
        outputs = len(state[heads[0]])
        raise UserError(
            f"the last layer of this checkpoint tells {outputs} classes apart, and not {len(current[heads[0]])}: give "
            f"task.way={outputs}, or train with another way"
        )
    if differing:
        raise UserError(
            f"this checkpoint holds another model: {differing[0]} (and {len(differing) - 1} more) is missing on one "
            "side or has another shape; take the model, task and algorithm that it was trained with"
        )
