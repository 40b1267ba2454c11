"""The points of a number of tasks, from a table, from arrays in an .npz, or from a list in Python.

A long table has a row for each point: its task, its set (support or query), features and targets. An .npz has arrays
x_train, y_train (the support) and x_val, y_val (the query), [tasks, points, features] and [tasks, points] or [tasks,
points, outputs]; or, where tasks differ in size, four arrays for each task, x_train_0, y_train_0, x_val_0, y_val_0,
x_train_1, ... Points that are not divided yet are x and y, or x_0, y_0, x_1, ... Nothing is ever unpickled.

Shapes: M tasks, N points of all of them, F features.
"""

import lzma
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn_cli.datasets.table_file import Columns, check_plain
from metalearn_cli.errors import UserError

Array = np.ndarray[Any, Any]

# What numpy raises where the bytes of a file are not what they should be.
DAMAGE = (
    *(ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError),
    *(OverflowError, MemoryError),  # of a shape that no array has
)

# What a table's column of sets may say.
SETS = {"support": False, "train": False, "query": True, "val": True}


class PointSet(NamedTuple):
    """One task after another; in each, where they are divided, the support's points before the query's."""

    source: str  # where they come from, for sentences
    names: tuple[str, ...]  # of the tasks, [M]
    x: Array  # [N, F] float64
    y: Array  # [N, outputs] float64, or the labels of classes as texts, which are objects, [N]
    size: Array  # [M] int64: points of each task
    support: Array | None  # [M] int64: how many of them are the support's; None: they are not divided
    split: tuple[str, ...] | None  # of each task, train, val or test; None: not told
    features: tuple[str, ...] = ()  # the names of the columns, where they have some
    targets: tuple[str, ...] = ()


class Roles(NamedTuple):
    """What the columns of a table hold, by their names."""

    task: str
    set: str | None  # support or query
    split: str | None  # train, val or test
    features: Sequence[str] | None  # None: every column that is none of the others
    targets: Sequence[str]


def from_columns(columns: Columns, roles: Roles, classes: bool) -> PointSet:
    task_column, set_column, split_column, features, targets = roles
    rows = columns.texts(task_column, "task_column")
    number = {name: position for position, name in enumerate(dict.fromkeys(rows))}
    task = np.asarray([number[name] for name in rows])
    query = _sets(columns, set_column) if set_column else np.zeros(len(rows), dtype=bool)
    special = [name for name in (task_column, set_column, split_column, *targets) if name]
    features = [name for name in columns.cells if name not in special] if features is None else features
    if not features:
        raise UserError(f"{columns.path} has no column but {', '.join(columns.cells)}: features are wanted too")
    if both := [name for name in features if name in special]:
        raise UserError(
            f"task.features names {both[0]}, which is no feature: {', '.join(special)} are told apart already"
        )
    x = np.stack([columns.numbers(name, "features") for name in features], 1)
    if classes:
        y = columns.labels(targets[0], "target")
    else:
        y = np.stack([columns.numbers(name, "target") for name in targets], 1)
    order = np.lexsort((query, task))  # stable: points stay in the file's order
    support = np.bincount(task[~query], minlength=len(number)) if set_column else None
    split = _splits(columns, split_column, rows) if split_column else None
    names = tuple(number)
    return PointSet(
        *(str(columns.path), names, x[order], y[order], np.bincount(task), support, split),
        *(tuple(features), tuple(targets)),
    )


def _sets(columns: Columns, set_column: str) -> Array:
    """Which rows are of a query set, [N] bool."""
    texts = columns.texts(set_column, "set_column")
    for row, text in enumerate(texts):
        if text not in SETS:
            raise UserError(
                f"{columns.where(row)} has {text} in column {set_column}: support or query, or train or val, is wanted"
            )
    return np.asarray([SETS[text] for text in texts])


def _splits(columns: Columns, split_column: str, rows: list[str]) -> tuple[str, ...]:
    """The split of each task, which must be one in all its rows."""
    first: dict[str, tuple[int, str]] = {}
    for row, (task, split) in enumerate(zip(rows, columns.texts(split_column, "split_column"), strict=True)):
        before, known = first.setdefault(task, (row, split))
        if split != known:
            raise UserError(
                f"{columns.where(row)} puts task {task} into {split}, and {columns.where(before)} into {known}: "
                "a task belongs to one split"
            )
    return tuple(split for _, split in first.values())


def read_npz(path: Path, task_column: str, split_column: str | None, classes: bool) -> PointSet:
    """An array named `task_column`, if there is one, has the tasks' names; one named `split_column` their splits."""
    arrays = _load(path)
    divided = any(re.fullmatch(r"x_train(_\d+)?", name) for name in arrays)
    stems = ("x_train", "y_train", "x_val", "y_val") if divided else ("x", "y")
    parts = [_of_each_task(path, arrays, stem) for stem in stems]
    sizes = {stem: len(part) for stem, part in zip(stems, parts, strict=True)}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{stem} of {size}" for stem, size in sizes.items())
        raise UserError(f"{path} has {said} tasks: all are wanted of the same")
    names = [str(number) for number in range(len(parts[0]))]
    if task_column in arrays:
        names = _texts(path, arrays, task_column, len(names))
    split = None
    if split_column:
        if split_column not in arrays:
            raise UserError(f"{path} has no array {split_column} (task.split_column): it has {', '.join(arrays)}")
        split = _texts(path, arrays, split_column, len(names))
    return from_arrays(str(path), names, list(zip(*parts, strict=True)), classes, split)


def _load(path: Path) -> dict[str, Array]:
    check_plain(path)
    try:
        archive = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        # numpy's own words take whatever it does not know for a pickle, and say how to run one.
        raise UserError(f"{path} is no .npz as numpy.savez writes it: write it anew") from error
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path} holds one array without a name: an .npz with x_train, y_train, x_val, y_val is wanted")
    arrays = {}
    with archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except DAMAGE as error:
                raise UserError(
                    f"{path}: array {name} cannot be read ({error}): where tasks differ in size, save arrays of their "
                    "own, x_train_0, x_train_1, ..."
                ) from error
    return arrays


def _of_each_task(path: Path, arrays: dict[str, Array], stem: str) -> list[Array]:
    """The array of each task: rows of the one with this name, or those with this name and a number."""
    if stem in arrays:
        if arrays[stem].ndim not in (2, 3) or (stem[0] == "x" and arrays[stem].ndim == 2):
            wanted = "[tasks, points, features]" if stem[0] == "x" else "[tasks, points] or [tasks, points, outputs]"
            raise UserError(f"{path}: {stem} is of shape {list(arrays[stem].shape)}, and {wanted} is wanted")
        return list(arrays[stem])
    numbers = sorted(int(match[1]) for name in arrays if (match := re.fullmatch(rf"{stem}_(\d+)", name)))
    if not numbers:
        raise UserError(
            f"{path} has neither {stem} nor {stem}_0, {stem}_1, ...: it has {', '.join(arrays) or 'no array'}"
        )
    for number in range(len(numbers)):
        if f"{stem}_{number}" not in arrays:
            raise UserError(f"{path} has {stem}_{numbers[-1]} and no {stem}_{number}: number the tasks from 0 on")
    return [arrays[f"{stem}_{number}"] for number in range(len(numbers))]


def _texts(path: Path, arrays: dict[str, Array], name: str, tasks: int) -> list[str]:
    if arrays[name].shape != (tasks,):
        raise UserError(
            f"{path}: {name} is of shape {list(arrays[name].shape)}, and one text for each of {tasks} tasks is wanted"
        )
    return [str(text) for text in arrays[name].tolist()]


def from_arrays(
    source: str,
    names: Sequence[str],
    tasks: Sequence[Sequence[Array]],
    classes: bool,
    split: Sequence[str] | None = None,
) -> PointSet:
    """The set of these tasks, each (x, y) or (x_train, y_train, x_val, y_val): x [points, F] or [points], y [points]
    or [points, outputs]."""
    if not tasks:
        raise UserError(f"{source} holds no tasks")
    xs: list[Array] = []
    ys: list[Array] = []
    counts: list[list[int]] = []  # of each part of each task
    for name, parts in zip(names, tasks, strict=True):
        counts.append([len(part) if part.ndim else 0 for part in parts[::2]])
        for x, y in zip(parts[::2], parts[1::2], strict=True):
            xs.append(_values(source, name, "x", x[:, None] if x.ndim == 1 else x))
            ys.append(
                _labels(source, name, y) if classes else _values(source, name, "y", y[:, None] if y.ndim == 1 else y)
            )
            if len(xs[-1]) != len(ys[-1]):
                raise UserError(f"{source}: task {name} has {len(xs[-1])} points in x and {len(ys[-1])} in y")
            for what, part, first in (("x", xs[-1], xs[0]), ("y", ys[-1], ys[0])):
                if part.shape[1:] != first.shape[1:]:
                    raise UserError(
                        f"{source}: task {name} has {part.shape[1]} numbers for each point in {what}, and task "
                        f"{names[0]} has {first.shape[1]}: all are wanted alike"
                    )
    count = np.asarray(counts)
    support = count[:, 0] if count.shape[1] == 2 else None
    return PointSet(
        *(source, tuple(names), np.concatenate(xs), np.concatenate(ys), count.sum(1), support),
        split=None if split is None else tuple(split),
    )


def array_of(values: Any) -> Array:
    """Texts as objects: in an array of texts each has room for the longest."""
    are_texts = isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)
    return np.asarray(values, dtype=object if are_texts else None)


def _values(source: str, task: str, what: str, values: Array) -> Array:
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise UserError(
            f"{source}: {what} of task {task} is {values.dtype.name} of shape {list(values.shape)}, and numbers for "
            "each point are wanted"
        )
    if not np.isfinite(values).all():
        point = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise UserError(f"{source}: {what} of task {task} is not finite at point {point}: give every point a number")
    return values.astype(np.float64)


def _labels(source: str, task: str, labels: Array) -> Array:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    is_text = labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.ravel())
    if labels.ndim != 1 or not (is_text or labels.dtype.kind in "biuU"):
        raise UserError(
            f"{source}: y of task {task} is {labels.dtype.name} of shape {list(labels.shape)}, and one label for each "
            "point, a whole number or a text, is wanted"
        )
    return np.asarray([str(label) for label in labels.tolist()], dtype=object)
