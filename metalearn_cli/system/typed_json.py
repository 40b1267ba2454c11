"""Records, which are frozen dataclasses and NamedTuples, made of plain JSON values by their annotations, and written.

A file may be damaged, or somebody's own: every value is checked before it is used. Keys that a record does not have, as
a later version writes them, are passed over; keys that are missing have the record's default.
"""

import dataclasses
import functools
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Hint

Record = TypeVar("Record")
Json = dict[str, Any]  # an object of JSON

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    dict: "an object",
    types.NoneType: "null",
}


def from_json(kind: type[Record], content: object, path: Path) -> Record:
    """Make a record of what stands in the file at `path`. Raises UserError for the first value that does not fit."""
    record: Record = read_value(kind, content, path, "")
    return record


def read_value(hint: Hint, value: object, path: Path, place: str) -> Any:
    """Return a value as its annotation has it: enums by their names, tuples for lists, records for objects."""
    if not _fits(hint, value):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise UserError(
            f"{path}{': ' if place else ''}{place} is {shown}, and {_words(hint)} is expected: mend or remove the file"
        )
    hint = next(choice for choice in _choices(hint) if _fits(choice, value))
    if _is_record(hint):
        return _read_record(hint, value, path, f"{place}." if place else "")
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint[str(value)]
    arguments = get_args(hint)
    if isinstance(value, dict) and arguments:
        return {key: read_value(arguments[1], item, path, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list) and arguments:
        kinds = [arguments[0]] * len(value) if arguments[1:] in ((), (...,)) else arguments
        items = [read_value(kinds[i], item, path, f"{place}[{i}]") for i, item in enumerate(value)]
        return tuple(items)
    return value


def _read_record(kind: Hint, content: Any, path: Path, above: str) -> Any:
    values: Json = {}
    for name, (hint, is_needed) in _fields(kind).items():
        if name in content:
            values[name] = read_value(hint, content[name], path, f"{above}{name}")
        elif is_needed:
            raise UserError(f"{path} has no {above}{name}: it is not whole, or of another version")
    return kind(**values)


def to_json(value: Any) -> Any:
    """Return what stands in a file for a record, or for a value in it."""
    if isinstance(value, Enum):
        return value.name
    kind: Hint = type(value)
    if _is_record(kind):
        content = {name: to_json(getattr(value, name)) for name in _fields(kind)}
        omitted = value.omitted() if hasattr(value, "omitted") else ()
        return {name: item for name, item in content.items() if name not in omitted}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, tuple | list) else value


@functools.cache
def _fields(kind: Hint) -> dict[str, tuple[Hint, bool]]:
    """The annotation of each field, and whether it has no default."""
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        empty = dataclasses.MISSING
        fields = dataclasses.fields(kind)
        return {f.name: (hints[f.name], f.default is empty and f.default_factory is empty) for f in fields}
    return {name: (hints[name], name not in kind._field_defaults) for name in kind._fields}


def _is_record(kind: Hint) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))


def _choices(hint: Hint) -> list[Hint]:
    """The parts of a union, without their limits."""
    origin: Hint = get_origin(hint)
    if origin is Annotated:
        return _choices(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [inside for part in get_args(hint) for inside in _choices(part)]
    return [hint]


def _fits(hint: Hint, value: object) -> bool:
    """Whether the value is of this type; what is inside of a list or an object is not looked at."""
    origin: Hint = get_origin(hint)
    arguments = get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(arguments[0], value) and all(limit.holds(value) for limit in arguments[1:])
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in arguments)
    if origin is Literal:
        return value in arguments
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if hint is float:
        return is_finite(value)
    if origin in (tuple, list):
        is_any_length = arguments[1:] in ((), (...,))
        return isinstance(value, list) and (is_any_length or len(value) == len(arguments))
    if origin is dict or _is_record(hint):
        return isinstance(value, dict)
    if issubclass(hint, Enum):
        return value in list(hint.__members__)
    return isinstance(value, hint)


def _words(hint: Hint) -> str:
    """Say what is expected."""
    origin: Hint = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        return str(arguments[1].words)
    if origin in (Union, types.UnionType):
        return _one_of([_words(part) for part in arguments])
    if origin is Literal:
        return _one_of(list(map(str, arguments)))
    if origin in (tuple, list):
        number = "" if arguments[1:] in ((), (...,)) else f"{len(arguments)} "
        return f"a list of {number}values"
    if origin is dict or _is_record(hint):
        return _WORDS[dict]
    if issubclass(hint, Enum):
        return _one_of(list(hint.__members__))
    return _WORDS[hint]


def _one_of(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def is_finite(value: object) -> bool:
    """Whether that is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
