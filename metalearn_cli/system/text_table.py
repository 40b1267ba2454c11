"""Tables in characters."""

import math
from typing import Any

from metalearn_cli.system.text import printable


def aligned(rows: list[list[str]], align: str) -> list[str]:
    """Rows as lines, each column as wide as its widest cell; `align` has an l or r for each."""
    rows = [list(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(row, widths, align, strict=True)
        ).rstrip()
        for row in rows
    ]


def finite(value: Any) -> float | None:
    """A number for JSON, which has no infinity."""
    return float(value) if math.isfinite(value) else None
