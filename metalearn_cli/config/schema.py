"""Check groups of the configuration against the dataclasses that they name, and build objects of them."""

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli.backbones.named import is_elsewhere
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.fields import typed
from metalearn_cli.errors import UserError, failure_sentence, nearest
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.nets.user_module import ModuleNet, module_net
from metalearn_cli.system.limits import Hint
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import Spec

# Where the classes are that the folder of a run may name; importing another module may run anything.
_PARTS = tuple(f"metalearn_cli.{part}." for part in ("algorithms", "tasks", "nets", "optimizer"))


class ConfigSource(NamedTuple):
    """Where a configuration comes from."""

    given_keys: frozenset[str] = frozenset()  # the keys that the command names
    trust: bool = False  # whether it may name classes outside of this package, and weights outside of its folder
    folder: Path | None = None  # whose files it may name: that of a run or an export


def build(node: DictConfig | Config, group: str, base: type, source: ConfigSource, spec: Spec | None = None) -> Any:
    """The object that a group describes: `_target_` with its other keys as fields; a network gets `spec` too."""
    target, cls = str(node["_target_"]), import_class(node["_target_"], group, source.trust)
    is_class = isinstance(cls, type)
    # Of this package no function is called: a stranger's folder may name one that removes or writes files.
    is_foreign = base is Net and not target.startswith(_PARTS)
    is_module = is_foreign and (issubclass(cls, torch.nn.Module) if is_class else callable(cls))
    if not is_module and not (is_class and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        modules = " or a torch.nn.Module or a function that returns one" * (base is Net)
        needed = f"a frozen dataclass that implements {path_of(base)}{modules}"
        raise UserError(f"{group}._target_={target} must be {needed}")
    try:
        keys = _keys_of_class(node, group, cls, source)
        if is_module:
            assert spec is not None  # guaranteed by the caller
            return module_net(cls, spec, keys)
        values = checked_fields(cls, OmegaConf.create(keys), f"{group}.")
        if cls is Pretrained and not source.trust and is_elsewhere(name := values["name"], source.folder):
            reason = "is neither the default network nor a .safetensors in the run's own folder"
            raise UserError(f"the run's model.name={name} {reason}: give trust=true if you trust it")
        return _assemble(cls, values, {} if spec is None else {"spec": spec})
    except UserError:
        raise
    except Exception as error:  # whatever a user's class may raise
        is_of_a_type = isinstance(error, OmegaConfBaseException)  # that no key has: the class is no part of a yaml
        if target.startswith("metalearn_cli.") and not is_of_a_type:
            raise
        raise UserError(f"{group}._target_={target} cannot be made: {failure_sentence(error)}") from error


def _keys_of_class(node: DictConfig | Config, group: str, cls: type, source: ConfigSource) -> Config:
    """The keys of a group but `_target_`. Where the command names the class, the yaml belongs to another one: only keys
    that the command names, or for which this class has no default, are taken of it."""
    keys: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else dict(node)
    del keys["_target_"]
    if f"{group}._target_" not in source.given_keys:
        return dict(keys)
    defaults = default_keys(cls)
    named = {key for key in keys if any(f"{name}.".startswith(f"{group}.{key}.") for name in source.given_keys)}
    return {key: value for key, value in keys.items() if key in named or defaults.get(key) == MISSING}


def note_on_defaults(node: DictConfig, group: str, source: ConfigSource) -> list[str]:
    """A sentence where the class that the command names has other defaults than the chosen yaml has values."""
    target = str(node["_target_"])
    asked: Any = OmegaConf.to_container(node)
    cls = import_class(target, group, source.trust)
    dropped = asked.keys() - _keys_of_class(node, group, cls, source).keys()
    defaults = {key: to_json(value) for key, value in default_keys(cls).items() if key in dropped}
    differing = [
        f"{group}.{key}={defaults[key]} (not {value})"
        for key, value in asked.items()
        if key in defaults and defaults[key] != value
    ]
    return [f"{target}'s own defaults stand: {', '.join(differing)}"] if differing else []


def import_class(target: str, group: str, trust: bool) -> Any:
    module, _, name = target.rpartition(".")
    if not target.startswith(_PARTS):
        if not trust:
            reason = "is not a part of metalearn that can be chosen, and importing it would run its code"
            raise UserError(f"the run's {group}._target_={target} {reason}: give trust=true if you trust it")
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # a user's own class stands in a file beside where the command is given
    sentence = f"{group}._target_={target} cannot be imported"
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if is_missing or not module:
            raise UserError(f"{sentence} ({error}): give package.module.Class") from None
        raise UserError(f"{sentence}: {failure_sentence(error)}") from error
    if not hasattr(imported, name):
        classes = [key for key, value in vars(imported).items() if isinstance(value, type)]
        near = nearest(name, classes, f"{module}.") if classes else ": give package.module.Class"
        raise UserError(f"{sentence}, there is no {name} in {module}{near}")
    return getattr(imported, name)


def path_of(cls: Callable[..., Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def checked_fields(cls: type, node: DictConfig, prefix: str) -> Config:
    """The fields of dataclass `cls` as this node gives them. Raises UserError for any other key or type."""
    schema = typed(field_types(cls), node, prefix, path_of(cls))
    named = set(map(str, node))  # also those that are ???, which are not `in node`
    for name, default in default_keys(cls).items():
        if name not in named:
            schema[name] = default
        if OmegaConf.is_missing(schema, name):
            raise UserError(f"{prefix}{name} has no value: give {prefix}{name}=...")
    values = {str(name): OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in schema.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def field_types(cls: Hint) -> Config:
    """The types of the keys of a class: those of its fields, and of the fields of a field that is a dataclass."""
    types: Config = {}
    for name, hint in _fields(cls).items():
        types |= field_types(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return types


def default_keys(cls: Hint) -> Config:
    """The values that the keys of a class have where nobody gives them; MISSING for a key without."""
    if not dataclasses.is_dataclass(cls):  # of a user's module, or a function that makes one
        arguments = inspect.signature(cls).parameters.values()
        return {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in arguments}
    hints = _fields(cls)
    defaults: Config = {}
    for f in dataclasses.fields(cls):
        default = MISSING if f.default is dataclasses.MISSING else f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        if dataclasses.is_dataclass(hint := hints.get(f.name)):
            defaults |= default_keys(hint) if default is MISSING else _field_values(default)
        elif hint is not None:
            defaults[f.name] = default
    return defaults


def class_of(part: object) -> Callable[..., Any]:
    """The class or function that `_target_` names for this object."""
    return part.maker if isinstance(part, ModuleNet) else type(part)


def described(part: object) -> Config:
    """The group of the configuration by which `build` makes this object again."""
    keys = part.arguments if isinstance(part, ModuleNet) else _field_values(part)
    return {"_target_": path_of(class_of(part)), **to_json(keys)}


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
    """The types of a class's own fields; the `spec` of a network is not a key."""
    hints, injected = get_type_hints(cls, include_extras=True), "spec" if issubclass(cls, Net) else None
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name != injected}
