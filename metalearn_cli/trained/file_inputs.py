"""The support and query set of a task from a user's files: images, or tables. Whatever is odd is named."""

import glob
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metalearn_cli.datasets import table_file as tables
from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.formats import SUFFIXES, is_picture
from metalearn_cli.datasets.image_folder import find_classes
from metalearn_cli.datasets.listing import Contents, list_images, some
from metalearn_cli.datasets.point_set import Array
from metalearn_cli.datasets.table_file import TableFile as Table
from metalearn_cli.datasets.table_file import read_table
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain


class SupportFiles(NamedTuple):
    paths: list[Path]
    labels: list[str]
    notes: list[str]


class TablePoints(NamedTuple):
    x: Array  # [n, d] float64
    names: tuple[str, ...]  # of the columns of x
    table: Table


def labelled_images(support: str) -> SupportFiles:
    """Read a folder whose folders are the classes, or a CSV with the columns path (from its folder on) and label."""
    path = Path(support).expanduser()
    if path.is_file():
        table, paths = _listed(path, "support")
        labels, of_path = table.texts("label"), dict[str, str]()
        for file, label in zip(paths, labels, strict=True):
            if (other := of_path.setdefault(os.path.realpath(file), label)) != label:
                raise UserError(f"{support} gives {file} the labels {other} and {label}: give it one")
        twice = [str(file) for file, times in Counter(paths).items() if times > 1]
        return SupportFiles(paths, labels, [f"warning: in {support} more than once: {some(twice)}"] * bool(twice))
    if not path.is_dir():
        raise UserError(
            f"support={support} is neither a folder nor a CSV file: give the folder whose folders are the classes"
        )
    contents = find_classes(support, "support")
    _refuse_closed("support", support, contents)
    if empty := sorted(folder.name for folder in path.iterdir() if folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"support={support}: the folder {empty[0]} is empty: put a picture of that class in, or remove it"
        )
    pairs = [(path / file.name, name) for name, files in contents.classes.items() for file in files]
    notes = _not_read(support, contents.others)
    return SupportFiles([file for file, _ in pairs], [label for _, label in pairs], notes)


def images(query: str) -> tuple[list[Path], list[str]]:
    """List the images of a folder, a file, a CSV with the column path, a pattern (`photos/**/*.png`), or of several
    with commas between -> the files, and what the user should know of them."""
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
        is_plain = path.exists() or not glob.has_magic(word)
        files, more = _images_at(path, query) if is_plain else _matching(word)
        paths += files
        notes += more
    return paths, notes


def _matching(pattern: str) -> tuple[list[Path], list[str]]:
    """The images that a pattern matches and those in folders that it matches, sorted by path, each once."""
    names = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute one
    matches = [Path(name) for name in sorted(names)]
    if not matches:
        raise UserError(f"query={pattern}: no file matches this pattern in {Path.cwd()}: mend it, or give the folder")
    lists = tables.TEXTS if pattern.lower().endswith(tables.TEXTS) else ()
    used = [path for path in matches if path.is_dir() or is_picture(path.name) or path.suffix.lower() in lists]
    if not used:
        raise UserError(f"query={pattern} matches no images, files that end in {', '.join(SUFFIXES)}")
    pairs = [_images_at(path, pattern) for path in used]
    images = dict.fromkeys(image for images, _ in pairs for image in images)
    notes = [note for _, notes in pairs for note in notes]
    return list(images), [*notes, *_not_read(pattern, [path.name for path in matches if path not in used])]


def _images_at(path: Path, query: str) -> tuple[list[Path], list[str]]:
    """The images in a folder, in a CSV list, or the single image file, with notes on what was left out."""
    if path.is_dir():
        contents = list_images(path)
        _refuse_closed("query", str(path), contents)
        if not contents.classes:
            raise UserError(f"query={path} holds no images, files that end in {', '.join(SUFFIXES)}")
        files = [path / file.name for files in contents.classes.values() for file in files]
        return files, _not_read(str(path), contents.others)
    if not path.is_file():
        raise UserError(f"query={query}: there is no file or folder {path}")
    if path.suffix.lower() not in tables.TEXTS:
        return [path], []
    table, files = _listed(path, "query")
    unused = sorted(table.cells.keys() - {"path"})
    return files, [f"not used of {path}: {some(unused)}"] * bool(unused)


def points(file: str, key: str, columns: ColumnNames) -> TablePoints:
    """The features in a table, by their own names, or by x, or x1, x2, ..."""
    table = _table(Path(file).expanduser(), key)
    names = _present(table, columns.features, "x")
    return TablePoints(np.stack([table.numbers(name) for name in names], 1), names, table)


def targets(table: Table, columns: ColumnNames) -> Array:
    """The values in a table [n, outputs], by the targets' own names, or by y, or y1, y2, ...; or its labels [n]."""
    names = _present(table, columns.targets, "y")
    if columns.labels:
        return table.labels(names[0])
    return np.stack([table.numbers(name) for name in names], 1)


def _present(table: Table, names: tuple[str, ...], letter: str) -> tuple[str, ...]:
    """Choose these names, if the table has them all, or else the letter, or the letter with 1, 2, ..."""
    plain = (letter,) if len(names) == 1 else tuple(f"{letter}{place}" for place in range(1, len(names) + 1))
    for expected in (names, plain):
        if table.cells.keys() >= set(expected):
            return expected
    missing = next(name for name in names if name not in table.cells)
    also = "" if names == plain else f" (or {', '.join(plain)})"
    raise UserError(
        f"{table.path} has no column {missing}: {', '.join(names)}{also} expected, and {', '.join(table.cells)} found"
    )


def _table(path: Path, key: str) -> Table:
    if path.suffix.lower() not in tables.SUFFIXES:
        raise UserError(f"{key}={path} must be a table, a file whose name ends in {', '.join(tables.SUFFIXES)}")
    try:
        check_plain(path)
        return read_table(path)
    except OSError as error:
        hint = "; a pattern stands for pictures, and points are in one file" if glob.has_magic(str(path)) else ""
        raise UserError(f"{key}={path} cannot be read ({error.strerror or error}){hint}") from error


def _listed(path: Path, key: str) -> tuple[Table, list[Path]]:
    """A table with a column path, and the files that it names, from its own folder on."""
    table = _table(path, key)
    files = [path.parent / Path(name).expanduser() for name in table.texts("path")]
    if missing := [f"{table.where(row)} names {file}" for row, file in enumerate(files) if not file.is_file()]:
        raise UserError(f"{len(missing)} of {len(files)} files are not there: {some(missing, '; ')}")
    return table, files


def _refuse_closed(key: str, folder: str, contents: Contents) -> None:
    if closed := [f"{name} {why}" for name, why in contents.closed.items()]:
        raise UserError(f"{key}={folder}: {some(closed, '; ')}: mend or remove it")


def _not_read(where: str, files: list[str]) -> list[str]:
    return [f"in {where} no images by their suffix, and not read ({len(files)}): {some(files)}"] * bool(files)
