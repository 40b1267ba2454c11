"""The keys of a class and their types, read in its source: importing it would import torch, which takes a second."""

import ast
import builtins
import functools
from dataclasses import make_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli.errors import UserError, nearest
from metalearn_cli.system import limits
from metalearn_cli.system.limits import Hint, check_limit, words_of

PACKAGE = "metalearn_cli."


def types_in_source(target: str) -> dict[str, Hint]:
    """Read the types of the keys of dataclass `target`, package.module.Class; {} where this package has no such class.
    A field that is a dataclass stands for its own fields, and the `spec` of a network is not a key."""
    module = target.rpartition(".")[0]
    types: dict[str, Hint] = {}
    for field in getattr(_definition(target), "body", ()):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id != "spec":
            kind = _type_of(field.annotation, module)
            types |= types_in_source(kind) if isinstance(kind, str) else {field.target.id: kind}
    return types


def is_in_source(target: str) -> bool:
    return _definition(target) is not None


def _definition(target: str) -> ast.ClassDef | None:
    module, _, name = target.rpartition(".")
    body = _source(module).body if module.startswith(PACKAGE) and _path(module).is_file() else []
    return next((part for part in body if isinstance(part, ast.ClassDef) and part.name == name), None)


@functools.cache
def _source(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module: str) -> Path:
    return Path(__file__).parents[2] / f"{module.replace('.', '/')}.py"


def _type_of(annotation: ast.expr, module: str) -> Hint:
    """The type that an annotation of `module` means; of a dataclass its whole name; Any for what no key can be of."""
    names = {node.id: _meaning(node.id, module) for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    try:
        return eval(compile(ast.Expression(annotation), module, "eval"), vars(limits) | names)
    except (TypeError, AttributeError):
        return Any


def _meaning(name: str, module: str) -> Hint:
    """What a name in `module` means, as far as it is defined in this package."""
    for part in _source(module).body:
        if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) == name:
            return _type_of(part.value, module)
        if isinstance(part, ast.ImportFrom) and name in {alias.name for alias in part.names}:
            is_ours = str(part.module).startswith(PACKAGE) and part.module != limits.__name__
            return _meaning(name, str(part.module)) if is_ours else getattr(limits, name, Any)
        if isinstance(part, ast.ClassDef) and part.name == name:
            if "Enum" not in map(ast.unparse, part.bases):
                return f"{module}.{name}"
            return Enum(name, [ast.unparse(line.targets[0]) for line in part.body if isinstance(line, ast.Assign)])
    return getattr(limits, name, getattr(builtins, name, Any))


def typed(types: dict[str, Hint], node: DictConfig, prefix: str, owner: str) -> DictConfig:
    """The values of `node` in these types. Raises UserError for another key, and for a wrong type or range."""
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
            is_right = not _is_nested(value, without_limits[key])
        except OmegaConfBaseException:
            is_right = False
        if not is_right:
            raise UserError(f"{prefix}{key}={value} must be {words_of(types[key])}")
        value = schema[key]
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        check_limit(f"{prefix}{key}", plain, types[key])
    return schema  # type: ignore[no-any-return]


def _is_nested(value: Any, kind: Any) -> bool:
    """Whether a list holds lists or mappings where its type has single values, which OmegaConf lets pass."""
    is_flat = get_origin(kind) is tuple and get_origin(get_args(kind)[0]) is None
    return is_flat and OmegaConf.is_list(value) and any(OmegaConf.is_config(item) for item in value)
