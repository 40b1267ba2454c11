"""Text that may come from anybody, made safe for a terminal, a log and a spreadsheet."""

import re
from collections.abc import Iterable
from typing import Any

# What a terminal obeys (C0, C1), what turns the direction of writing, what ends a line, and what is not a character at
# all.
_OBEYED = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ONE_LINE, _LINES = re.compile(f"[{_OBEYED}]"), re.compile(f"(?![\n\t])[{_OBEYED}]")


def printable(text: str) -> str:
    """Put a text into one line, with the characters that a terminal obeys written out, as in \\x1b."""
    return _ONE_LINE.sub(_written_out, text)


def lines(text: str) -> str:
    """Write such characters out in a text of several lines, which may have tabs."""
    return _LINES.sub(_written_out, text)


def _written_out(sign: re.Match[str]) -> str:
    return sign[0].encode("unicode_escape").decode()


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Write a table for a spreadsheet. A text that begins like a formula gets an apostrophe in front."""
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    word = printable(value)
    if word[:1] in tuple("=+-@") and not _is_number(word):
        word = f"'{word}"
    return '"' + word.replace('"', '""') + '"' if re.search('[,;"]', word) else word


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
