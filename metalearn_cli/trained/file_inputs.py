"""The support and query set of one task as a user has them: folders and files of images, or tables.

Whatever is odd is named, never passed over.
"""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn_cli.datasets import table_file as tables
from metalearn_cli.datasets.formats import SUFFIXES, is_picture
from metalearn_cli.datasets.image_folder import find_classes
from metalearn_cli.datasets.listing import Contents, list_images, some
from metalearn_cli.datasets.point_set import Array
from metalearn_cli.datasets.table_file import Columns as Table
from metalearn_cli.datasets.table_file import read_columns
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain
from metalearn_cli.tasks.base import ColumnNames


class Labelled(NamedTuple):
    paths: list[Path]
    labels: list[str]
    notes: list[str]


class Points(NamedTuple):
    x: Array  # [n, d] float64
    names: tuple[str, ...]  # of the columns of x
    table: Table


def labelled_images(support: str) -> Labelled:
    """A folder whose folders are the classes, or a CSV with the columns path (from its own folder on) and label."""
    path = Path(support).expanduser()
    if path.is_file():
        table = _table(path, "support")
        files, labels = table.texts("path"), table.texts("label")
        paths = [path.parent / Path(file).expanduser() for file in files]
        _check_there(paths, [table.where(row) for row in range(len(paths))])
        of_path: dict[Path, str] = {}
        for file, label in zip(paths, labels, strict=True):
            if of_path.setdefault(file.resolve(), label) != label:
                raise UserError(f"{support} gives {file} the labels {of_path[file.resolve()]} and {label}: give it one")
        notes = [f"warning: in {support} more than once: {some(twice)}"] if (twice := _twice(paths)) else []
        return Labelled(paths, labels, notes)
    if not path.is_dir():
        raise UserError(
            f"support={support} is neither a folder nor a CSV file: give the folder whose folders are the classes"
        )
    found = find_classes(support, "support")
    _refuse_closed("support", support, found)
    empty = sorted(folder.name for folder in path.iterdir() if folder.is_dir() and not any(folder.iterdir()))
    if empty:
        raise UserError(
            f"support={support}: the folder {empty[0]} is empty: put a picture of that class in, or remove it"
        )
    pairs = [(path / file.name, name) for name, files in found.classes.items() for file in files]
    return Labelled([file for file, _ in pairs], [label for _, label in pairs], _others(support, found))


def images(query: str) -> tuple[list[Path], list[str]]:
    """A folder with all that is in it, a file, a CSV with the column path, a pattern of these (`photos/*.png`, or
    `photos/**/*.png` for folders in it too), or several with commas between -> the files, and what the user should know
    of them."""
    words = [query] if Path(query).expanduser().exists() else [part.strip() for part in query.split(",")]
    if not any(words):
        raise UserError(
            "query= is empty: give a folder of images, files with commas between, a pattern like photos/*.png, or a "
            "CSV with a column path"
        )
    paths: list[Path] = []
    notes: list[str] = []
    for word in filter(None, words):
        path = Path(word).expanduser()
        if path.exists() or not glob.has_magic(word):
            found, more = _images_at(path, query)
        else:
            found, more = _matching(word)
        paths += found
        notes += more
    return paths, notes


def _matching(pattern: str) -> tuple[list[Path], list[str]]:
    """The images that a pattern matches and those in folders that it matches, sorted by path, each once."""
    names = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute one
    matches = [Path(name) for name in sorted(names)]
    if not matches:
        raise UserError(f"query={pattern}: no file matches this pattern in {Path.cwd()}: mend it, or give the folder")
    is_of_lists = pattern.lower().endswith(tables.TEXTS)
    used = [
        path
        for path in matches
        if path.is_dir() or is_picture(path.name) or (is_of_lists and path.suffix.lower() in tables.TEXTS)
    ]
    if not used:
        raise UserError(f"query={pattern} matches no images, files that end in {', '.join(SUFFIXES)}")
    found = [_images_at(path, pattern) for path in used]
    paths = dict.fromkeys(path for paths, _ in found for path in paths)
    notes = [note for _, notes in found for note in notes]
    return list(paths), [*notes, *_not_read(pattern, [path.name for path in matches if path not in used])]


def _images_at(path: Path, query: str) -> tuple[list[Path], list[str]]:
    """The images in a folder, in a CSV list, or the single image file, with notes on what was left out."""
    if path.is_dir():
        found = list_images(path)
        _refuse_closed("query", str(path), found)
        if not found.classes:
            raise UserError(f"query={path} holds no images, files that end in {', '.join(SUFFIXES)}")
        return [path / file.name for files in found.classes.values() for file in files], _others(str(path), found)
    if path.suffix.lower() in tables.TEXTS and path.is_file():
        table = _table(path, "query")
        listed = [path.parent / Path(file).expanduser() for file in table.texts("path")]
        _check_there(listed, [table.where(row) for row in range(len(listed))])
        unused = sorted(table.cells.keys() - {"path"})
        return listed, [f"not used of {path}: {some(unused)}"] * bool(unused)
    if not path.is_file():
        raise UserError(f"query={query}: there is no file or folder {path}")
    return [path], []


def points(file: str, key: str, columns: ColumnNames) -> Points:
    """The features in a table, by their own names, or by x, or x1, x2, ..."""
    table = _table(Path(file).expanduser(), key)
    names = _present(table, columns.features, "x")
    return Points(np.stack([table.numbers(name) for name in names], 1), names, table)


def targets(table: Table, columns: ColumnNames) -> Array:
    """The values in a table [n, outputs], by the targets' own names, or by y, or y1, y2, ...; or its labels [n]."""
    names = _present(table, columns.targets, "y")
    if columns.labels:
        return table.labels(names[0])
    return np.stack([table.numbers(name) for name in names], 1)


def _present(table: Table, names: Sequence[str], letter: str) -> tuple[str, ...]:
    plain = [letter] if len(names) == 1 else [f"{letter}{place}" for place in range(1, len(names) + 1)]
    for wanted in (names, plain):
        if all(name in table.cells for name in wanted):
            return tuple(wanted)
    missing = next(name for name in names if name not in table.cells)
    also = "" if list(names) == plain else f" (or {', '.join(plain)})"
    raise UserError(
        f"{table.path} has no column {missing}: {', '.join(names)}{also} expected, and {', '.join(table.cells)} found"
    )


def _table(path: Path, key: str) -> Table:
    if path.suffix.lower() not in tables.SUFFIXES:
        raise UserError(f"{key}={path} must be a table, a file whose name ends in {', '.join(tables.SUFFIXES)}")
    try:
        check_plain(path)
        return read_columns(path)
    except OSError as error:
        one = "; a pattern stands for pictures, and points are in one file" if glob.has_magic(str(path)) else ""
        raise UserError(f"{key}={path} cannot be read ({error.strerror or error}){one}") from error


def _check_there(paths: list[Path], where: list[str]) -> None:
    if missing := [f"{line} names {path}" for path, line in zip(paths, where, strict=True) if not path.is_file()]:
        raise UserError(f"{len(missing)} of {len(paths)} files are not there: {some(missing, '; ')}")


def _refuse_closed(key: str, folder: str, found: Contents) -> None:
    if closed := [f"{name} {why}" for name, why in found.closed.items()]:
        raise UserError(f"{key}={folder}: {some(closed, '; ')}: mend or remove it")


def _others(folder: str, found: Contents) -> list[str]:
    return _not_read(folder, found.others)


def _not_read(where: str, files: list[str]) -> list[str]:
    return [f"in {where} no images by their suffix, and not read ({len(files)}): {some(files)}"] * bool(files)


def _twice(paths: list[Path]) -> list[str]:
    return [str(path) for path, times in Counter(paths).items() if times > 1]
