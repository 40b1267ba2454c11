"""Dataclasses as the schema of the configuration, and objects built of it.

Each group (`algo`, `task`, `model`, `optimizer`) names its class in `_target_`, and its other keys are that class's
fields; a field that is a dataclass itself stands for the fields of that one.
"""

import dataclasses
import importlib
import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import torch
from omegaconf import MISSING, DictConfig, OmegaConf

from metalearn_cli.config.fields import typed
from metalearn_cli.errors import UserError, failure_sentence, nearest
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.user_module import module_net

# Where the classes are that a run's folder may name; importing another module may do something.
_PARTS = tuple(f"metalearn_cli.{part}." for part in ("algorithms", "tasks", "nets", "optimizer"))


def build(
    node: DictConfig, group: str, base: type, given: set[str], trust: bool, notes: list[str], **injected: Any
) -> Any:
    """The object that a group of the configuration describes: `_target_` with the other keys as its fields."""
    target = str(node.pop("_target_"))
    cls = import_class(target, group, trust)
    is_module = base is Net and isinstance(cls, type) and issubclass(cls, torch.nn.Module)
    if not is_module and not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        or_module = " or a torch.nn.Module" if base is Net else ""
        raise UserError(
            f"{group}._target_={target} must be a frozen dataclass that implements {path_of(base)}{or_module}"
        )
    try:
        if f"{group}._target_" in given:
            defaults = argument_defaults(cls) if is_module else field_defaults(cls, frozenset(injected))
            node = _without_the_yamls(node, group, target, defaults, given, notes)
        if is_module:
            arguments: Any = OmegaConf.to_container(node)
            return module_net(cls, injected["spec"], arguments)
        return _assemble(cls, check(cls, node, f"{group}.", injected=frozenset(injected)), injected)
    except UserError:
        raise
    except Exception as error:  # whatever a user's class may raise
        if _is_ours(target):
            raise
        raise UserError(f"{group}._target_={target} cannot be made: {failure_sentence(error)}") from error


def _without_the_yamls(
    node: DictConfig, group: str, target: str, defaults: dict[str, Any], given: set[str], notes: list[str]
) -> DictConfig:
    """The keys for a class that the command line names: what it gives itself, and the yaml's where the class has no
    default. The yaml that was chosen belongs to another class: its other keys are dropped, and where a default is
    another value than the yaml's, a note says so."""
    kept: dict[str, Any] = {}
    own: list[str] = []
    asked: Any = OmegaConf.to_container(node)
    for key, value in asked.items():
        is_given = any(name == f"{group}.{key}" or name.startswith(f"{group}.{key}.") for name in given)
        if is_given or defaults.get(key) == MISSING:
            kept[key] = value
        elif key in defaults and (default := plain(defaults[key])) != value:
            own.append(f"{group}.{key}={default} (not {value})")
    if own:
        notes.append(f"{target}'s own defaults stand: {', '.join(own)}")
    return OmegaConf.create(kept)


def import_class(target: str, group: str, trust: bool) -> Any:
    module, _, name = target.rpartition(".")
    if not target.startswith(_PARTS):
        if not trust:
            raise UserError(
                f"the run's {group}._target_={target} is no part of metalearn that can be chosen, and "
                "importing it would run its code: give trust=true if you trust it"
            )
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # a user's own class stands in a file beside where the command is given
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if is_missing or not module:
            raise UserError(
                f"{group}._target_={target} cannot be imported ({error}): give package.module.Class"
            ) from None
        raise UserError(f"{group}._target_={target} cannot be imported: {failure_sentence(error)}") from error
    if not hasattr(imported, name):
        classes = [key for key, value in vars(imported).items() if isinstance(value, type)]
        near = nearest(name, classes, f"{module}.") if classes else ": give package.module.Class"
        raise UserError(f"{group}._target_={target} cannot be imported, there is no {name} in {module}{near}")
    return getattr(imported, name)


def _is_ours(target: str) -> bool:
    return target.startswith("metalearn_cli.")


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def check(cls: type, node: DictConfig, prefix: str, injected: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of dataclass `cls` as this node gives them, of the right types. Raises UserError for any other key."""
    schema = typed(field_types(cls, injected), node, prefix, path_of(cls))
    named = set(map(str, node))  # also those that are ???, which are not `in node`
    for name, default in field_defaults(cls, injected).items():
        if name not in named:
            schema[name] = default
        if OmegaConf.is_missing(schema, name):
            raise UserError(f"{prefix}{name} has no value: give {prefix}{name}=...")
    given = {str(name): schema[name] for name in schema}
    values = {name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in given.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def field_types(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for name, hint in _fields(cls, injected).items():
        types |= field_types(hint, frozenset()) if dataclasses.is_dataclass(hint) else {name: hint}
    return types


def field_defaults(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
    """MISSING for a field without."""
    hints, defaults = _fields(cls, injected), {}
    for f in dataclasses.fields(cls):
        if f.name not in hints:
            continue
        default = MISSING if f.default is dataclasses.MISSING else f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        if not dataclasses.is_dataclass(hint := hints[f.name]):
            defaults[f.name] = default
        else:
            defaults |= field_defaults(hint, frozenset()) if default is MISSING else values_of(default, frozenset())
    return defaults


def values_of(part: Any, injected: frozenset[str]) -> dict[str, Any]:
    """The keys of an object with their values."""
    values: dict[str, Any] = {}
    for name, hint in _fields(type(part), injected).items():
        value = getattr(part, name)
        values |= values_of(value, frozenset()) if dataclasses.is_dataclass(hint) else {name: value}
    return values


def _assemble(cls: Any, values: dict[str, Any], injected: dict[str, Any]) -> Any:
    """The object whose keys have these values."""
    arguments = dict(injected)
    for name, hint in _fields(cls, frozenset(injected)).items():
        arguments[name] = _assemble(hint, values, {}) if dataclasses.is_dataclass(hint) else values[name]
    return cls(**arguments)


def _fields(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
    """The types of a class's own fields."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name not in injected}


def argument_defaults(module: type) -> dict[str, Any]:
    """The same for a module's constructor."""
    arguments = inspect.signature(module).parameters.values()
    return {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in arguments}


def plain(value: Any) -> Any:
    """Enums as their names, tuples as lists: what yaml and a later command line can read again."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
