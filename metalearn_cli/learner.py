"""The learner: the only thing in the program that changes. It holds the meta-parameters and the outer optimizer.

Shapes: T tasks, Q query examples, E = T episodes, K inner steps at test.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Predictor, task_loss, task_metric
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch, Support


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
    ) -> None:
        """`tasks_per_chunk` bounds memory: a batch goes through in pieces of that many tasks; null: all at once."""
        self.algorithm, self.net, self.optimizer = algorithm, net, optimizer
        self.device, self.dtype, self.tasks_per_chunk = device or torch.device("cpu"), dtype, tasks_per_chunk
        meta = algorithm.init(net, rng)
        self.meta = Meta(
            {name: value.to(self.device, dtype).requires_grad_() for name, value in meta.params.items()},
            {name: value.to(self.device, dtype) for name, value in meta.buffers.items()},
        )
        self._params = list(self.meta.params.values())
        # None: nothing gets a gradient, and the algorithm learns by its buffers alone.
        self._torch_optimizer = optimizer.build(self._params) if self._params else None

    def step(self, batch: Batch, step: int) -> Tensor:
        """One meta-iteration, counted from 0 -> the loss of each task [T]. Raises NonFinite before any change."""
        chunks = self._chunks(batch)
        carries: list[object] = [None] * len(chunks)
        while True:
            updates = [
                self.algorithm.meta_gradient(self.net, self.meta, chunk, step, carry)
                for chunk, carry in zip(chunks, carries, strict=True)
            ]
            shares = [len(chunk.key) / len(batch.key) for chunk in chunks]
            loss = torch.cat([update.loss for update in updates])
            gradient = _weighted_sum(shares, [update.gradient for update in updates])
            buffers = _weighted_sum(shares, [update.buffers for update in updates])
            self._apply(gradient, buffers, loss, step)
            carries = [update.carry for update in updates]
            if carries[0] is None:
                return loss

    def _apply(self, gradient: Params, buffers: Params, loss: Tensor, step: int) -> None:
        if not torch.isfinite(loss).all():
            raise NonFinite("loss", step, torch.nonzero(~torch.isfinite(loss)).flatten().tolist())
        if not all(torch.isfinite(part).all() for part in gradient.values()):
            raise NonFinite("gradient", step, [])
        if self._torch_optimizer is not None:
            for name, param in self.meta.params.items():
                param.grad = gradient[name]
            self.optimizer.clip(self._params)
            for group in self._torch_optimizer.param_groups:
                group["lr"] = self.optimizer.rate(step)
            self._torch_optimizer.step()
        for name, buffer in self.meta.buffers.items():
            buffer.copy_(buffers[name])

    def evaluate(self, batch: Batch, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
        """Adapt to the support set of each task, and score the query set.

        In the first mode after every inner step, in the others, from the same adaptation, after the last one.
        """
        with torch.no_grad():
            parts = [self._evaluate(chunk, modes) for chunk in self._chunks(batch)]
        return {
            mode: Scores(torch.cat([p[mode].loss for p in parts]), torch.cat([p[mode].metric for p in parts]))
            for mode in modes
        }

    def _evaluate(self, batch: Batch, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
        def score(predict: Predictor, mode: BatchNorm) -> Scores:
            out = predict(batch.query_x, mode)
            return Scores(task_loss(spec, out, batch.query_y), task_metric(spec, out, batch.query_y))

        spec, per_step = self.net.spec, []
        for predict in self.algorithm.adapt(self.net, self.meta, batch.support, self.algorithm.test_steps):
            per_step.append(score(predict, modes[0]))
        scored = {modes[0]: per_step} | {mode: [score(predict, mode)] for mode in modes[1:]}
        return {mode: Scores(*(torch.stack(p, 1) for p in zip(*s, strict=True))) for mode, s in scored.items()}

    def adapt(self, support: Support, steps: int | None = None) -> Predictor:
        """The predictor after `steps` inner steps (None: as many as at test)."""
        with torch.no_grad():
            steps = self.algorithm.test_steps if steps is None else steps
            *_, last = self.algorithm.adapt(self.net, self.meta, support, steps)
        return torch.no_grad()(last)

    def _chunks(self, batch: Batch) -> list[Batch]:
        return batch.to(self.dtype).chunks(self.tasks_per_chunk or len(batch.key))

    def state_dict(self) -> Params:
        """Everything that training changes, as flat names: params.*, buffers.*, optimizer.<parameter>.<slot>."""
        state = {f"params.{name}": value.detach() for name, value in self.meta.params.items()}
        state |= {f"buffers.{name}": value for name, value in self.meta.buffers.items()}
        if self._torch_optimizer is not None:
            for name, param in self.meta.params.items():
                for slot, value in self._torch_optimizer.state[param].items():
                    if value is not None:  # SGD without momentum has an empty slot
                        state[f"optimizer.{name}.{slot}"] = value
        return state

    def load_state_dict(self, state: Params) -> None:
        """Raises UserError, and changes nothing, where names or shapes are not this learner's."""
        own = {f"params.{name}": value for name, value in self.meta.params.items()}
        own |= {f"buffers.{name}": value for name, value in self.meta.buffers.items()}
        slots = {name: value for name, value in state.items() if name.startswith("optimizer.")}
        differing = sorted(own.keys() ^ (state.keys() - slots.keys()))
        differing += sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
        if differing:
            raise UserError(
                f"this checkpoint holds another model: {differing[0]} (and {len(differing) - 1} more) is missing on "
                "one side or has another shape; take the model, task and algorithm that it was trained with"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
        if self._torch_optimizer is not None:
            by_param = {
                index: {
                    name.rpartition(".")[2]: value
                    for name, value in slots.items()
                    if name.rpartition(".")[0] == f"optimizer.{param}"
                }
                for index, param in enumerate(self.meta.params)
            }
            groups = self._torch_optimizer.state_dict()["param_groups"]
            self._torch_optimizer.load_state_dict({"state": by_param, "param_groups": groups})


def _weighted_sum(weights: list[float], parts: list[Params]) -> Params:
    """The sum of weights[i] * parts[i], name by name."""
    total = {name: weights[0] * value for name, value in parts[0].items()}
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = {name: value + weight * part[name] for name, value in total.items()}
    return total
