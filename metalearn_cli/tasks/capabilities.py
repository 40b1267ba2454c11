"""What a task may offer besides what every task has, and what holds for one that does not.

A class offers something by having the member, and inherits nothing for it. It is asked for by the functions here.

Shapes: T tasks, Q query examples, P points.
"""

from typing import Protocol, TypeGuard

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Split, Support, TaskDistribution
from metalearn_cli.tasks.likelihood import Likelihood
from metalearn_cli.tasks.thumbnails import shrunk


class Offers(Protocol):
    """Each on its own, except for `draw_numbers`, which goes with `task_count`. The functions say what each one is."""

    def check_split(self, split: Split) -> None: ...
    def identities(self, split: Split) -> frozenset[str]: ...
    def class_names(self, split: Split) -> list[str]: ...
    def label_names(self, draw: Draw) -> tuple[str, ...]: ...
    def task_count(self, split: Split) -> int | None: ...
    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw: ...
    def draw_classes(self, tasks: int, images: int, rng: torch.Generator) -> Draw: ...
    def oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor] | None: ...
    def joint_oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor]: ...
    def functions(self, draw: Draw, x: Tensor) -> tuple[Tensor, float]: ...
    def posterior(self, draw: Draw, support: Support, x: Tensor) -> tuple[Likelihood, Tensor]: ...
    def least_squares(self, draw: Draw, device: torch.device) -> Tensor: ...
    def thumbnails(self, draw: Draw, device: torch.device) -> Batch | None: ...
    def notes(self) -> list[str]: ...
    def make_ready(self, split: Split) -> None: ...
    def may_wait_for_disk(self, device: torch.device) -> bool: ...
    @property
    def preparation(self) -> Preparation | None: ...
    @property
    def columns(self) -> ColumnNames | None: ...


def offers(task: TaskDistribution, member: str) -> TypeGuard[Offers]:
    """Whether the class has this member of Offers. A property may read data, so that the object itself is not asked."""
    return hasattr(type(task), member)


def check_split(task: TaskDistribution, split: Split) -> None:
    """Raises UserError where `split` cannot give such tasks. Only a run that validates asks for "val"; what every run
    needs is checked when the task is made."""
    if offers(task, "check_split"):
        task.check_split(split)


def identities(task: TaskDistribution, split: Split) -> frozenset[str]:
    """What a model must not be tested on once it was trained on it: the split's classes, by the names that other tasks
    with the same classes give them too, or its tasks, if they are counted. Empty: nothing can come again."""
    return task.identities(split) if offers(task, "identities") else frozenset()


def class_names(task: TaskDistribution, split: Split) -> list[str]:
    """The identities of a split as a reader knows them, sorted. Reads the data."""
    return task.class_names(split) if offers(task, "class_names") else sorted(identities(task, split))


def label_names(task: TaskDistribution, draw: Draw) -> tuple[str, ...]:
    """The class names of the draw's first task, in the order of their labels; empty if they have no names."""
    return task.label_names(draw) if offers(task, "label_names") else ()


def task_count(task: TaskDistribution, split: Split) -> int | None:
    """The number of tasks, if they are counted: each is then tested once. None: as many as are drawn."""
    return task.task_count(split) if offers(task, "task_count") else None


def draw_numbers(task: TaskDistribution, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
    """Draw the counted tasks with these numbers [T], from 0 to task_count(task, split) - 1."""
    if not offers(task, "draw_numbers"):
        raise UserError(f"the task {type(task).__name__} has task_count, and needs draw_numbers with it")
    return task.draw_numbers(numbers, split, rng)


def draw_classes(task: TaskDistribution, tasks: int, images: int, rng: torch.Generator) -> Draw:
    """Draw T = `tasks` batches of images of all training classes, labelled 0 to spec.base - 1, as query sets; the
    support sets are empty."""
    if not offers(task, "draw_classes"):
        raise UserError(f"the task {type(task).__name__} has spec.base, and needs draw_classes with it")
    return task.draw_classes(tasks, images, rng)


def oracle(task: TaskDistribution, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor] | None:
    """What only the task knows of the query set's values: the best prediction, as outputs [T, Q, outputs] of a
    likelihood, which may be another one than the network's. None: not known."""
    return task.oracle(draw, device) if offers(task, "oracle") else None


def joint_oracle(task: TaskDistribution, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor] | None:
    """Predict as `oracle` does, with the query values before each one: the sum is the joint log-likelihood."""
    return task.joint_oracle(draw, device) if offers(task, "joint_oracle") else None


def functions(task: TaskDistribution, draw: Draw, x: Tensor) -> tuple[Tensor, float] | None:
    """The functions of a draw's tasks without noise at x [T, P, 1], [T, P, 1], and the deviation of a value's noise.
    None: tasks are no functions that can be asked anywhere."""
    return task.functions(draw, x) if offers(task, "functions") else None


def posterior(task: TaskDistribution, draw: Draw, support: Support, x: Tensor) -> tuple[Likelihood, Tensor] | None:
    """Predict as `oracle` does at x [T, P, 1], of the functions of a draw's tasks and any values of them."""
    return task.posterior(draw, support, x) if offers(task, "posterior") else None


def least_squares(task: TaskDistribution, draw: Draw, device: torch.device) -> Tensor | None:
    """The query values [T, Q, V] of the linear function, the shortest one, that is nearest to the support set. None:
    linear functions say nothing here."""
    return task.least_squares(draw, device) if offers(task, "least_squares") else None


def thumbnails(task: TaskDistribution, draw: Draw, device: torch.device) -> Batch | None:
    """The tasks of a draw with small pictures, see tasks/thumbnails.py. None: it has no pictures."""
    if offers(task, "thumbnails"):
        return task.thumbnails(draw, device)
    is_of_pictures = task.spec.kind == "classes" and len(task.spec.input_shape) == 3
    return shrunk(task.gather(draw, device)) if is_of_pictures else None


def notes_of(task: TaskDistribution) -> list[str]:
    """What a user who starts a run should know about the data. Reads them on first use."""
    return task.notes() if offers(task, "notes") else []


def make_ready(task: TaskDistribution, split: Split) -> None:
    """Do what drawing from this split needs once, which may take minutes: it is done later where it is needed."""
    if offers(task, "make_ready"):
        task.make_ready(split)


def may_wait_for_disk(task: TaskDistribution, device: torch.device) -> bool:
    """Whether gathering on `device` may wait for a disk: then another thread calls `draw` and `gather`."""
    return offers(task, "may_wait_for_disk") and task.may_wait_for_disk(device)


def preparation_of(task: TaskDistribution) -> Preparation | None:
    """How a picture becomes an example. None for a task without images, or one that does not tell."""
    return task.preparation if offers(task, "preparation") else None


def columns_of(task: TaskDistribution) -> ColumnNames | None:
    """The columns from which examples are made. None if they have no names."""
    return task.columns if offers(task, "columns") else None
