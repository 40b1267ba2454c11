"""From the command line to checked objects: Hydra composes conf/*.yaml, and the dataclasses are the schema.

The values stand in conf/, the types and ranges in the classes: each group of the configuration (`algo`, `task`,
`model`, `optimizer`) names its class in `_target_`, and its other keys are that class's fields.
"""

import dataclasses
import difflib
import importlib
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import TaskDistribution

GROUPS = ("algo", "task", "model", "optimizer")


class Precision(Enum):
    fp32 = "fp32"
    fp64 = "fp64"


class Select(Enum):
    best = "best"  # the checkpoint with the best validation result
    last = "last"


@dataclasses.dataclass(frozen=True)
class Run:
    """The keys that belong to no group; conf/config.yaml explains each and has its value."""

    name: str | None
    seed: int
    episodes_seed: int
    steps: int
    tasks_per_step: int
    test_episodes: int
    batch_norm: BatchNorm | None
    eval_every: int
    eval_episodes: int
    select: Select
    log_every: int
    save_every: int
    keep: int
    device: str
    precision: Precision
    deterministic: bool
    threads: int | None
    tasks_per_chunk: int | None

    def __post_init__(self) -> None:
        for key in ("steps", "tasks_per_step", "test_episodes", "eval_episodes", "log_every", "save_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        for key in ("threads", "tasks_per_chunk"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1, or null")
        for key in ("seed", "episodes_seed", "eval_every"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} must be 0 or above")
        if self.name is not None and (not self.name.strip() or Path(self.name).is_absolute() or ".." in self.name):
            raise UserError(f"name={self.name!r} must be the name of a folder inside outputs/")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision is Precision.fp64 else torch.float32


class Job(NamedTuple):
    """Everything that a run is made of, checked; nothing has been read, drawn or written yet."""

    run: Run
    algo: Algorithm
    task: TaskDistribution
    net: Net
    optimizer: Optimizer
    choices: dict[str, str]  # the chosen yaml of each group, e.g. {"algo": "maml", "experiment": "maml/sinusoid"}
    config: dict[str, Any]  # all of it as plain values, as it is written to config.yaml


def conf_dir() -> Path:
    """conf/ beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").exists():
            return folder
    raise UserError(f"conf/config.yaml is neither in {package} nor beside it: install metalearn-cli again")


def compose_config(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration that these command-line overrides ask for, and the yaml chosen in each group.

    All that is known of Hydra stands here.
    """
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("config", overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_composition_sentence(error, overrides)) from error
    choices = {str(group): choice for group, choice in composed.hydra.runtime.choices.items() if choice is not None}
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    return composed, choices


def load_job(overrides: list[str]) -> Job:
    """Compose, check and build. Raises UserError, before any data are touched."""
    composed, choices = compose_config(overrides)
    groups = {group: composed.pop(group) for group in GROUPS}
    run = Run(**check(Run, composed, ""))
    optimizer: Optimizer = build(groups["optimizer"], "optimizer", Optimizer)
    if optimizer.anneals and optimizer.schedule_steps is None:
        optimizer = dataclasses.replace(optimizer, schedule_steps=run.steps)
    task: TaskDistribution = build(groups["task"], "task", TaskDistribution)
    net: Net = build(groups["model"], "model", Net, spec=task.spec)
    algo: Algorithm = build(groups["algo"], "algo", Algorithm)
    if "val" not in task.splits and (run.eval_every or run.select is Select.best):
        raise UserError(
            f"task={choices['task']} has no validation classes with this split: set eval_every=0 select=last, "
            "or take a split that has them"
        )
    config = _plain(dataclasses.asdict(run))
    for group, part in (("algo", algo), ("task", task), ("model", net), ("optimizer", optimizer)):
        fields = {
            key: value for key, value in vars(part).items() if key in _field_types(type(part), frozenset({"spec"}))
        }
        config[group] = {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **_plain(fields)}
    return Job(run, algo, task, net, optimizer, choices, config)


def build(node: DictConfig, group: str, base: type, **injected: Any) -> Any:
    """The object that a group of the configuration describes: `_target_` with the other keys as its fields."""
    target = str(node.pop("_target_"))
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UserError(f"{group}._target_={target} cannot be imported: give package.module.Class") from None
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{group}._target_={target} must be a dataclass that implements {base.__name__}")
    return cls(**check(cls, node, f"{group}.", injected=frozenset(injected)), **injected)


def check(cls: type, node: DictConfig, prefix: str, injected: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of dataclass `cls` as this node gives them, of the right types. Raises UserError for any other key."""
    types = _field_types(cls, injected)
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
    fields = [(name, kind, dataclasses.field(default=defaults.get(name, MISSING))) for name, kind in types.items()]
    schema = OmegaConf.structured(dataclasses.make_dataclass(cls.__name__, fields))
    for key, value in ((str(key), value) for key, value in node.items()):
        if key not in types:
            raise UserError(f"{prefix}{key} is not a key of {cls.__name__}{_nearest(key, types, prefix)}")
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{prefix}{key}={value} must be {_describe(types[key])}") from error
    missing = [name for name in types if OmegaConf.is_missing(schema, name)]
    if missing:
        raise UserError(f"{prefix}{missing[0]} has no value: give {prefix}{missing[0]}=...")
    return {name: tuple(schema[name]) if OmegaConf.is_list(schema[name]) else schema[name] for name in types}


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"algo": {"inner_lr": 0.1}} -> {"algo.inner_lr": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def resolve_device(text: str) -> torch.device:
    """auto: the GPU where there is one. Raises UserError for a device that is not here; nothing falls back."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "auto":
        return torch.device("cuda" if gpus else "cpu")
    kind, _, index = text.partition(":")
    if text != "cpu" and not (kind == "cuda" and (index.isdigit() or text == "cuda")):
        raise UserError(f"device={text} must be auto, cpu, cuda or cuda:N")
    if kind == "cuda" and gpus == 0:
        raise UserError(f"device={text}, but torch sees no GPU: use device=cpu")
    if kind == "cuda" and int(index or 0) >= gpus:
        raise UserError(f"device={text}, but torch sees {gpus} GPU(s), cuda:0 to cuda:{gpus - 1}")
    return torch.device(text)


def _field_types(cls: type, injected: frozenset[str]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name not in injected}


def _plain(value: Any) -> Any:
    """Enums as their names, tuples as lists: what yaml and a later command line can read again."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _describe(kind: Any) -> str:
    """A type in the user's words."""
    options = [option for option in getattr(kind, "__args__", ()) if option is not type(None)]
    or_null = " or null" if type(None) in getattr(kind, "__args__", ()) else ""
    if len(options) == 1:
        kind = options[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.name for member in kind)}{or_null}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, f"a list like {kind}") + or_null


def _nearest(key: str, options: Any, prefix: str = "") -> str:
    near = difflib.get_close_matches(key, list(options), n=1)
    return f": did you mean {prefix}{near[0]}?" if near else f": choose from {', '.join(sorted(options))}"


def _composition_sentence(error: Exception, overrides: list[str]) -> str:
    """Hydra's refusal as one sentence, with the nearest name where a key or a choice is unknown."""
    parsed: list[tuple[str, Any]] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return f"{text!r} is not of the form key=value"
        parsed.append((override.key_or_group, override.value()))
    choices = [(key, value) for key, value in parsed if key in (*GROUPS, "experiment")]
    for key, value in choices:
        options = list_choices(key)
        if str(value) not in options:
            return f"{key}={value} is none of the choices{_nearest(str(value), options)}"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known: Any = OmegaConf.to_container(compose("config", [f"{key}={value}" for key, value in choices]))
    for key, _ in parsed:
        if key not in known and key not in flatten(known):
            return f"there is no key {key}{_nearest(key, flatten(known))}"
    return " ".join(str(error).split())


def list_choices(group: str) -> list[str]:
    """The yaml files of a group of conf/, as they are chosen on the command line."""
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
