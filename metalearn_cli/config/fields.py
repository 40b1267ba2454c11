"""The keys of a class and their types, read in its source: importing it would import torch, which takes a second."""

import ast
import builtins
import functools
import operator
from dataclasses import make_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli.config.explain import describe
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.system import limits
from metalearn_cli.system.limits import Hint, check_limit

PACKAGE = "metalearn_cli."


def types_in_source(target: str, injected: frozenset[str] = frozenset()) -> dict[str, Hint]:
    """The types of the keys of dataclass `target`, package.module.Class of this package, with their limits; an enum in
    them has the names of its members, and a field that is a dataclass stands for its own fields. What no key can be of
    is Any."""
    module, _, name = target.rpartition(".")
    types: dict[str, Hint] = {}
    for field in _definition(module, name).body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        is_made_inside = isinstance(field.value, ast.Call) and "init" in {word.arg for word in field.value.keywords}
        if field.target.id in injected or is_made_inside:
            continue
        kind = _type_of(field.annotation, module)
        types |= types_in_source(kind) if isinstance(kind, str) else {field.target.id: kind}
    return types


def is_in_source(target: str) -> bool:
    """Whether there is such a class in this package."""
    module, _, name = target.rpartition(".")
    if not module.startswith(PACKAGE) or not _path(module).is_file():
        return False
    return any(isinstance(part, ast.ClassDef) and part.name == name for part in _source(module).body)


def _definition(module: str, name: str) -> ast.ClassDef:
    return next(part for part in _source(module).body if isinstance(part, ast.ClassDef) and part.name == name)


@functools.cache
def _source(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    return Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"


def _type_of(annotation: ast.expr, module: str) -> Hint:
    """The type that an annotation of `module` means; of a dataclass its whole name."""
    match annotation:
        case ast.Constant(value=None):
            return NoneType
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return operator.or_(_type_of(left, module), _type_of(right, module))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[item, _])):
            return tuple[_type_of(item, module), ...]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="dict")):
            return dict[str, Any]
        case ast.Subscript(value=ast.Name(id="Annotated")):  # the words and the range stand beside the type
            return eval(compile(ast.Expression(annotation), module, "eval"), dict(vars(limits)))
        case ast.Name(id=name) if isinstance(getattr(builtins, name, None), type):
            return getattr(builtins, name)
        case ast.Name(id=name):
            return _class_of(name, module)
    return Any


def _class_of(name: str, module: str) -> Hint:
    for part in _source(module).body:
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == name:
            return _type_of(part.value, module)
        if isinstance(part, ast.ImportFrom) and name in {alias.name for alias in part.names}:
            if part.module == limits.__name__:
                return getattr(limits, name)
            return _class_of(name, str(part.module)) if str(part.module).startswith(PACKAGE) else Any
        if isinstance(part, ast.ClassDef) and part.name == name:
            if any(isinstance(base, ast.Name) and base.id == "Enum" for base in part.bases):
                members = [line.targets[0] for line in part.body if isinstance(line, ast.Assign)]
                return Enum(name, [member.id for member in members if isinstance(member, ast.Name)])
            return f"{module}.{name}"
    return Any


def typed(types: dict[str, Hint], node: DictConfig, prefix: str, owner: str) -> DictConfig:
    """The values of `node` in their types, those of `owner`'s keys; missing where `node` has none. Raises UserError for
    any other key, and for a value of another type."""
    keys = make_dataclass("Keys", list(types.items()))
    schema, without_limits = OmegaConf.structured(keys), get_type_hints(keys)
    for key, value in ((key, node[key]) for key in map(str, node) if not OmegaConf.is_missing(node, key)):
        if key not in types:
            hint = nearest(key, types, prefix)
            if not owner.startswith(PACKAGE):
                hint += f"; a class's keys are the fields of its frozen dataclass: {key}: int = 1"
            raise UserError(f"{prefix}{key} is not a key of {owner.rpartition('.')[2]}{hint}")
        if isinstance(value, bool) and str(value).lower() in getattr(types[key], "__members__", ()):
            value = str(value).lower()  # a word of an enum, which yaml takes for a truth value
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{prefix}{key}={value} must be {describe(types[key])}") from error
        if _is_nested(value, without_limits[key]):
            raise UserError(f"{prefix}{key}={value} must be {describe(types[key])}")
        fitting = schema[key]
        plain = OmegaConf.to_container(fitting) if OmegaConf.is_config(fitting) else fitting
        check_limit(f"{prefix}{key}", plain, types[key])
    return schema  # type: ignore[no-any-return]


def _is_nested(value: Any, kind: Any) -> bool:
    """Whether a list holds lists or mappings where its type has single values, which OmegaConf lets pass."""
    is_flat = get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is None
    return is_flat and OmegaConf.is_list(value) and any(OmegaConf.is_config(item) for item in value)
