"""Ranges of the keys, declared in their types: read from the source before torch is imported, and checked in Python."""

import math
import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from metalearn_cli.errors import UserError

Hint = Any  # an annotation: a class, or what `typing` makes of some


@dataclass(frozen=True)
class Limit:
    """What a value must be, besides its type. `holds` is not asked about null."""

    words: str  # "algo.inner_lr=-1.0 must be " + words
    holds: Callable[[Any], bool]


MIN_SIDE = 8  # pixels; a smaller picture is an icon or an accident


def parse_memory(text: str) -> int:
    """Bytes of "4GB", "512 MB", "1.5GiB"; 0 for what is not a size."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?) *([kMGT])(i?)B", text.strip())
    return int(float(size[1]) * (1024 if size[3] else 1000) ** (1 + "kMGT".index(size[2]))) if size else 0


SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str) -> float:
    """Seconds of "90s", "30m", "1.5h"; 0 for what is not a duration."""
    duration = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    return float(duration[1]) * SECONDS[duration[2]] if duration else 0.0


def _is_folder_name(name: str) -> bool:
    """Whether it names a folder inside outputs/, in one line and without signs that a terminal would obey."""
    parts = Path(name).parts
    return bool(name.strip()) and name.isprintable() and parts != () and not {"/", ".."} & {*parts}


def parse_factor(text: str) -> tuple[str, float]:
    """Pattern and factor of "head.*:10"; the factor is NaN if the text has another form."""
    pattern, _, factor = text.rpartition(":")
    is_number = re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", factor) and pattern
    return pattern, float(factor) if is_number else math.nan


def parse_rename(text: str) -> tuple[str, str]:
    """The two names of "encoder.:features."; the first is empty if the text has another form."""
    theirs, colon, ours = text.partition(":")
    return theirs if colon else "", ours


def _rises(steps: Sequence[int]) -> bool:
    return all(before < after for before, after in zip((0, *steps), steps, strict=False))


def _is_file_name(text: str) -> bool:
    return text.isprintable() and text not in ("", ".", "..") and "/" not in text


Count = Annotated[int, Limit("a whole number, 1 or above", lambda value: value >= 1)]
Natural = Annotated[int, Limit("a whole number, 0 or above", lambda value: value >= 0)]
Way = Annotated[int, Limit("a whole number, 2 or above", lambda value: value >= 2)]
Side = Annotated[int, Limit(f"a whole number of pixels, {MIN_SIDE} or above", lambda value: value >= MIN_SIDE)]
InputSide = Annotated[  # of pictures that a large network gets: its memory grows with the square
    int, Limit(f"a whole number of pixels from {MIN_SIDE} to 2048", lambda value: MIN_SIDE <= value <= 2048)
]
Threads = Annotated[int, Limit("a whole number from 1 to 1024", lambda value: 1 <= value <= 1024)]
NonNegative = Annotated[float, Limit("a finite number, 0 or above", lambda value: 0 <= value < math.inf)]
Positive = Annotated[float, Limit("a finite number above 0", lambda value: 0 < value < math.inf)]
Share = Annotated[float, Limit("a share, 0 or above and below 1, e.g. 0.2", lambda value: 0 <= value < 1)]
Shares = Annotated[
    tuple[float, ...],
    Limit(
        "two shares, each 0 or above and below 1, e.g. [0.1,0.3]",
        lambda value: len(value) == 2 and all(0 <= share < 1 for share in value),
    ),
]
Fraction = Annotated[float, Limit("a number from 0 to 1", lambda value: 0 <= value <= 1)]
Steps = Annotated[
    tuple[int, ...], Limit("a list of whole numbers in rising order, e.g. [2000,4000]", lambda value: _rises(value))
]
Factors = Annotated[
    tuple[float, ...],
    Limit("a list of finite numbers, 0 or above", lambda value: all(0 <= item < math.inf for item in value)),
]
FactorsByName = Annotated[
    tuple[str, ...],
    Limit(
        "a list of PATTERN:FACTOR, e.g. [head.*:10]",
        lambda value: all(parse_factor(item)[1] < math.inf for item in value),
    ),
]
Renames = Annotated[
    tuple[str, ...],
    Limit("a list of THEIRS:OURS, e.g. [encoder.:]", lambda value: all(parse_rename(item)[0] for item in value)),
]
Widths = Annotated[
    tuple[int, ...],
    Limit(
        "four whole numbers of channels, e.g. [64,160,320,640]",
        lambda value: len(value) == 4 and all(width >= 1 for width in value),
    ),
]
Text = Annotated[str, Limit("a text that is not empty", lambda value: bool(value.strip()))]
Name = Annotated[str, Limit("the name of a folder inside outputs/", _is_folder_name)]
FileName = Annotated[str, Limit("the name of a file in one folder", _is_file_name)]  # of which a path is made
_is_device = re.compile(r"auto|cpu|cuda(:[0-9]+)?").fullmatch
Device = Annotated[str, Limit("auto, cpu, cuda or cuda:N", lambda value: _is_device(value) is not None)]
_SIZES = "auto or a size with its unit, e.g. 4GB or 512MB"
Memory = Annotated[str, Limit(_SIZES, lambda value: value == "auto" or parse_memory(value) > 0)]
_NUMBERS = "auto or a whole number, 1 or above"
Chunk = Annotated[int | str, Limit(_NUMBERS, lambda value: value == "auto" or (type(value) is int and value >= 1))]


def _is_paper(node: dict[str, Any]) -> bool:
    return isinstance(node.get("mean"), int | float) and isinstance(node.get("source"), str)


_PAPER = "a mapping with a number as its mean and a source, e.g. {mean:0.9,source:mine}"
PaperNode = Annotated[dict[str, Any], Limit(_PAPER, _is_paper)]


def limit_of(kind: Hint) -> Limit | None:
    """The limit that a type declares, as Count and `Count | None` do."""
    metadata = [extra for part in (kind, *get_args(kind)) for extra in getattr(part, "__metadata__", ())]
    return next((extra for extra in metadata if isinstance(extra, Limit)), None)


_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
_EXAMPLES = {int: "40,40", float: "0.01,0.1", str: "train,val", dict[str, Any]: "{steps:1000}"}


def words_of(kind: Hint) -> str:
    """What a value of this type is, in the user's words."""
    origin: Hint = get_origin(kind)
    arguments = get_args(kind)
    if origin is Annotated:
        return str(arguments[1].words)
    if origin in (Union, types.UnionType):
        words = " or ".join(words_of(part) for part in arguments if part is not types.NoneType)
        return f"{words}, or null" if types.NoneType in arguments else words
    if origin in (tuple, list):
        item = arguments[0]
        if arguments[1:] not in ((), (...,)):
            return f"a list of {len(arguments)} values"
        if isinstance(item, type) and issubclass(item, Enum):
            return f"a list of some of {', '.join(item.__members__)}"
        return f"a list, e.g. [{_EXAMPLES[item]}]" if item in _EXAMPLES else "a list"
    if origin is Literal or issubclass(kind, Enum):
        return f"one of {', '.join(map(str, arguments or kind.__members__))}"
    return _WORDS.get(kind, "an object")


def check_limit(key: str, value: object, kind: Hint) -> None:
    """Raises UserError where `value` is outside of the limit that type `kind` declares."""
    limit = limit_of(kind)
    if limit is not None and value is not None and not limit.holds(value):
        shown = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
        raise UserError(f"{key}={shown} must be {words_of(kind)}")


def check_limits(part: object, prefix: str) -> None:
    """Raises UserError where a field of this dataclass is outside of its type's limit; its key is `prefix` + name."""
    for name, kind in get_type_hints(type(part), include_extras=True).items():
        if limit_of(kind) is not None:
            check_limit(f"{prefix}{name}", getattr(part, name), kind)
