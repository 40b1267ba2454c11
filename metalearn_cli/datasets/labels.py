"""The class of each picture in a folder whose folders do not say it: by a table with a row for each, or by a pattern of
file names.

A table and a pattern may be anybody's: a table is a plain file of limited size, the paths in it are looked up among the
files that were found in the folder, so that none leads out of it, and a pattern takes time in the length of a name.
"""

import posixpath
import re
from typing import NamedTuple

from metalearn_cli.datasets.decoded import File
from metalearn_cli.datasets.paths import check_table, expand
from metalearn_cli.datasets.table_file import TableFile, read_table
from metalearn_cli.errors import UserError

MOST_SIGNS = 200  # of a pattern


class Layout(NamedTuple):
    """What says of which class a picture is; neither: its folder."""

    labels: str | None = None  # a table
    columns: tuple[str, ...] = ("path", "label")  # of the table
    pattern: str | None = None

    @property
    def is_by_folders(self) -> bool:
        return self.labels is None and self.pattern is None


class Labelled(NamedTuple):
    """The pictures of a folder by their classes."""

    classes: dict[str, list[File]]  # in the order of their names; files that cannot be used are of size -1
    absent: dict[str, str]  # why those cannot be
    rest: list[str]  # pictures of no class


def by_table(layout: Layout, root: str, files: list[File], odd: dict[str, str]) -> Labelled:
    """`odd` are what else is in the folder, and what is wrong with it."""
    table = _read(str(layout.labels))
    path_column, label_column = layout.columns
    known = {file.name: file for file in files}
    label_of: dict[str, str] = {}
    labels = table.texts(label_column, "label_columns")
    for row, (path, label) in enumerate(zip(table.texts(path_column, "label_columns"), labels, strict=True)):
        name = posixpath.normpath(path)
        if name.startswith(("/", "../")):
            raise UserError(f"{table.where(row)} names {path}, which leads out of task.root={root}, where paths begin")
        if label_of.setdefault(name, label) != label:
            raise UserError(f"{table.where(row)} gives {path} the label {label}, and a row before it {label_of[name]}")
    found = Labelled({}, {}, sorted(known.keys() - label_of.keys()))
    for name, label in sorted(label_of.items()):
        if name not in known:
            found.absent[name] = odd.get(name, "is not there")
        found.classes.setdefault(label, []).append(known.get(name) or File(name, -1, -1))
    if len(found.absent) == len(label_of):
        name, why = next(iter(found.absent.items()))
        raise UserError(
            f"none of the {len(label_of)} files that task.labels={layout.labels} lists is a picture in "
            f"task.root={root}, e.g. {name} {why}: give the folder at which its paths begin"
        )
    return found


def by_pattern(layout: Layout, root: str, files: list[File], odd: dict[str, str]) -> Labelled:
    """A pattern with a slash in it is one of whole paths, and another one of file names: these classes stand in the
    folders of their files."""
    pattern = str(layout.pattern)
    found = Labelled({}, {}, [])
    sought = compiled(pattern)
    for file in sorted([*files, *(File(name, -1, -1) for name in odd)]):
        folder, slash, name = ("", "", file.name) if "/" in pattern else file.name.rpartition("/")
        if match := sought.match(name):
            found.classes.setdefault(f"{folder}{slash}{match['label']}", []).append(file)
            found.absent.update({file.name: odd[file.name]} if file.size < 0 else {})
        elif file.size >= 0:
            found.rest.append(file.name)
    if len(found.rest) == len(files):
        raise UserError(
            f"task.pattern={pattern} matches none of the pictures in task.root={root}, e.g. {found.rest[0]}: {{class}} "
            "stands for the class in a file's name, * for any signs, ? for one, # for digits"
        )
    return found


def compiled(pattern: str) -> re.Pattern[str]:
    """{class} stands for some signs, the fewest that will do, * for any number of them, ? for one, and # for all digits
    that stand there; none of these for a slash.

    Each of the first two, with what stands behind it up to the next, takes the first place where it fits, and is not
    tried elsewhere: what comes before a * that follows can only lose by a later place.
    """
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


def _read(labels: str) -> TableFile:
    path = expand(labels)
    try:
        check_table(path, f"task.labels={labels}")
        return read_table(path)
    except OSError as error:
        raise UserError(f"task.labels={labels} cannot be read ({error.strerror or error})") from error
