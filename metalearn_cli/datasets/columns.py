"""A long table from a file: named columns, a row for each point. Whatever is odd is named by its line.

CSV is text in UTF-8 with a first line of names. Between them are commas, or, where that line has none, semicolons (what
spreadsheets write where 0,5 is a half: there a number may have a decimal comma) or tabs. Parquet is read by pyarrow.
Nothing is guessed: a cell that should be a number and is none, or is empty, is a mistake.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn_cli.errors import UserError
from metalearn_cli.mistakes import nearest


class Columns(NamedTuple):
    path: Path
    cells: dict[str, Sequence[Any]]  # by name; of each row text or a number
    lines: list[int] | None  # of the file, where it has lines: that of each row
    decimal_comma: bool = False  # of numbers that are texts, where no cell ends at a comma

    def where(self, row: int) -> str:
        return f"{self.path} line {self.lines[row]}" if self.lines else f"{self.path} row {row + 1}"

    def of(self, name: str, key: str = "") -> Sequence[Any]:
        """The cells of a column. Raises UserError where there is none; `key`: that of the task which names it."""
        if name not in self.cells:
            raise UserError(f"{self.path} has no column {name}{_by(key)}{nearest(name, self.cells)}")
        return self.cells[name]

    def numbers(self, name: str, key: str = "") -> np.ndarray[Any, Any]:
        """A column of numbers, [rows] float64."""
        cells = self.of(name, key)
        if self.decimal_comma:
            cells = self._with_points(name, cells)
        try:
            values = np.asarray(cells)
            # Not a moment in time, which numpy would count, nor 1_000, which Python would read.
            is_plain = values.dtype.kind in "biufOUS" and not any(
                "_" in cell for cell in cells if isinstance(cell, str)
            )
            values = values.astype(np.float64) if is_plain else np.asarray([math.nan])
        except (TypeError, ValueError, OverflowError):
            values = np.asarray([math.nan])
        if np.isfinite(values).all():
            return values
        row, *others = (row for row, cell in enumerate(cells) if not _is_number(cell))
        cell, more = cells[row], f" (the first of {1 + len(others)} such cells)" if others else ""
        if _is_missing(cell):
            raise UserError(f"{self.where(row)} has nothing in column {name}{more}: give every point a number there")
        way_out = {
            "target": "; task.loss=classes takes labels",
            "features": "; or name the features: task.features=[x1,x2]",
        }.get(key, "")
        raise UserError(
            f"{self.where(row)} holds {cell!s} in column {name}, where a finite number is wanted{more}: mend it"
            f"{way_out}"
        )

    def _with_points(self, name: str, cells: Sequence[Any]) -> list[str]:
        """0,5 as 0.5. Raises UserError where a column, or a number, has both: 1.000 may be a thousand."""
        with_comma = [row for row, cell in enumerate(cells) if "," in cell]
        with_point = [row for row, cell in enumerate(cells) if "." in cell]
        if with_comma and with_point:
            row = with_point[0]
            raise UserError(
                f"{self.where(row)} holds {cells[row]} in column {name}, and line {(self.lines or [])[with_comma[0]]} "
                f"{cells[with_comma[0]]}: write all numbers with a point, or all with a comma, and none with both"
            )
        return [cell.replace(",", ".") for cell in cells]

    def texts(self, name: str, key: str = "") -> list[str]:
        """A column of names or labels."""
        cells = self.of(name, key)
        for row, cell in enumerate(cells):
            if _is_missing(cell):
                raise UserError(f"{self.where(row)} has nothing in column {name}{_by(key)}")
        return [str(cell).strip() for cell in cells]


def read_columns(path: Path) -> Columns:
    columns = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    if any(not name or name.startswith("__index_level_") for name in columns.cells):
        raise UserError(f"{path} has a column without a name, like an index: write it without (pandas: index=False)")
    if not any(len(cells) for cells in columns.cells.values()):
        raise UserError(f"{path} holds no points: a line of names, and a row for each point, are wanted")
    return columns


def _read_csv(path: Path) -> Columns:
    lines: list[int] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            columns: list[list[str]] = [[] for _ in header]
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise UserError(
                        f"{path} line {reader.line_num} has {len(row)} cells, and line 1 {len(header)} names"
                    )
                for cells, cell in zip(columns, row, strict=True):
                    cells.append(cell)
                lines.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num} is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8: save it as CSV in UTF-8") from error
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{path} has two columns {twice[0]!r}: give each a name of its own")
    return Columns(path, dict(zip(header, columns, strict=True)), lines, decimal_comma=delimiter == ";")


def _delimiter(header: str) -> str:
    """What parts the names in the first line."""
    return next((mark for mark in ",;\t" if mark in header), ",")


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


def _is_number(cell: Any) -> bool:
    if isinstance(cell, np.datetime64 | np.timedelta64) or (isinstance(cell, str) and "_" in cell):
        return False
    try:
        return math.isfinite(float(cell))
    except (TypeError, ValueError):
        return False


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and not cell.strip())
