"""A long table from a file: named columns, a row for each point. Whatever is odd is named by its line.

CSV is text in UTF-8 with a line of names and a line for each row; above the names may stand lines that begin with #,
and Excel's `sep=;`, which says what parts the cells. Otherwise that is the comma, semicolon or tab that parts the names
(outside of quotes) and gives every row as many cells. Where it is no comma, a number may have a decimal comma, as
spreadsheets write it where a half is 0,5. Lines with nothing in their cells do not count. Parquet is read by pyarrow.
Nothing is guessed: a cell that should be a number and is none, or is empty, is a mistake.
"""

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn_cli.errors import UserError, nearest

TEXTS = (".csv", ".tsv")  # in any case
SUFFIXES = (*TEXTS, ".parquet")

_SEPARATORS = (",", ";", "\t")
_QUOTED = r'(^|[,;\t])"(?:[^"]|"")*'  # as far as its last quote
_NOT_AVAILABLE = ("nan", "na", "n/a", "#n/a", "null", "none")  # what programs write for no number


Cell = Any  # a text or a number, as the file has it


class Columns(NamedTuple):
    path: Path
    cells: dict[str, Sequence[Cell]]  # by name; of each row text or a number
    lines: list[int] | None  # of the file, where it has lines: that of each row
    separator: str = ","  # of the cells of texts

    def where(self, row: int) -> str:
        return f"{self.path} line {self.lines[row]}" if self.lines else f"{self.path} row {row + 1}"

    def of(self, name: str, key: str = "") -> Sequence[Cell]:
        """The cells of a column. Raises UserError where there is none; `key`: that of the task which names it."""
        if name not in self.cells:
            raise UserError(f"{self.path} has no column {name}{_by(key)}{nearest(name, self.cells)}")
        return self.cells[name]

    def numbers(self, name: str, key: str = "") -> np.ndarray[Any, Any]:
        """A column of numbers, [rows] float64."""
        cells = self.of(name, key)
        texts = cells if self.separator == "," else self._with_points(name, cells)
        # Not an array of the cells: each would have room for the longest.
        is_array = isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf"
        values = np.asarray(cells if is_array else [_number(text) for text in texts], dtype=np.float64)
        if np.isfinite(values).all():
            return values
        row, *others = np.flatnonzero(~np.isfinite(values)).tolist()
        cell, more = cells[row], f" (the first of {1 + len(others)} such cells)" if others else ""
        if _is_missing(cell):
            raise UserError(f"{self.where(row)} has nothing in column {name}{more}: give every point a number there")
        if str(cell).strip().lower() in _NOT_AVAILABLE or math.isinf(values[row]):
            raise UserError(
                f"{self.where(row)} holds {shown(cell)} in column {name}{more}, which is no finite number: give every "
                "point one there, or leave its row out"
            )
        way_out = {
            "target": "; task.loss=classes takes labels",
            "features": "; or name the features: task.features=[x1,x2]",
        }.get(key, "")
        raise UserError(
            f"{self.where(row)} holds {shown(cell)} in column {name}, where a finite number is wanted{more}: mend it"
            f"{way_out}"
        )

    def _with_points(self, name: str, cells: Sequence[Cell]) -> list[str]:
        """0,5 as 0.5. Raises UserError where a column, or a number, has both, as 1.000 may be a thousand; and in a file
        with tabs, which are written also where that is 1,000, where all cells could be that."""
        with_comma = [row for row, cell in enumerate(cells) if "," in cell]
        with_point = [row for row, cell in enumerate(cells) if "." in cell]
        if with_comma and with_point:
            row = with_point[0]
            raise UserError(
                f"{self.where(row)} holds {shown(cells[row])} in column {name}, and line "
                f"{(self.lines or [])[with_comma[0]]} {shown(cells[with_comma[0]])}: write all numbers with a point, "
                "or all with a comma, and none with both"
            )
        of_thousands = [row for row in with_comma if re.fullmatch(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*", cells[row])]
        if self.separator != ";" and with_comma and of_thousands == with_comma:
            row = with_comma[0]
            raise UserError(
                f"{self.where(row)} holds {shown(cells[row])} in column {name}, which may be thousands or have a "
                "decimal comma: write it with a point, or without the comma"
            )
        return [cell.replace(",", ".") for cell in cells]

    def texts(self, name: str, key: str = "") -> list[str]:
        """A column of names or labels."""
        cells = self.of(name, key)
        for row, cell in enumerate(cells):
            if _is_missing(cell):
                raise UserError(f"{self.where(row)} has nothing in column {name}{_by(key)}")
        return [str(cell).strip() for cell in cells]

    def labels(self, name: str, key: str = "") -> np.ndarray[Any, Any]:
        """A column of classes, [rows] texts as objects: in an array of texts each has room for the longest."""
        texts = self.texts(name, key)
        odd = [row for row, text in enumerate(texts) if text.lower() in _NOT_AVAILABLE]
        others = {*texts} - {texts[row] for row in odd}
        if odd and others and all(math.isfinite(_number(text)) for text in others):
            raise UserError(
                f"{self.where(odd[0])} holds {texts[odd[0]]} in column {name}, where the others have numbers: give "
                f"every point a class there, or leave its row out ({len(odd)} such cells)"
            )
        return np.asarray(texts, dtype=object)


def read_columns(path: Path) -> Columns:
    check_plain(path)
    columns = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if any(not name or name.startswith("__index_level_") for name in columns.cells):
        raise UserError(f"{path} has a column without a name, like an index: write it without (pandas: index=False)")
    if not any(len(cells) for cells in columns.cells.values()):
        raise UserError(f"{path} holds no points: a line of names, and a row for each point, are wanted")
    return columns


def check_plain(path: Path) -> None:
    """Raises UserError for a pipe and the like, which may never end. Who opens the file says that it is not there."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is no plain file: give a table in a file")


def _read_csv(path: Path) -> Columns:
    try:
        above, separator = _start(path)
        rows = _rows(path, above, separator)
        first, names = next(rows, (1, []))
        names = [re.sub(r"\s*[\r\n]\s*", " ", name.strip()) for name in names]
        lines: list[int] = []
        columns: list[list[str]] = [[] for _ in names]
        for line, row in rows:
            if len(row) != len(names):
                remark = (
                    "; a line with # at its start is a remark above the names only" if row[0].startswith("#") else ""
                )
                raise UserError(
                    f"{path} line {line} has {_count(len(row), 'cell')}, and line {first} {_count(len(names), 'name')}"
                    f"{remark}"
                )
            for cells, cell in zip(columns, row, strict=True):
                cells.append(cell)
            lines.append(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{path} has two columns {twice[0]!r}: give each a name of its own")
    pairs = zip(names, columns, strict=True)  # spreadsheets write columns without anything in them, too
    return Columns(path, {name: cells for name, cells in pairs if name or any(map(str.strip, cells))}, lines, separator)


def _rows(path: Path, above: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The names and then each row, with the line that it begins in; empty ones are left out."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for _ in range(above):
            file.readline()
        reader = csv.reader(file, delimiter=separator, strict=True)
        line = above + 1
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield line, row
                line = above + reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path} line {line} is no CSV: {error}") from error


def _start(path: Path) -> tuple[int, str]:
    """How many lines stand above that of the names (empty ones, remarks, Excel's `sep=;`), and what parts the cells."""
    said, above = "", 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = file.readline()
        while names and (not names.strip(" \t\r\n,;") or names.startswith("#") or _said(names)):
            said, above = _said(names) or said, above + 1
            names = file.readline()
        for more in itertools.islice(file, 100):  # a name may have a line break, inside of quotes
            if not re.search(_QUOTED + "$", names):
                break
            names += more
    if said:
        return above, said
    outside = re.sub(_QUOTED + '"', r"\1", names)
    marks = [mark for mark in _SEPARATORS if mark in outside]
    if len(marks) < 2:
        return above, (marks or _SEPARATORS)[0]
    alike = {mark: _alike(path, above, mark) for mark in marks}
    best = [mark for mark in marks if alike[mark] == max(alike.values())]
    if len(best) > 1 and math.isinf(alike[best[0]]):
        raise UserError(
            f"{path} has as many cells in every row whether they are parted by {' or by '.join(map(repr, best))}: put "
            "a line above the names that says it, like sep=;"
        )
    return above, best[0]


def _said(line: str) -> str:
    """The separator in Excel's `sep=;`; nothing in another line."""
    said = re.fullmatch(r'"?sep=([^"\w])"?', line.rstrip("\r\n"), re.IGNORECASE)
    return said[1] if said else ""


def _alike(path: Path, above: int, separator: str) -> float:
    """How many rows have as many cells as there are names, until the first that has not; infinity: all."""
    number = 0
    try:
        rows = _rows(path, above, separator)
        _, names = next(rows, (0, []))
        for _, row in rows:
            if len(row) != len(names):
                return number
            number += 1
    except UserError:  # it is no CSV with this separator
        return number
    return math.inf if number else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _read_parquet(path: Path) -> Columns:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} is read by pyarrow, which is not here: pip install 'metalearn-cli[table]'") from None
    try:
        table = parquet.read_table(path)
        cells = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}
        if len(cells) < len(table.column_names):
            twice = next(name for name in table.column_names if table.column_names.count(name) > 1)
            raise UserError(f"{path} has two columns {twice}: give each a name of its own")
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())})") from error
    return Columns(path, cells, None)


def _by(key: str) -> str:
    return f" (task.{key})" if key else ""


def shown(cell: Cell) -> str:
    """A cell as it stands in a sentence, which a long one must not fill."""
    text = " ".join(str(cell).split())
    return text if len(text) <= 60 else f"{text[:60]}... ({len(str(cell))} characters)"


def _number(cell: Cell) -> float:
    """NaN where it is none: neither a moment in time, which numpy would count, nor 1_000, which Python would read."""
    if isinstance(cell, np.datetime64 | np.timedelta64) or (isinstance(cell, str) and "_" in cell):
        return math.nan
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_missing(cell: Cell) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())
