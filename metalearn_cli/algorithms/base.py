"""What an algorithm is: pure functions from meta-parameters and a batch of tasks to predictors and a meta-gradient.

The bi-level problem behind all of them: find meta-parameters theta so that, after adapting to the support set of a
task, the loss on its query set is small,  min_theta  E_task  L(adapt(theta, support), query).

Shapes: T tasks, S support examples, Q query examples. An algorithm reads, writes, draws and logs nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch, Spec, Support


class BatchNorm(Enum):
    """Whose statistics normalise the query examples of a task."""

    transductive = "transductive"  # those of the query set (ProtoNet: of support and query together)
    inductive = "inductive"  # those of the support set
    running = "running"  # averages over the training tasks
    one_query = "one_query"  # those of the support set and that one query example


class Meta(NamedTuple):
    """What is meta-learned: `params` get meta-gradients, `buffers` (running statistics) do not. Both are saved."""

    params: Params
    buffers: Params


class Predictor(ABC):
    """Predicts for the T tasks that were adapted to. A final class is a frozen dataclass of what adapting made."""

    net: Net
    buffers: Params  # the running statistics among them

    def __call__(self, query_x: Tensor, batch_norm: BatchNorm, query_mask: Tensor | None = None) -> Tensor:
        """query_x [T, Q, *input] -> out [T, Q, outputs]. `batch_norm` says whose statistics normalise it, query_mask
        [T, Q] which examples are real."""
        names = self.net.init_stats()
        if batch_norm is BatchNorm.transductive or not names:  # without batch norm all modes are this one
            return self.outputs(query_x, query_mask, None)
        if batch_norm is BatchNorm.one_query:
            return torch.cat([self.outputs_beside_support(x) for x in torch.split(query_x, 1, dim=1)], 1)
        is_running = batch_norm is BatchNorm.running
        stats = {name: self.buffers[name] for name in names} if is_running else self.support_stats()
        return self.outputs(query_x, query_mask, stats)

    @abstractmethod
    def outputs(self, query_x: Tensor, query_mask: Tensor | None, stats: Params | None) -> Tensor:
        """query_x [T, Q, *input] -> out [T, Q, outputs], under these batch-norm statistics (None: the batch's)."""

    @abstractmethod
    def support_stats(self) -> Params:
        """The batch-norm statistics of the support set."""

    @abstractmethod
    def outputs_beside_support(self, query_x: Tensor) -> Tensor:
        """query_x [T, 1, *input] -> out [T, 1, outputs], under the statistics of the support set and this example."""


Carry = Any  # what an algorithm gives itself for another update from the same tasks


class Update(NamedTuple):
    """The change that one meta-batch of T tasks asks for; gradient and buffers are means over the tasks."""

    gradient: Params  # by the name of the meta-parameter
    loss: Tensor  # [T], detached
    buffers: Params  # the new ones
    carry: Carry = None  # not None: call again with it, for another update from the same tasks


class Algorithm(ABC):
    """A final class is a frozen dataclass whose fields are the keys of its yaml file.

    This is what every class has; what one may have besides, and how it is asked for, stands in
    algorithms/capabilities.py.
    """

    # Inner steps at validation and test. 0: only the end of what it does is scored; None: as steps_at_test says.
    test_steps: int | None = 0
    remat: bool = False  # whether inner steps are computed again in the backward pass; a key where there is the choice
    batch_norm: ClassVar[BatchNorm]  # the mode in which the algorithm's paper reports
    transductive_head: ClassVar[bool] = False  # whether it predicts all queries of a task together, not each by itself
    needs_unlabelled: ClassVar[bool] = False  # whether tasks must have unlabelled examples
    is_metric: ClassVar[bool] = False  # whether outputs are distances, which do not depend on the number of classes
    memory_savers: ClassVar[tuple[str, ...]] = ()  # keys by which a step holds less memory, from little to much less

    @abstractmethod
    def init(self, net: Net, rng: torch.Generator) -> Meta:
        """The meta-parameters before training. Raises UserError where the algorithm does not fit the task."""

    @abstractmethod
    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        """Yield the predictor after 0, 1, ... `steps` inner steps; differentiable in `meta.params` where the
        meta-gradient runs through the steps, and never under no_grad."""

    @abstractmethod
    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        """The update that the tasks of `batch` ask for at meta-iteration `step` (counted from 0).

        No `if` on a tensor's value, nor on `step`: under compile=true and cuda_graph=true it is an int64 tensor [].
        """

    def open_memory_savers(self) -> list[str]:
        """The memory savers that would still save something: those after the last one that is set."""
        savers = list(self.memory_savers)
        while any(getattr(self, key) for key in savers):
            del savers[0]
        return savers

    def require_mode(self, mode: BatchNorm) -> None:
        """Raises UserError for one query at a time, where all queries of a task are predicted together."""
        if self.transductive_head and mode is BatchNorm.one_query:
            raise UserError(
                "batch_norm=one_query shows each query by itself, and this algorithm predicts all queries of a task "
                "together: take batch_norm=inductive"
            )

    def require_equal_sizes(self, spec: Spec, *keys: str) -> None:
        """Raises UserError where support sets vary in size, and one of these keys needs them to be of one size."""
        for key in keys:
            if spec.padded and (value := getattr(self, key)):
                neutral = "false" if value is True else "null"
                raise UserError(
                    f"algo.{key}={str(value).lower()} needs support sets of one size, and this task's vary: "
                    f"set algo.{key}={neutral}"
                )

    def require_one_way(self, spec: Spec) -> None:
        """Raises UserError where training has another way than the test: a head has one output for each class."""
        if spec.train_outputs != spec.outputs:
            raise UserError(
                f"this algorithm learns one output per class, so task.train_way={spec.train_outputs} must equal "
                f"task.way={spec.outputs}; one that compares embeddings, as algo=protonet does, can train with another"
            )
