"""What is in a folder of one's own, and the class of each picture: by its folder, by a table, or by a pattern of names.

A table and a pattern may be somebody else's: a table is a plain file of limited size, the paths in it are looked up
among the files that are in the folder, so that none leads out of it, and a pattern takes time in the length of a name.
"""

import os
import posixpath
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.datasets.formats import is_picture
from metalearn_cli.datasets.paths import check_table, expand
from metalearn_cli.datasets.table_file import read_table
from metalearn_cli.errors import UserError
from metalearn_cli.system.text import printable

MOST_NAMED, MOST_SIGNS = 10, 200  # names in a sentence; signs of a pattern
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # they do not count, nor do hidden files


class File(NamedTuple):
    name: str  # its path in the folder
    size: int  # bytes
    changed: int  # when, in ns


class Layout(NamedTuple):
    """What tells the class of a picture; neither a table nor a pattern: its folder."""

    labels: str | None = None  # a table
    columns: tuple[str, ...] = ("path", "label")  # of the table
    pattern: str | None = None


BY_FOLDERS = Layout()


@dataclass(frozen=True)
class Contents:
    """What is in a folder."""

    classes: dict[str, list[File]] = field(default_factory=dict)  # the sorted images of each class
    others: list[str] = field(default_factory=list)  # files that are not images by their suffix
    closed: dict[str, str] = field(default_factory=dict)  # folders and links that cannot be followed, and why
    empty: list[str] = field(default_factory=list)  # folders in which nothing is
    hidden: list[str] = field(default_factory=list)  # folders whose names begin with a dot
    absent: dict[str, str] = field(default_factory=dict)  # files of a class, of size -1, that are not images; and why
    rest: list[str] = field(default_factory=list)  # images to which the table or the pattern gives no class
    layout: Layout = BY_FOLDERS

    @property
    def files(self) -> list[File]:
        return [file for files in self.classes.values() for file in files]


def list_images(folder: Path) -> Contents:
    """List the images in a folder and in those inside it, by their folders."""
    contents = Contents()
    _walk(folder, "", (), contents)
    return contents


def _walk(folder: Path, name: str, above: tuple[Path, ...], contents: Contents) -> None:
    """Add what is in the folder `name`; links are followed."""
    if (real := (folder / name).resolve()) in above:
        contents.closed[name] = "is a link to a folder that holds it"
        return
    try:
        entries = sorted(os.scandir(real), key=lambda entry: entry.name)
    except OSError as error:
        contents.closed[name or "."] = f"cannot be read ({error.strerror})"
        return
    if name and all(map(_does_not_count, entries)):
        contents.empty.append(name)
    for entry in entries:
        path = f"{name}/{entry.name}".lstrip("/")
        if entry.name.startswith(".") and entry.is_dir():
            contents.hidden.append(path)
        if _does_not_count(entry):
            continue
        try:
            if entry.is_dir():
                _walk(folder, path, (*above, real), contents)
            elif is_picture(entry.name):
                status = entry.stat()
                contents.classes.setdefault(name, []).append(File(path, status.st_size, status.st_mtime_ns))
            else:
                contents.others.append(path)
        except OSError as error:  # a link to nothing or to itself
            contents.closed[path] = f"cannot be read ({error.strerror})"


def _does_not_count(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS


def classify(contents: Contents, root: str, layout: Layout) -> Contents:
    """Sort the pictures of a folder into classes as a table or a pattern says, if there is one."""
    if layout.labels is not None:
        return _by_table(contents, root, layout)
    return contents if layout.pattern is None else _by_pattern(contents, root, layout)


def _by_table(contents: Contents, root: str, layout: Layout) -> Contents:
    """Sort the pictures into the classes that a table gives them; unusable files have the size -1."""
    path = expand(str(layout.labels))
    try:
        check_table(path)
        table = read_table(path)
    except OSError as error:
        raise UserError(f"task.labels={path} cannot be read ({error.strerror or error})") from error
    path_column, label_column = layout.columns
    label_of: dict[str, str] = {}
    labels = table.texts(label_column, "label_columns")
    for row, (listed, label) in enumerate(zip(table.texts(path_column, "label_columns"), labels, strict=True)):
        name = posixpath.normpath(listed)
        if name.startswith(("/", "../")):
            raise UserError(f"{table.where(row)} names {listed}, which leads out of task.root={root}")
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{table.where(row)} gives {listed} the label {label}, and an earlier row {label_of[name]}")
    known = {file.name: file for file in contents.files}
    odd = dict.fromkeys(contents.others, "is not an image by its suffix") | contents.closed
    classes: dict[str, list[File]] = {}
    for name, label in sorted(label_of.items()):
        classes.setdefault(label, []).append(known.get(name) or File(name, -1, -1))
    absent = {name: odd.get(name, "is not there") for name in sorted(label_of) if name not in known}
    if len(absent) == len(label_of):
        name, why = next(iter(absent.items()))
        raise UserError(
            f"none of the {len(label_of)} files that task.labels={path} lists is a picture in task.root={root}, "
            f"e.g. {name} {why}: give the folder at which its paths begin"
        )
    folder = expand(root)
    others = [name for name in contents.others if Path(name).name != path.name or not (folder / name).samefile(path)]
    rest = sorted(known.keys() - label_of.keys())
    return replace(contents, classes=classes, absent=absent, rest=rest, others=others, closed={}, layout=layout)


def _by_pattern(contents: Contents, root: str, layout: Layout) -> Contents:
    """Sort the pictures by a pattern of whole paths, if it has a slash, or of file names in their folders."""
    pattern = str(layout.pattern)
    compiled = compile_pattern(pattern)
    classes: dict[str, list[File]] = {}
    absent: dict[str, str] = {}
    rest: list[str] = []
    for file in sorted([*contents.files, *(File(name, -1, -1) for name in contents.closed)]):
        folder, slash, name = ("", "", file.name) if "/" in pattern else file.name.rpartition("/")
        if match := compiled.match(name):
            classes.setdefault(f"{folder}{slash}{match['label']}", []).append(file)
            absent |= {file.name: contents.closed[file.name]} if file.size < 0 else {}
        elif file.size >= 0:
            rest.append(file.name)
    if len(rest) == len(contents.files):
        raise UserError(
            f"task.pattern={pattern} matches none of the pictures in task.root={root}, e.g. {rest[0]}: {{class}} "
            "stands for the class in a file's name, * for any signs, ? for one, # for digits"
        )
    closed = {path: why for path, why in contents.closed.items() if path not in absent}
    return replace(contents, classes=classes, absent=absent, rest=rest, closed=closed, layout=layout)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Make a regular expression. {class} stands for as few signs as possible, * for any number of them, ? for one, #
    for all digits that stand there; none of these for a slash.

    Each of the first two, with what follows up to the next, takes the first place where it fits, and is not tried
    elsewhere: what comes before a later * can only lose by a later place."""
    if pattern.count("{class}") != 1 or len(pattern) > MOST_SIGNS:
        raise UserError(
            f"task.pattern={pattern[:MOST_SIGNS]} must have {{class}} in it once, where a file's name says its class, "
            f"and at most {MOST_SIGNS} signs: e.g. {{class}}_*, or {{class}}#.png for cat12.png"
        )
    segments: list[str] = []
    number = 0
    for segment in pattern.split("/"):
        units = [""]  # the first begins with no wildcard
        for token in re.split(r"(\{class\}|[*?#])", segment):
            if token in ("{class}", "*"):
                units.append("(?P<label>[^/]+?)" if token == "{class}" else "[^/]*?")
            else:
                units[-1] += {"?": "[^/]", "#": "[0-9]+(?![0-9])"}.get(token, re.escape(token))
        units[-1] += r"(?=/|\Z)"
        segments.append(units[0])
        for unit in units[1:]:
            number += 1
            segments[-1] += f"(?=(?P<unit{number}>{unit}))(?P=unit{number})"
    return re.compile("/".join(segments) + r"\Z", re.DOTALL)


def some(items: list[str], separator: str = ", ") -> str:
    """Name the first of them, and say how many more there are."""
    rest = [f"and {len(items) - MOST_NAMED} more"] if len(items) > MOST_NAMED else []
    return separator.join([printable(item) for item in items[:MOST_NAMED]] + rest)
