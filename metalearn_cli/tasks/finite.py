"""A number of tasks that are known, each with points of its own: a user's table, or a list of arrays.

They are divided into training, validation and test tasks. A training draw takes different tasks as far as there are
any; at validation and test each is scored once. A task's points are divided into support and query once and for all by
the data, or at random: anew in each training draw, and by the episodes' seed at validation and test. A draw holds the
numbers of points; tasks that differ in size are padded with their first point, and masks tell which points are real.

Shapes, besides those of tasks/base.py: M tasks, N points of all of them, F features.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.datasets.point_set import Array, PointSet, array_of, from_arrays
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import (
    Batch,
    ColumnNames,
    Draw,
    Range,
    Scale,
    Spec,
    Split,
    TaskDistribution,
    draw_keys,
    on_device,
)
from metalearn_cli.tasks.episodes import sort_keys
from metalearn_cli.tasks.splits import by_fraction, by_labels


@dataclass(frozen=True, eq=False)
class FiniteTasks(TaskDistribution):
    x: Tensor  # [N, F] float32, one task after another
    y: Tensor  # [N, outputs] float32, or [N] int64
    start: Tensor  # [M] int64: the first point of each task
    count: Tensor  # [M] int64: how many it has
    support: Tensor  # [M] int64: how many of them are in its support, the first ones unless it is shuffled
    query: Tensor  # [M] int64: how many of the next ones are in its query set
    shuffled: bool  # the points are divided at random
    members: Mapping[Split, Tensor]  # the tasks of each split
    asked: Spec  # of a network
    names: tuple[str, ...]  # of the tasks, [M]
    point_hashes: tuple[str, ...]  # a hash of the points of each task, [M]: a name alone could change
    digest: str  # a hash of all of it
    made_of: ColumnNames | None = None
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def spec(self) -> Spec:
        return self.asked

    @property
    def fingerprint(self) -> str:
        return self.digest

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self.members)

    @property
    def columns(self) -> ColumnNames | None:
        return self.made_of

    def identities(self, split: Split) -> frozenset[str]:
        return frozenset(self.point_hashes[task] for task in self.members[split].tolist())

    def task_count(self, split: Split) -> int:
        return len(self.members[split])

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        number = self.task_count(split)
        rounds = [torch.randperm(number, generator=rng) for _ in range(math.ceil(tasks / number))]
        return self.draw_numbers(torch.cat(rounds)[:tasks], split, rng)

    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
        members = self.members[split]
        task = members[numbers]
        start, support, query = (size[task][:, None] for size in (self.start, self.support, self.query))
        most = int(self.count[members].max())
        place = torch.arange(most).expand(len(task), most)
        if self.shuffled:
            keys = sort_keys(len(task), most, rng=rng).masked_fill(place >= self.count[task][:, None], -1)
            place = keys.argsort(descending=True)
        draw: Draw = {}
        for name, first, size, sizes in (("support", 0, support, self.support), ("query", support, query, self.query)):
            position = torch.arange(int(sizes[members].max()))
            mask = position < size
            chosen = place.gather(1, (first + position).clamp(max=most - 1).expand_as(mask))
            draw[f"{name}_point"] = start + chosen.where(mask, 0)
            if self.asked.padded:
                draw[f"{name}_mask"] = mask
        draw["key"] = draw_keys(len(task), rng)
        return draw

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        x, y = self._on(device)
        at = on_device(draw, device)
        support, query = at["support_point"], at["query_point"]
        masks = at.get("support_mask"), at.get("query_mask")
        return Batch(x[support], y[support], x[query], y[query], at["key"], *masks)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The points on this device, copied there once and kept."""
        if device.type == "cpu":
            return self.x, self.y
        if device not in self._copies:
            self._copies[device] = self.x.to(device), self.y.to(device)
        return self._copies[device]


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
    """Tasks (x_train, y_train, x_val, y_val) of arrays, tensors or lists: x [points, F] or [points], y [points] or
    [points, outputs]; for classes y [points], of whole numbers or texts.

    `split` has train, val or test for each task; None: by shares and a seed, as `task=table` does it. `standardise` as
    there; without it the numbers stay what they are. Raises UserError where something does not fit.
    """
    source = "the list of tasks"
    if odd := [number for number, task in enumerate(tasks) if len(task) != 4]:
        raise UserError(f"{source}: number {odd[0]} has {len(tasks[odd[0]])} arrays: x_train, y_train, x_val, y_val")
    names = [str(number) for number in range(len(tasks))] if names is None else [str(name) for name in names]
    for what, words in (("names", names), ("split", split)):
        if words is not None and len(words) != len(tasks):
            raise UserError(f"{source} has {len(tasks)} tasks and {len(words)} in {what}: one for each is wanted")
    points = from_arrays(source, names, [[_array(part) for part in task] for task in tasks], classes)
    if split is None:
        members = by_fraction(source, names, split_seed, val_share, test_share)
    else:
        members = by_labels("split", names, split)
    return count_tasks(points, members, classes, standardise)


def _array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else array_of(values)


def count_tasks(
    points: PointSet,
    members: Mapping[Split, Tensor],
    classes: bool = False,
    standardise: bool = False,
    shot: int | None = None,
    query: int | None = None,
) -> FiniteTasks:
    """`standardise`: the numbers minus their mean over the points of the training tasks, over their deviation. `shot`
    and `query` (None: all others) divide points that are not divided."""
    names, count = points.names, torch.from_numpy(points.size)
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{points.source} has two tasks {twice[0]}: give each a name of its own")
    support, queries = _sizes(points, count, shot, query)
    digests = _digests(points)
    _check_apart(points, digests, members)
    trained = torch.isin(torch.arange(len(names)).repeat_interleave(count), members["train"]).numpy()
    x, y = points.x, points.y
    extremes = (x[trained].min(0).tolist(), x[trained].max(0).tolist())
    columns = ColumnNames(points.features, points.targets, x_range=Range(*map(tuple, extremes)))
    if standardise:
        columns = replace(columns, x_scale=_scale(x[trained]), y_scale=None if classes else _scale(y[trained]))
        x, y = _scaled(x, columns.x_scale), _scaled(y, columns.y_scale)
    inputs, targets = _float32(points.source, x), _numbered(points.source, y) if classes else _float32(points.source, y)
    if classes:
        label_of = dict(zip(targets.tolist(), y.tolist(), strict=True))
        columns = replace(columns, labels=tuple(label_of[number] for number in sorted(label_of)))
    start = count.cumsum(0) - count
    outputs = int(targets.max()) + 1 if classes else targets.shape[1]
    padded = any(sizes[tasks].min() < sizes[tasks].max() for sizes in (support, queries) for tasks in members.values())
    complete = not classes or (points.support is not None and _has_every_class(targets, start, support))
    spec = Spec((x.shape[1],), outputs, outputs, "classes" if classes else "values", padded, complete)
    # Not what `shot` and `query` divide: the draws hold that, and other sizes are no other data.
    divided = support.tolist() if points.support is not None else None
    whole = hashlib.sha256(json.dumps([names, count.tolist(), divided, list(inputs.shape)]).encode())
    whole.update(inputs.numpy().tobytes() + targets.numpy().tobytes())
    identities = tuple(f"the task with the points {digest[:16]}" for digest in digests)
    return FiniteTasks(
        *(inputs, targets, start, count, support, queries, points.support is None),
        *(members, spec, tuple(names), identities, whole.hexdigest(), columns),
    )


def _sizes(points: PointSet, count: Tensor, shot: int | None, query: int | None) -> tuple[Tensor, Tensor]:
    """Points of each task's support and query set, [M] each."""
    given = {key: value for key, value in (("shot", shot), ("query", query)) if value is not None}
    if points.support is not None:
        for key, value in given.items():
            raise UserError(
                f"task.{key}={value} divides points at random, and those of {points.source} are divided already: set "
                f"task.{key}=null"
            )
        support = torch.from_numpy(points.support)
        for number, (of_support, of_all) in enumerate(zip(support.tolist(), count.tolist(), strict=True)):
            for what, size in (("support", of_support), ("query", of_all - of_support)):
                if size == 0:
                    raise UserError(f"{points.source}: task {points.names[number]} has no {what} point: one is wanted")
        return support, count - support
    if shot is None:
        raise UserError(
            f"{points.source} does not say which points are support and which are query: add that (a column `set`; in "
            "an .npz x_train and x_val), or divide them at random by task.shot=5"
        )
    for key, value in given.items():
        if value < 1:
            raise UserError(f"task.{key}={value} must be at least 1 point")
    if (fewest := int(count.min())) < (least := shot + (query or 1)):
        name = points.names[int(count.argmin())]
        raise UserError(
            f"{points.source}: task {name} has {fewest} points, and task.shot={shot} with "
            f"{'a query of one' if query is None else f'task.query={query}'} wants {least}"
        )
    support = torch.full_like(count, shot)
    return support, count - support if query is None else torch.full_like(count, query)


def _digests(points: PointSet) -> list[str]:
    """A hash of the points of each task, in whatever order they stand, [M]."""
    rows = [x.tobytes() + json.dumps(y).encode() for x, y in zip(points.x, points.y.tolist(), strict=True)]
    ends = points.size.cumsum().tolist()
    tasks = (sorted(rows[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return [hashlib.sha256(b"".join(task)).hexdigest() for task in tasks]


def _check_apart(points: PointSet, digests: list[str], members: Mapping[Split, Tensor]) -> None:
    """Raises UserError where two splits have a task with the same points: it would be trained on and tested."""
    seen: dict[str, tuple[Split, str]] = {}
    for split, tasks in members.items():
        for task in tasks.tolist():
            before, name = seen.setdefault(digests[task], (split, points.names[task]))
            if before != split:
                raise UserError(
                    f"{points.source}: tasks {name} ({before}) and {points.names[task]} ({split}) have the same "
                    "points: remove one, or put both into one split"
                )


def _scale(values: Array) -> Scale:
    changes = values.max(0) > values.min(0)  # the deviation of a constant need not be 0 in floating point
    return Scale(tuple(values.mean(0).tolist()), tuple(np.where(changes, values.std(0), 1).tolist()))


def _scaled(values: Array, scale: Scale | None) -> Array:
    if scale is None:
        return values
    scaled: Array = (values - np.asarray(scale.mean)) / np.asarray(scale.deviation)
    return scaled


def _float32(source: str, values: Array) -> Tensor:
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise UserError(f"{source} holds numbers beyond 3.4e38, where float32 ends: give them in another unit")
    return torch.from_numpy(values.astype(np.float32))


def _numbered(source: str, labels: Array) -> Tensor:
    """Labels [N] -> 0, 1, ... [N] int64, in the order of the labels: whole numbers by size, texts by the alphabet."""
    known, number = np.unique(labels, return_inverse=True)
    if len(known) < 2:
        raise UserError(f"{source} has points of class {known[0]} only: two classes are wanted at least")
    if real := [label for label in known.tolist() if re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+", label)]:
        raise UserError(
            f"{source} has {real[0]} for a class: labels are whole numbers or texts, and numbers want task.loss=values"
        )
    if all(re.fullmatch(r"-?\d+", label) for label in known.tolist()):
        rank = np.argsort(sorted(range(len(known)), key=lambda i: int(known[i])))
        number = rank[number]
    return torch.from_numpy(number)


def _has_every_class(labels: Tensor, start: Tensor, support: Tensor) -> bool:
    sizes = zip(start.tolist(), support.tolist(), strict=True)
    return all(len(set(labels[first : first + size].tolist())) == int(labels.max()) + 1 for first, size in sizes)
