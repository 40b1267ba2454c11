"""Tasks that are counted, each with its own points: a user's table, or a list of arrays.

They are divided into training, validation and test tasks. A training draw takes as many different tasks as there are;
at validation and test each is scored once. The data divide a task's points into support and query, or chance does:
differently in each training draw, and by the episodes' seed at validation and test. A draw holds the numbers of points.
Tasks that differ in size are padded with their first point, and masks tell which points are real.

Shapes, besides those of tasks/base.py: M tasks, N points of all of them, F features.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.point_set import Array, array_of, from_arrays
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.known_tasks import KnownTasks, make_known_tasks
from metalearn_cli.tasks.likelihood import Categorical, SquaredError
from metalearn_cli.tasks.one_size import sort_keys
from metalearn_cli.tasks.splits import by_fraction, by_labels


class FiniteTasks(TaskDistribution):
    """Tasks that are counted. A final class says which they are."""

    @property
    @abstractmethod
    def known(self) -> KnownTasks: ...

    @property
    def spec(self) -> Spec:
        return self.known.spec

    @property
    def fingerprint(self) -> str:
        return self.known.fingerprint

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self.known.members)

    @property
    def columns(self) -> ColumnNames:
        return self.known.columns

    def identities(self, split: Split) -> frozenset[str]:
        return frozenset(self.known.identities[task] for task in self.known.members[split].tolist())

    def task_count(self, split: Split) -> int:
        return len(self.known.members[split])

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        number = self.task_count(split)
        rounds = [torch.randperm(number, generator=rng) for _ in range(math.ceil(tasks / number))]
        return self.draw_numbers(torch.cat(rounds)[:tasks], split, rng)

    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
        known, members = self.known, self.known.members[split]
        task = members[numbers]
        start, support, query = (part[task][:, None] for part in (known.start, known.support, known.query))
        most = int(known.count[members].max())
        order = torch.arange(most).expand(len(task), most)  # in which each task's points are taken
        if known.shuffled:
            keys = sort_keys(len(task), most, rng=rng).masked_fill(order >= known.count[task][:, None], -1)
            order = keys.argsort(descending=True)
        draw: Draw = {}
        parts = (("support", 0, support, known.support), ("query", support, query, known.query))
        for name, first, size, sizes in parts:
            position = torch.arange(int(sizes[members].max()))
            mask = position < size
            chosen = order.gather(1, (first + position).clamp(max=most - 1).expand_as(mask))
            draw[f"{name}_point"] = start + chosen.where(mask, 0)
            if known.spec.padded:
                draw[f"{name}_mask"] = mask
        draw["key"] = draw_keys(len(task), rng)
        return draw

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        x, y, support, query = self.known.x, self.known.y, draw["support_point"], draw["query_point"]
        masks = draw.get("support_mask"), draw.get("query_mask")
        batch = Batch(x[support], y[support], x[query], y[query], draw["key"], *masks)
        return Batch(**on_device(batch.tensors(), device))


@dataclass(frozen=True, eq=False)
class ListedTasks(FiniteTasks):
    tasks: KnownTasks

    @property
    def known(self) -> KnownTasks:
        return self.tasks


def from_list(
    tasks: Sequence[Sequence[Any]],
    names: Sequence[str] | None = None,
    classes: bool = False,
    standardise: bool = False,
    split: Sequence[str] | None = None,
    split_seed: int = 0,
    val_share: float = 0.2,
    test_share: float = 0.2,
) -> FiniteTasks:
    """Make tasks of (x_train, y_train, x_val, y_val), each an array, a tensor or a list: x [points, F] or [points], y
    [points] or [points, outputs]; for classes y [points], of whole numbers or texts.

    `split` has train, val or test for each task; None: by shares and a seed, as `task=table` does it. `standardise` is
    that of `task=table`; without it the numbers stay as they are. Raises UserError for data that do not fit.
    """
    source = "the list of tasks"
    if odd := [number for number, task in enumerate(tasks) if len(task) != 4]:
        raise UserError(f"{source}: number {odd[0]} has {len(tasks[odd[0]])} arrays: x_train, y_train, x_val, y_val")
    names = [str(number) for number in range(len(tasks))] if names is None else [str(name) for name in names]
    for what, words in (("names", names), ("split", split)):
        if words is not None and len(words) != len(tasks):
            raise UserError(f"{source} has {len(tasks)} tasks and {len(words)} in {what}: it needs one for each")
    points = from_arrays(source, names, [[_array(part) for part in task] for task in tasks], classes)
    if split is None:
        members = by_fraction(source, names, split_seed, val_share, test_share)
    else:
        members = by_labels("split", names, split)
    return ListedTasks(make_known_tasks(points, members, Categorical() if classes else SquaredError(), standardise))


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else array_of(values)
