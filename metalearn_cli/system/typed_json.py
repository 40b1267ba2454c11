"""Records (frozen dataclasses, NamedTuples) made of plain JSON values by their annotations, and written. Every value is
checked; keys that a record does not have are passed over, and keys that are missing have its default."""

import dataclasses
import functools
import sys
import types
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Hint, words_of

Record = TypeVar("Record")
Json = dict[str, Any]  # an object of JSON


def from_json(kind: type[Record], content: object, path: Path) -> Record:
    """Make a record of what stands in the file at `path`. Raises UserError for the first value that does not fit."""
    record: Record = read_value(kind, content, path, "")
    return record


def read_value(hint: Hint, value: Any, path: Path, place: str) -> Any:
    """Return a value as its annotation has it: enums by their names, tuples for lists, records for objects."""
    kind = _fitting(hint, value)
    if kind is None:
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        where = f"{path}: {place}" if place else path
        raise UserError(f"{where} is {shown}, and {words_of(hint)} is expected: mend or remove the file")
    if _is_record(kind):
        fields: Json = {}
        for name, (field, is_needed) in _fields(kind).items():
            inside = f"{place}.{name}" if place else name
            if name in value:
                fields[name] = read_value(field, value[name], path, inside)
            elif is_needed:
                raise UserError(f"{path} has no {inside}: it is not whole, or of another version")
        return kind(**fields)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[str(value)]
    arguments = get_args(kind)
    if isinstance(value, dict) and arguments:
        return {key: read_value(arguments[1], item, path, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list) and arguments:
        kinds = [arguments[0]] * len(value) if arguments[1:] in ((), (...,)) else arguments
        return tuple(read_value(kinds[i], item, path, f"{place}[{i}]") for i, item in enumerate(value))
    return value


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


def _fitting(hint: Hint, value: object) -> Hint:
    """The part of a union that the value is of; None where it is of no part. Items of a list are not examined."""
    origin: Hint = get_origin(hint)
    arguments = get_args(hint)
    if origin is Annotated:
        kind = _fitting(arguments[0], value)
        return kind if kind is not None and all(limit.holds(value) for limit in arguments[1:]) else None
    if origin in (Union, types.UnionType):
        return next((kind for part in arguments if (kind := _fitting(part, value)) is not None), None)
    return hint if _is_of(hint, origin, arguments, value) else None


def _is_of(hint: Hint, origin: Hint, arguments: tuple[Any, ...], value: object) -> bool:
    if hint is Any:
        return True
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
    return value in list(hint.__members__) if issubclass(hint, Enum) else isinstance(value, hint)


def is_finite(value: object) -> bool:
    """Whether that is a number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
