"""The tasks of a data set that is known as a whole: made of points, checked and numbered, and kept as tensors.

Shapes: M tasks, N points of all of them, F features.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames, Range, Scale
from metalearn_cli.datasets.point_set import Array, PointSet
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Spec, Split
from metalearn_cli.tasks.likelihood import Likelihood


@dataclass(frozen=True, eq=False)
class KnownTasks:
    """All tasks, and the points of each."""

    x: Tensor  # [N, F] float32, one task after another
    y: Tensor  # [N, targets] float32, or [N] int64
    start: Tensor  # [M] int64: the first point of each task
    count: Tensor  # [M] int64: its number of points
    support: Tensor  # [M] int64: how many of them are in its support, the first ones unless it is shuffled
    query: Tensor  # [M] int64: how many of the next ones are in its query set
    shuffled: bool  # the points are divided at random
    members: Mapping[Split, Tensor]  # the tasks of each split
    spec: Spec
    names: tuple[str, ...]  # of the tasks, [M]
    identities: tuple[str, ...]  # what tells each task from others, [M]: a hash of its points, since names can change
    fingerprint: str  # a hash of everything
    columns: ColumnNames


def make_known_tasks(
    points: PointSet,
    members: Mapping[Split, Tensor],
    likelihood: Likelihood,
    standardise: bool = False,
    shot: int | None = None,
    query: int | None = None,
) -> KnownTasks:
    """Make tasks of points. `standardise` subtracts the mean of the training tasks' points and divides by their
    deviation; `shot` and `query` (None: all others) divide points that are not divided."""
    source, names, shuffled = points.source, points.names, points.support is None
    classes = likelihood.kind == "classes"
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UserError(f"{source} has two tasks {twice[0]}: give each a name of its own")
    count = torch.from_numpy(points.size)
    support, queries = _sizes(points, count, shot, query)
    hashes = _point_hashes(points)
    _check_apart(points, hashes, members)
    trained = torch.isin(torch.arange(len(names)).repeat_interleave(count), members["train"]).numpy()
    x_range = Range(tuple(points.x[trained].min(0).tolist()), tuple(points.x[trained].max(0).tolist()))
    x_scale, x = _scaled(source, points.x, trained if standardise else None)
    if classes:
        y_scale, (labels, y) = None, _number_classes(source, points.y)
    else:
        labels, (y_scale, y) = (), _scaled(source, points.y, trained if standardise else None)
    start = count.cumsum(0) - count
    outputs = likelihood.width * (len(labels) or y.shape[1])
    padded = any(sizes[tasks].min() < sizes[tasks].max() for sizes in (support, queries) for tasks in members.values())
    in_supports = (y[i : i + n] for i, n in zip(start.tolist(), support.tolist(), strict=True))
    complete = not classes or (not shuffled and all(len(set(part.tolist())) == outputs for part in in_supports))
    spec = Spec((x.shape[1],), outputs, outputs, likelihood, padded, complete)
    # Without what `shot` and `query` divide: the draws hold that, and other sizes are not other data.
    divided = None if shuffled else support.tolist()
    whole = hashlib.sha256(json.dumps([names, count.tolist(), divided, list(x.shape)]).encode())
    whole.update(x.numpy().tobytes() + y.numpy().tobytes())
    columns = ColumnNames(points.features, points.targets, x_scale, y_scale, labels, x_range)
    identities = tuple(f"the task with the points {digest[:16]}" for digest in hashes)
    return KnownTasks(
        x, y, start, count, support, queries, shuffled, members, spec, names, identities, whole.hexdigest(), columns
    )


def _sizes(points: PointSet, count: Tensor, shot: int | None, query: int | None) -> tuple[Tensor, Tensor]:
    """Count the points of each task's support and query set, [M] each."""
    if points.support is not None:
        for key, value in (("shot", shot), ("query", query)):
            if value is not None:
                raise UserError(
                    f"task.{key}={value} divides points, and those of {points.source} are divided: set task.{key}=null"
                )
        support = torch.from_numpy(points.support)
        for what, sizes in (("support", support), ("query", count - support)):
            if not sizes.all():
                raise UserError(
                    f"{points.source}: task {points.names[int(sizes.argmin())]} has no {what} point: it needs one"
                )
        return support, count - support
    if shot is None:
        raise UserError(
            f"{points.source} does not say which points are support and which are query: add that (a column `set`; in "
            "an .npz x_train and x_val), or divide them at random by task.shot=5"
        )
    if (fewest := int(count.min())) < (least := shot + (query or 1)):
        raise UserError(
            f"{points.source}: task {points.names[int(count.argmin())]} has {fewest} points, and task.shot={shot} with "
            f"{'a query of one' if query is None else f'task.query={query}'} needs {least}"
        )
    support = torch.full_like(count, shot)
    return support, count - support if query is None else torch.full_like(count, query)


def _point_hashes(points: PointSet) -> list[str]:
    """Hash the points of each task, in any order, [M]."""
    rows = [x.tobytes() + json.dumps(y).encode() for x, y in zip(points.x, points.y.tolist(), strict=True)]
    ends = points.size.cumsum().tolist()
    tasks = (sorted(rows[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return [hashlib.sha256(b"".join(task)).hexdigest() for task in tasks]


def _check_apart(points: PointSet, hashes: list[str], members: Mapping[Split, Tensor]) -> None:
    """Raises UserError where two splits have a task with the same points: it would be trained on and tested."""
    named = {split: {hashes[task]: points.names[task] for task in tasks.tolist()} for split, tasks in members.items()}
    for (first, names), (second, others) in itertools.combinations(named.items(), 2):
        for same in names.keys() & others.keys():
            raise UserError(
                f"{points.source}: tasks {names[same]} ({first}) and {others[same]} ({second}) have the same points: "
                "remove one, or put both into one split"
            )


def _scaled(source: str, values: Array, trained: Array | None) -> tuple[Scale | None, Tensor]:
    """Put float32 values on the scale of the training tasks' points, those in `trained` [N] bool; None: as they are."""
    scale = None
    if trained is not None:
        known = values[trained]
        changes = known.max(0) > known.min(0)  # the deviation of a constant need not be 0 in floating point
        mean, deviation = known.mean(0), np.where(changes, known.std(0), 1)
        scale, values = Scale(tuple(mean.tolist()), tuple(deviation.tolist())), (values - mean) / deviation
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise UserError(f"{source} holds numbers beyond 3.4e38, where float32 ends: give them in another unit")
    return scale, torch.from_numpy(values.astype(np.float32))


def _number_classes(source: str, labels: Array) -> tuple[tuple[str, ...], Tensor]:
    """Number the classes, whole numbers by size and texts by the alphabet: [N] -> the classes, and [N] int64."""
    classes, number = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"{source} has points of class {classes[0]} only: it needs two classes at least")
    if real := [label for label in classes.tolist() if re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?|-?\d+e[+-]?\d+", label)]:
        raise UserError(
            f"{source} has {real[0]} for a class: labels are whole numbers or texts, and numbers need task.loss=values"
        )
    if all(re.fullmatch(r"-?\d+", label) for label in classes.tolist()):
        by_size = sorted(range(len(classes)), key=lambda position: int(classes[position]))
        classes, number = classes[by_size], np.argsort(by_size)[number]
    return tuple(classes.tolist()), torch.from_numpy(number)
