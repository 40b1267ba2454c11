"""Check the configuration against dataclasses, and build objects of it.

Each group (`algo`, `task`, `model`, `optimizer`) names its class in `_target_`, and its other keys are that class's
fields; a field that is a dataclass itself stands for the fields of that one.
"""

import dataclasses
import importlib
import inspect
import sys
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from omegaconf import MISSING, DictConfig, OmegaConf

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.fields import typed
from metalearn_cli.errors import UserError, failure_sentence, nearest
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.system.limits import Hint, check_limit
from metalearn_cli.tasks.base import Spec

# Where the classes are that the folder of a run may name; importing another module may run anything.
_PARTS = tuple(f"metalearn_cli.{part}." for part in ("algorithms", "tasks", "nets", "optimizer"))


class ConfigSource(NamedTuple):
    """Where a configuration comes from."""

    given: frozenset[str] = frozenset()  # the keys that the command names
    trust: bool = False  # whether it may name classes outside of this package, whose code importing runs


def build(node: DictConfig | Config, group: str, base: type, source: ConfigSource, spec: Spec | None = None) -> Any:
    """The object that a group of the configuration describes: `_target_` with the other keys as its fields. A network
    gets the `spec` of the task too."""
    target, cls = str(node["_target_"]), import_class(node["_target_"], group, source.trust)
    is_module = base is Net and isinstance(cls, type) and issubclass(cls, torch.nn.Module)
    if not is_module and not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        or_module = " or a torch.nn.Module" if base is Net else ""
        raise UserError(
            f"{group}._target_={target} must be a frozen dataclass that implements {path_of(base)}{or_module}"
        )
    try:
        keys = _keys_of_class(node, group, cls, source)
        if is_module:
            assert spec is not None  # guaranteed by the caller
            return module_net(cls, spec, keys)
        values = checked_fields(cls, OmegaConf.create(keys), f"{group}.")
        return _assemble(cls, values, {} if spec is None else {"spec": spec})
    except UserError:
        raise
    except Exception as error:  # whatever a user's class may raise
        if target.startswith("metalearn_cli."):
            raise
        raise UserError(f"{group}._target_={target} cannot be made: {failure_sentence(error)}") from error


def _keys_of_class(node: DictConfig | Config, group: str, cls: type, source: ConfigSource) -> Config:
    """The keys of a group but `_target_`. Where the command names the class, the chosen yaml belongs to another one: of
    its keys those stay that the command names, or for which this class has no default."""
    keys: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else dict(node)
    del keys["_target_"]
    if f"{group}._target_" not in source.given:
        return dict(keys)
    defaults = default_keys(cls)
    named = {key for key in keys if any(f"{name}.".startswith(f"{group}.{key}.") for name in source.given)}
    return {key: value for key, value in keys.items() if key in named or defaults.get(key) == MISSING}


def note_on_defaults(node: DictConfig, group: str, source: ConfigSource) -> list[str]:
    """A sentence where the command names a class whose own defaults are other values than those of the chosen yaml."""
    if f"{group}._target_" not in source.given:
        return []
    target = str(node["_target_"])
    asked: Any = OmegaConf.to_container(node)
    cls = import_class(target, group, source.trust)
    kept, defaults = _keys_of_class(node, group, cls, source), default_keys(cls)
    differing = [
        f"{group}.{key}={default} (not {value})"
        for key, value in asked.items()
        if key not in kept and key in defaults and (default := to_yaml(defaults[key])) != value
    ]
    return [f"{target}'s own defaults stand: {', '.join(differing)}"] if differing else []


def import_class(target: str, group: str, trust: bool) -> Any:
    module, _, name = target.rpartition(".")
    if not target.startswith(_PARTS):
        if not trust:
            raise UserError(
                f"the run's {group}._target_={target} is not a part of metalearn that can be chosen, and "
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


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def checked_fields(cls: type, node: DictConfig, prefix: str) -> Config:
    """The fields of dataclass `cls` as this node gives them, of the right types and within their limits. Raises
    UserError for any other key."""
    schema = typed(field_types(cls), node, prefix, path_of(cls))
    named = set(map(str, node))  # also those that are ???, which are not `in node`
    for name, default in default_keys(cls).items():
        if name not in named:
            schema[name] = default
        if OmegaConf.is_missing(schema, name):
            raise UserError(f"{prefix}{name} has no value: give {prefix}{name}=...")
    values = {str(name): OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in schema.items()}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, kind in field_types(cls).items():
        check_limit(f"{prefix}{name}", values[name], kind)
    return values


def field_types(cls: Hint) -> Config:
    """The types of the keys of a class: those of its fields, and of the fields of a field that is a dataclass."""
    types: Config = {}
    for name, hint in _fields(cls).items():
        types |= field_types(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return types


def default_keys(cls: Hint) -> Config:
    """The values that the keys of a class have where nobody gives them; MISSING for a key without."""
    if issubclass(cls, torch.nn.Module):
        arguments = inspect.signature(cls).parameters.values()
        return {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in arguments}
    hints, defaults = _fields(cls), {}
    for f in dataclasses.fields(cls):
        if f.name not in hints:
            continue
        default = MISSING if f.default is dataclasses.MISSING else f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        if not dataclasses.is_dataclass(hint := hints[f.name]):
            defaults[f.name] = default
        else:
            defaults |= default_keys(hint) if default is MISSING else _field_values(default)
    return defaults


def class_of(part: object) -> type:
    """The class that `_target_` names for this object."""
    return part.target if isinstance(part, Net) else type(part)


def described(part: object) -> Config:
    """The group of the configuration by which `build` makes this object again."""
    keys = part.keys() if isinstance(part, Net) else _field_values(part)
    return {"_target_": path_of(class_of(part)), **to_yaml(keys)}


def _field_values(part: object) -> Config:
    values: Config = {}
    for name, hint in _fields(type(part)).items():
        value = getattr(part, name)
        values |= _field_values(value) if dataclasses.is_dataclass(hint) else {name: value}
    return values


def _assemble(cls: Hint, values: Config, injected: Config) -> Any:
    """The object whose keys have these values."""
    arguments = dict(injected)
    for name, hint in _fields(cls).items():
        arguments[name] = _assemble(hint, values, {}) if dataclasses.is_dataclass(hint) else values[name]
    return cls(**arguments)


def _fields(cls: Hint) -> Config:
    """The types of a class's own fields; the `spec` of a network is no key."""
    hints, injected = get_type_hints(cls, include_extras=True), "spec" if issubclass(cls, Net) else None
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name != injected}


def to_yaml(value: Any) -> Any:
    """Enums as their names, tuples as lists: what yaml and a later command line can read again."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: to_yaml(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_yaml(item) for item in value]
    return value
