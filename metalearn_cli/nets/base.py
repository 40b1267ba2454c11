"""The network interface: pure functions of parameters, with the tasks of the meta-batch as leading dimension.

Shapes: T tasks, B examples per task. A parameter is shared by all tasks, [*shape], or one per task, [T, *shape].
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Spec

Params = dict[str, Tensor]
CONTEXT = "context"  # the name of the inputs that a task sets, [C] or [T, C], where a network has them: a parameter
Forward = tuple[Tensor, Params]  # features or outputs, and the batch-norm statistics that were used


class Pass(Enum):
    """Which examples of a task go through the network."""

    support = 0
    query = 1
    both = 2  # together, as they are compared


class Noise(NamedTuple):
    """What the units that training drops depend on, beside `Call.step`, their layer and their place: see noise.py."""

    key: Tensor  # [T] int64, of the tasks
    examples: Pass
    progress: Tensor  # [T] in 0..1, the share of the training that is done


class Call(NamedTuple):
    """What a forward is told beside parameters and examples."""

    stats: Params | None = None  # batch norm's, by name: [channels] or [T, channels]; None: those of the batch
    mask: Tensor | None = None  # [T, B] bool: True for real examples; None: all are real
    step: int = 0  # inner steps that were taken before, for parameters that each of them has of its own
    noise: Noise | None = None  # None: nothing is dropped, as in every validation and test


PLAIN = Call()


class Net(ABC):
    """A final class is a frozen dataclass: `spec` and the keys of its yaml file. It holds no parameters.

    Batch-norm statistics are mean and (biased) variance. Without `call.stats` each task is normalised by its own batch:
    by the real examples of it, where there is a mask. Both calls return the statistics that they used, to be averaged
    or used again.
    """

    spec: Spec

    @abstractmethod
    def init(self, rng: torch.Generator) -> Params:
        """Fresh shared parameters, float32 on the CPU; those of the head are named "head.*"."""

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Parameter shapes by name; cached, since they are needed often."""
        return {name: value.shape for name, value in self.init(torch.Generator()).items()}

    @cached_property
    def class_rows(self) -> frozenset[str]:
        """The names of the parameters with a row for each class: those that grow by a row with one class more. Raises
        UserError where a parameter depends on the number of classes in another way."""
        outputs, more = self.spec.outputs, with_outputs(self, self.spec.outputs + 1).shapes
        names = frozenset(name for name, shape in self.shapes.items() if shape != more.get(name))
        for name in names:
            if self.shapes[name] != (outputs, *more[name][1:]):
                raise UserError(
                    f"{name} of this model does not have a row for each class: let only its last layer depend on the "
                    "number of classes"
                )
        return names

    @abstractmethod
    def init_stats(self) -> Params:
        """Batch norm's statistics when training begins, NAME.mean and NAME.var of each layer: those of the standard
        normal distribution, or what a user's own module begins with. Empty for a network without batch norm."""

    @abstractmethod
    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        """x [T, B, *input] -> features [T, B, F], and the statistics used."""

    @abstractmethod
    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        """x [T, B, *input] -> out [T, B, outputs], and the statistics used."""


def per_task(params: Params, tasks: int) -> Params:
    """[*shape] -> [T, *shape]: the same values for every task."""
    return {name: value.expand(tasks, *value.shape) for name, value in params.items()}


def standard_normal(stats: Params) -> Params:
    """The standard normal distribution's statistics in place of these, made on their device."""
    return {
        name: torch.zeros_like(value) if name.endswith(".mean") else torch.ones_like(value)
        for name, value in stats.items()
    }


def with_outputs(net: Net, outputs: int) -> Net:
    """Return the same network for tasks that all have this number of classes."""
    return with_spec(net, net.spec._replace(outputs=outputs, train_outputs=outputs, padded=False))


def with_spec(net: Net, spec: Spec) -> Net:
    """Return the same network for these tasks."""
    dataclass: Any = net
    other: Net = replace(dataclass, spec=spec)
    return other
