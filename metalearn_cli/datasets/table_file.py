"""A table in a file: named columns, and a row for each point. Every mistake is named with its line.

CSV is text in UTF-8 with a line of names and a line for each row. Above the names may stand lines that begin with #,
and Excel's `sep=;`, which says what separates the cells. Without it, the separator is the comma, semicolon or tab that
separates the names (outside of quotes) and gives every row as many cells. Where it is not the comma, a number may have
a decimal comma, as in spreadsheets of countries where a half is 0,5. Lines whose cells are all empty are skipped.
pyarrow reads Parquet. Nothing is guessed: a cell that should be a number, and is not or is empty, is a mistake.
"""

import csv
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn_cli.datasets.parquet_file import read_parquet
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.system.files import check_plain

TEXTS = (".csv", ".tsv")  # in any case
SUFFIXES = (*TEXTS, ".parquet")

_SEPARATORS = (",", ";", "\t")
_QUOTED = r'(^|[,;\t])"(?:[^"]|"")*'  # up to its last quote
_NOT_AVAILABLE = ("nan", "na", "n/a", "#n/a", "null", "none")  # what programs write for a missing number

Cell = Any  # a text or a number, as the file has it


class TableFile(NamedTuple):
    path: Path
    cells: dict[str, Sequence[Cell]]  # the cells of each column by its name
    lines: list[int] | None  # the line of each row; None: the file has no lines
    separator: str = ","  # between the cells of a text file

    def where(self, row: int) -> str:
        return f"{self.path} line {self.lines[row]}" if self.lines else f"{self.path} row {row + 1}"

    def of(self, name: str, key: str = "") -> Sequence[Cell]:
        """Return the cells of a column. Raises UserError where there is none; `key` is the task's key that names it."""
        if name not in self.cells:
            raise UserError(f"{self.path} has no column {name}{_by(key)}{nearest(name, self.cells)}")
        return self.cells[name]

    def numbers(self, name: str, key: str = "") -> np.ndarray[Any, Any]:
        """Return a column of numbers, [rows] float64."""
        cells = self.of(name, key)
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
            values = cells.astype(np.float64)
        else:
            texts = cells if self.separator == "," else self._with_points(name, cells)
            values = np.asarray([_number(text) for text in texts], dtype=np.float64)
        odd = np.flatnonzero(~np.isfinite(values)).tolist()
        if not odd:
            return values
        cell, more = cells[odd[0]], f" (the first of {len(odd)} such cells)" if len(odd) > 1 else ""
        if _is_missing(cell):
            raise UserError(f"{self.where(odd[0])} has nothing in column {name}{more}: give every point a number there")
        held = f"{self.where(odd[0])} holds {shown(cell)} in column {name}{more}, which is not a finite number"
        if str(cell).strip().lower() in _NOT_AVAILABLE or math.isinf(values[odd[0]]):
            raise UserError(f"{held}: give every point one there, or leave its row out")
        ways_out = {"target": ", or take task.loss=classes", "features": ", or name others: task.features=[x1,x2]"}
        raise UserError(f"{held}: correct it{ways_out.get(key, '')}")

    def _with_points(self, name: str, cells: Sequence[Cell]) -> list[str]:
        """Write 0,5 as 0.5. Raises UserError where a column or a number has both signs, since 1.000 may be a thousand;
        and where all numbers of a file with tabs may have commas between thousands."""
        with_comma = [row for row, cell in enumerate(cells) if "," in cell]
        with_point = [row for row, cell in enumerate(cells) if "." in cell]
        if with_comma and with_point:
            point, comma = with_point[0], with_comma[0]
            raise UserError(
                f"{self.where(point)} holds {shown(cells[point])} in column {name}, and {self.where(comma)} "
                f"{shown(cells[comma])}: write all numbers with a point, or all with a comma, and none with both"
            )
        are_thousands = all(re.fullmatch(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})+\s*", cells[row]) for row in with_comma)
        if self.separator != ";" and with_comma and are_thousands:
            row = with_comma[0]
            raise UserError(
                f"{self.where(row)} holds {shown(cells[row])} in column {name}, which may be thousands or have a "
                "decimal comma: write it with a point, or without the comma"
            )
        return [cell.replace(",", ".") for cell in cells]

    def texts(self, name: str, key: str = "") -> list[str]:
        """Return a column of names or labels."""
        cells = self.of(name, key)
        for row, cell in enumerate(cells):
            if _is_missing(cell):
                raise UserError(f"{self.where(row)} has nothing in column {name}{_by(key)}")
        return [str(cell).strip() for cell in cells]

    def labels(self, name: str, key: str = "") -> np.ndarray[Any, Any]:
        """Return a column of classes, [rows] objects: an array of texts would give each the room of the longest."""
        texts = self.texts(name, key)
        odd = [row for row, text in enumerate(texts) if text.lower() in _NOT_AVAILABLE]
        others = {*texts} - {texts[row] for row in odd}
        if odd and others and all(math.isfinite(_number(text)) for text in others):
            raise UserError(
                f"{self.where(odd[0])} holds {texts[odd[0]]} in column {name}, where the others have numbers: give "
                f"every point a class there, or leave its row out ({len(odd)} such cells)"
            )
        return np.asarray(texts, dtype=object)


def read_table(path: Path) -> TableFile:
    """Read a file whose name ends in one of SUFFIXES. Raises OSError where it is not a plain file."""
    check_plain(path)
    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    if not any(len(cells) for cells in table.cells.values()):
        raise UserError(f"{path} holds no points: a line of names, and a row for each point, are expected")
    return table


def _check_names(path: Path, names: list[str]) -> None:
    if any(not name or name.startswith("__index_level_") for name in names):
        raise UserError(f"{path} has a column without a name, like an index: write it without (pandas: index=False)")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has two columns {twice[0]!r}: give each a name of its own")


def _read_csv(path: Path) -> TableFile:
    try:
        above, separator = _start(path)
        (first, names), *rows = [*_rows(path, above, separator)] or [(1, [])]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as CSV in UTF-8") from error
    for line, row in rows:
        if len(row) != len(names):
            remark = "; a line with # at its start is a remark only above the names" * row[0].startswith("#")
            raise UserError(
                f"{path} line {line} needs as many cells as line {first} has names, {len(names)}, and has {len(row)}"
                f"{remark}"
            )
    names = [re.sub(r"\s*[\r\n]\s*", " ", name.strip()) for name in names]
    columns = [(name, [row[place] for _, row in rows]) for place, name in enumerate(names)]
    # Spreadsheets write columns without anything in them, too.
    filled = [(name, cells) for name, cells in columns if name or any(map(str.strip, cells))]
    _check_names(path, [name for name, _ in filled])
    return TableFile(path, dict(filled), [line for line, _ in rows], separator)


def _rows(path: Path, above: int, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the names and then each row, with the line that it begins in, but no empty ones."""
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
            raise UserError(f"{path} line {line} is not CSV: {error}") from error


def _start(path: Path) -> tuple[int, str]:
    """Count the lines above the names (empty ones, remarks, Excel's `sep=;`), and find what separates the cells."""
    told, above = None, 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        for names in file:
            separator = re.fullmatch(r'"?sep=([^"\w])"?', names.rstrip("\r\n"), re.IGNORECASE)
            if names.strip(" \t\r\n,;") and not names.startswith("#") and not separator:
                break
            told, above = separator or told, above + 1
        else:
            names = ""
        for more in itertools.islice(file, 100):  # a name may have a line break, inside of quotes
            if not re.search(_QUOTED + "$", names):
                break
            names += more
    if told:
        return above, told[1]
    outside = re.sub(_QUOTED + '"', r"\1", names)
    marks = [mark for mark in _SEPARATORS if mark in outside]
    if len(marks) < 2:
        return above, (marks or _SEPARATORS)[0]
    fitting = {mark: _fitting_rows(path, above, mark) for mark in marks}
    best = [mark for mark in marks if fitting[mark] == max(fitting.values())]
    if len(best) > 1 and math.isinf(fitting[best[0]]):
        raise UserError(
            f"{path} has as many cells in every row whether {' or '.join(map(repr, best))} separates them: put a line "
            "above the names that says it, like sep=;"
        )
    return above, best[0]


def _fitting_rows(path: Path, above: int, separator: str) -> float:
    """Count the rows up to the first that has not as many cells as there are names; infinity: all have."""
    number = 0
    try:
        rows = _rows(path, above, separator)
        _, names = next(rows, (0, []))
        for _, row in rows:
            if len(row) != len(names):
                return number
            number += 1
    except UserError:  # it is not CSV with this separator
        return number
    return math.inf if number else 0


def _read_parquet(path: Path) -> TableFile:
    names, cells = read_parquet(path)
    _check_names(path, names)
    return TableFile(path, dict(zip(names, cells, strict=True)), None)


def _by(key: str) -> str:
    return f" (task.{key})" if key else ""


def shown(cell: Cell) -> str:
    """Shorten a cell for a sentence."""
    text = " ".join(str(cell).split())
    return text if len(text) <= 60 else f"{text[:60]}... ({len(str(cell))} characters)"


def _number(cell: Cell) -> float:
    """Read a number; NaN for what is not one, such as a moment in time, which numpy would count, and 1_000."""
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
