"""The points of several tasks, from a table, from arrays in an .npz, or from a list in Python.

A table has a row for each point: its task, its set (support or query), features and targets. An .npz has the arrays
x_train, y_train (the support) and x_val, y_val (the query), [tasks, points, features] and [tasks, points] or [tasks,
points, outputs]; or, where tasks differ in size, four arrays for each task, x_train_0, y_train_0, x_val_0, y_val_0,
x_train_1, ... Points that are not yet divided are x and y, or x_0, y_0, x_1, ... Nothing is ever unpickled.

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

from metalearn_cli.datasets.table_file import TableFile
from metalearn_cli.errors import UserError

Array = np.ndarray[Any, Any]

# What numpy raises for a damaged file.
DAMAGE = (
    *(ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError),
    *(OverflowError, MemoryError),  # of a shape that no array has
)

IS_QUERY = {"support": False, "train": False, "query": True, "val": True}  # by what a table's column of sets may say


class PointSet(NamedTuple):
    """One task after another; in each, where they are divided, the support's points before the query's."""

    source: str  # where they come from, for error messages
    names: tuple[str, ...]  # of the tasks, [M]
    x: Array  # [N, F] float64
    y: Array  # [N, outputs] float64; or labels of classes, [N] texts as objects
    size: Array  # [M] int64: points of each task
    support: Array | None  # [M] int64: how many of them are the support's; None: they are not divided
    split: tuple[str, ...] | None  # train, val or test for each task; None: not told
    features: tuple[str, ...] = ()  # the names of the columns, if they have names
    targets: tuple[str, ...] = ()


class Roles(NamedTuple):
    """The names of a table's columns, by what they hold."""

    task: str
    set: str | None  # support or query
    split: str | None  # train, val or test
    features: Sequence[str] | None  # None: all other columns
    targets: Sequence[str]


def from_table(table: TableFile, roles: Roles, classes: bool) -> PointSet:
    rows = table.texts(roles.task, "task_column")
    number = {name: position for position, name in enumerate(dict.fromkeys(rows))}
    task = np.asarray([number[name] for name in rows])
    query = _read_sets(table, roles.set) if roles.set else np.zeros(len(rows), dtype=bool)
    others = [name for name in (roles.task, roles.set, roles.split, *roles.targets) if name]
    features = roles.features
    if features is None:
        features = [name for name in table.cells if name not in others]
    if not features:
        raise UserError(f"{table.path} has only the columns {', '.join(table.cells)}: it needs features too")
    if both := [name for name in features if name in others]:
        raise UserError(
            f"task.features names {both[0]}, which is not a feature: other keys name {', '.join(others)} already"
        )
    x = np.stack([table.numbers(name, "features") for name in features], 1)
    if classes:
        y = table.labels(roles.targets[0], "target")
    else:
        y = np.stack([table.numbers(name, "target") for name in roles.targets], 1)
    order = np.lexsort((query, task))  # stable: points stay in the file's order
    support = np.bincount(task[~query], minlength=len(number)) if roles.set else None
    split = _read_splits(table, roles.split, rows) if roles.split else None
    return PointSet(
        *(str(table.path), tuple(number), x[order], y[order], np.bincount(task), support, split),
        *(tuple(features), tuple(roles.targets)),
    )


def _read_sets(table: TableFile, set_column: str) -> Array:
    """Read which rows are of a query set, [N] bool."""
    texts = table.texts(set_column, "set_column")
    for row, text in enumerate(texts):
        if text not in IS_QUERY:
            raise UserError(
                f"{table.where(row)} has {text} in column {set_column}: support or query, or train or val, is expected"
            )
    return np.asarray([IS_QUERY[text] for text in texts])


def _read_splits(table: TableFile, split_column: str, tasks: list[str]) -> tuple[str, ...]:
    """Read the split of each task, which must be the same in all its rows."""
    first: dict[str, tuple[int, str]] = {}
    for row, (task, split) in enumerate(zip(tasks, table.texts(split_column, "split_column"), strict=True)):
        earlier_row, earlier_split = first.setdefault(task, (row, split))
        if split != earlier_split:
            raise UserError(
                f"{table.where(row)} puts task {task} into {split}, and {table.where(earlier_row)} into "
                f"{earlier_split}: a task belongs to one split"
            )
    return tuple(split for _, split in first.values())


def read_npz(path: Path, task_column: str, split_column: str | None, classes: bool) -> PointSet:
    """Read an .npz. An array named `task_column`, if there is one, has the tasks' names; `split_column`'s their splits.
    The caller has seen that the file is a plain one."""
    arrays = _load(path)
    is_divided = any(re.fullmatch(r"x_train(_\d+)?", name) for name in arrays)
    stems = ("x_train", "y_train", "x_val", "y_val") if is_divided else ("x", "y")
    parts = [_of_each_task(path, arrays, stem) for stem in stems]
    if len({len(part) for part in parts}) > 1:
        sizes = ", ".join(f"{stem} of {len(part)}" for stem, part in zip(stems, parts, strict=True))
        raise UserError(f"{path} has {sizes} tasks: all need the same number")
    number = len(parts[0])
    names = _texts(path, arrays, task_column, number) if task_column in arrays else list(map(str, range(number)))
    if split_column and split_column not in arrays:
        raise UserError(f"{path} has no array {split_column} (task.split_column): it has {', '.join(arrays)}")
    split = _texts(path, arrays, split_column, number) if split_column else None
    return from_arrays(str(path), names, list(zip(*parts, strict=True)), classes, split)


def _load(path: Path) -> dict[str, Array]:
    try:
        archive = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        # numpy's own message takes every unknown file for a pickle, and says how to run one.
        raise UserError(f"{path} is not an .npz as numpy.savez writes it: write it again") from error
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path} holds one array without a name: it needs x_train, y_train, x_val, y_val")
    arrays = {}
    with archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except DAMAGE as error:
                raise UserError(
                    f"{path}: array {name} cannot be read ({error}): where tasks differ in size, save an array for "
                    "each, x_train_0, x_train_1, ..."
                ) from error
    return arrays


def _of_each_task(path: Path, arrays: dict[str, Array], stem: str) -> list[Array]:
    """Return the array of each task: rows of the array named `stem`, or the arrays named `stem` and a number."""
    if stem in arrays:
        x, y = ([3], "[tasks, points, features]"), ([2, 3], "[tasks, points] or [tasks, points, outputs]")
        dimensions, shape = x if stem.startswith("x") else y
        if arrays[stem].ndim not in dimensions:
            raise UserError(f"{path}: {stem} is of shape {list(arrays[stem].shape)}, and {shape} is expected")
        return list(arrays[stem])
    numbers = sorted(int(match[1]) for name in arrays if (match := re.fullmatch(rf"{stem}_(\d+)", name)))
    if not numbers:
        raise UserError(
            f"{path} has neither {stem} nor {stem}_0, {stem}_1, ...: it has {', '.join(arrays) or 'no array'}"
        )
    names = [f"{stem}_{number}" for number in range(len(numbers))]
    if gaps := [name for name in names if name not in arrays]:
        raise UserError(f"{path} has {stem}_{numbers[-1]} and no {gaps[0]}: number the tasks from 0 on")
    return [arrays[name] for name in names]


def _texts(path: Path, arrays: dict[str, Array], name: str, tasks: int) -> list[str]:
    if arrays[name].shape != (tasks,):
        raise UserError(
            f"{path}: {name} is of shape {list(arrays[name].shape)}, and a text for each of {tasks} tasks is expected"
        )
    return [str(text) for text in arrays[name].tolist()]


def from_arrays(
    source: str,
    names: Sequence[str],
    tasks: Sequence[Sequence[Array]],
    classes: bool,
    split: Sequence[str] | None = None,
) -> PointSet:
    """Make a set of these tasks, each (x, y) or (x_train, y_train, x_val, y_val): x [points, F] or [points], y [points]
    or [points, outputs]."""
    if not tasks:
        raise UserError(f"{source} holds no tasks")
    xs: list[Array] = []
    ys: list[Array] = []
    for name, parts in zip(names, tasks, strict=True):
        for x, y in zip(parts[::2], parts[1::2], strict=True):
            xs.append(_values(source, name, "x", x))
            ys.append(_labels(source, name, y) if classes else _values(source, name, "y", y))
            if len(xs[-1]) != len(ys[-1]):
                raise UserError(f"{source}: task {name} has {len(xs[-1])} points in x and {len(ys[-1])} in y")
            for what, part, first in (("x", xs[-1], xs[0]), ("y", ys[-1], ys[0])):
                if part.shape[1:] != first.shape[1:]:
                    raise UserError(
                        f"{source}: task {name} has {part.shape[1]} numbers for each point in {what}, and task "
                        f"{names[0]} has {first.shape[1]}: all need the same"
                    )
    count = np.asarray([len(x) for x in xs]).reshape(len(tasks), -1)  # of each part of each task
    support = count[:, 0] if count.shape[1] == 2 else None
    splits = None if split is None else tuple(split)
    return PointSet(source, tuple(names), np.concatenate(xs), np.concatenate(ys), count.sum(1), support, splits)


def array_of(values: Any) -> Array:
    """Make an array of numbers, or of texts as objects: an array of texts would give each the room of the longest."""
    are_texts = isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)
    return np.asarray(values, dtype=object if are_texts else None)


def _values(source: str, task: str, what: str, values: Array) -> Array:
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise UserError(
            f"{source}: {what} of task {task} is {values.dtype.name} of shape {list(values.shape)}, and numbers for "
            "each point are expected"
        )
    for point, _ in np.argwhere(~np.isfinite(values)):
        raise UserError(f"{source}: {what} of task {task} is not finite at point {point}: give every point a number")
    return values.astype(np.float64)


def _labels(source: str, task: str, labels: Array) -> Array:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    is_text = labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.ravel())
    if labels.ndim != 1 or not (is_text or labels.dtype.kind in "biuU"):
        raise UserError(
            f"{source}: y of task {task} is {labels.dtype.name} of shape {list(labels.shape)}, and one label for each "
            "point, a whole number or a text, is expected"
        )
    return np.asarray([str(label) for label in labels.tolist()], dtype=object)
