"""From the command line to checked objects: Hydra composes conf/*.yaml, and the dataclasses are the schema.

The values stand in conf/, the types and ranges in the classes: each group of the configuration (`algo`, `task`,
`model`, `optimizer`) names its class in `_target_`, and its other keys are that class's fields.
"""

import dataclasses
import importlib
import inspect
import re
import sys
from copy import copy
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli import yaml_files
from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.allocator import Allocator
from metalearn_cli.catalog import GROUPS, PRESETS, conf_dir, list_choices, run_keys
from metalearn_cli.errors import UserError
from metalearn_cli.measure import parse_memory
from metalearn_cli.metrics import parse_expectation
from metalearn_cli.mistakes import composition_sentence, describe, failure_sentence, nearest
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.module import ModuleNet, module_net
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.adapted import Adapted
from metalearn_cli.tasks.base import Split, TaskDistribution

# Keys whose values are a person's text: names, paths, sentences.
FREE_TEXT = ("name", "run", "expect", "task.root", "task.split_file", "task.split_lists", "support", "query", "out")


class Precision(Enum):
    fp32 = "fp32"
    fp64 = "fp64"
    tf32 = "tf32"  # float32 whose products read 10 of the 23 bits behind the point: NVIDIA GPUs
    bf16 = "bf16"  # float32 with the network's products in bfloat16 (7 bits), see nets/reduced.py


class Select(Enum):
    best = "best"  # the checkpoint with the best validation result
    last = "last"


class Logger(Enum):
    wandb = "wandb"  # Weights & Biases
    mlflow = "mlflow"


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
    other_batch_norm: tuple[BatchNorm, ...]
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
    allocator: Allocator
    compile: bool
    cuda_graph: bool
    tasks_per_chunk: int | str | None  # a number, or "auto"
    memory: str | None
    logger: Logger | None
    expect: str | None
    trust: bool
    lock: bool
    paper: dict[str, Any] | None

    def __post_init__(self) -> None:
        for key in ("steps", "tasks_per_step", "test_episodes", "eval_episodes", "log_every", "save_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads={self.threads} must be at least 1, or null")
        chunk = self.tasks_per_chunk
        if chunk is not None and chunk != "auto" and (isinstance(chunk, str) or chunk < 1):
            raise UserError(f"tasks_per_chunk={chunk} must be a whole number from 1 on, auto or null")
        if self.memory is not None:
            parse_memory(self.memory)
            if chunk != "auto":
                raise UserError(f"memory={self.memory} is held by tasks_per_chunk=auto: give that too")
        for key in ("seed", "episodes_seed", "eval_every"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} must be 0 or above")
        if self.name is not None:
            check_name(self.name)
        if self.paper is not None and not {"mean", "source"} <= self.paper.keys():
            raise UserError("paper must have a mean and a source, e.g. paper={mean:0.9,source:mine}")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision is Precision.fp64 else torch.float32


class Job(NamedTuple):
    """Everything that a run is made of, checked; nothing has been drawn or written yet, and of data a user's table is
    read and a user's folder listed at most."""

    run: Run
    algo: Algorithm
    task: TaskDistribution
    net: Net
    optimizer: Optimizer
    choices: dict[str, str]  # the chosen yaml of each group, e.g. {"algo": "maml", "experiment": "maml/sinusoid"}
    config: dict[str, Any]  # all of it as plain values, as it is written to config.yaml
    notes: list[str]  # what the user should know about how the command line was understood
    given: frozenset[str] = frozenset()  # the keys that stand on the command line


def check_name(name: str) -> None:
    """Raises UserError for a name that is not that of a folder inside outputs/. It is printed in a line of its own, so
    that it cannot hold a line break, nor other signs that a terminal would obey."""
    path = Path(name)
    if not name.strip() or not path.parts or path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise UserError(f"name={name!r} must be the name of a folder inside outputs/")


def compose_config(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration that these command-line overrides ask for, and the yaml chosen in each group."""
    overrides = [quote(override) for override in overrides]
    for override in overrides:
        if override.startswith("~"):
            raise UserError(f"{override}: a key cannot be deleted; give it another value")
        if override.partition("=")[0] in FREE_TEXT and "${" in override:
            raise UserError(f"{override}: a name or path cannot hold ${{, which begins a reference to another key")
        key, _, value = override.lstrip("+").partition("=")
        if not key:
            raise UserError(f"{override!r} is not of the form key=value")
        if key in (*GROUPS, *PRESETS) and not (value in list_choices(key) or (value == "null" and key in PRESETS)):
            raise UserError(f"{key}={value} is none of the choices{nearest(value, list_choices(key))}")
        if override.startswith("+") and key in (*GROUPS, *PRESETS):
            raise UserError(f"{override}: give {key}={value} without the +")
    for path in conf_dir().rglob("*.yaml"):
        yaml_files.check(path)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            composed = compose("config", overrides, return_hydra_config=True)
    except yaml.YAMLError as error:
        raise UserError(yaml_files.sentence(error)) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(composition_sentence(error, overrides)) from error
    choices = chosen(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    try:
        OmegaConf.resolve(composed)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    return composed, choices


def chosen(choices: Any) -> dict[str, str]:
    """The yaml chosen in each group, of all that Hydra lists."""
    return {group: choices[group] for group in (*GROUPS, *PRESETS) if choices.get(group) is not None}


def quote(override: str) -> str:
    """Put the value of a free-text key in quotes, so that Hydra's grammar takes it as it stands.

    It would refuse `expect=accuracy>=0.95` and paths with brackets, equal signs or letters beyond ASCII, and would
    make numbers of names.
    """
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in FREE_TEXT or not equals or value == "null":
        return override
    # A backslash before a quote is doubled, and so are those at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    tail = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{tail * chr(92)}'"


def parse_override(override: str) -> tuple[str, Any]:
    """One key=value -> the key and its value, as Hydra's grammar reads them."""
    try:
        parsed = OverridesParser.create().parse_override(quote(override))
    except HydraException:
        raise UserError(f"{override!r} is not of the form key=value") from None
    value = parsed.value()
    if parsed.is_sweep_override():
        raise UserError(f"{override}: one value is wanted here")
    return parsed.key_or_group, str(value) if isinstance(value, QuotedString) else value


def load_job(overrides: list[str]) -> Job:
    """Compose, check and build. Raises UserError, before any data are touched."""
    refuse_hydra(overrides)
    for override in overrides:
        if override.startswith("sweep=") and override != "sweep=null":
            raise UserError(
                f"{override} says who runs the jobs of a sweep, and this is one run: give -m, or leave it out"
            )
    composed, choices = compose_config(overrides)
    return train_job(composed, choices, overrides)


def train_job(composed: DictConfig, choices: dict[str, str], overrides: list[str]) -> Job:
    """The job of a training with this configuration, which these overrides asked for."""
    given = keys_of(overrides)
    if "paper" not in given and any(key.partition(".")[0] in GROUPS for key in given):
        composed.paper = None  # the published figure belongs to the experiment as it stands
    job = make_job(composed, choices, given, trust=True)
    job = job._replace(notes=[*job.notes, *given_twice(overrides)])
    if (lacking := _why_no_validation(job)) is None:
        return job
    if job.run.select is Select.best:
        raise UserError(f"{lacking}, by which select=best would choose: set select=last, or take a split that has them")
    if job.run.eval_every == 0:
        return job
    if "eval_every" in given:
        raise UserError(f"eval_every={job.run.eval_every} asks for validations, but {lacking}: set eval_every=0")
    # A preset's interval is one for tasks that can be validated; select=last says that this run needs no validation.
    run = dataclasses.replace(job.run, eval_every=0)
    notes = [*job.notes, f"no validation: {lacking}"]
    return job._replace(run=run, config={**job.config, "eval_every": 0}, notes=notes)


def _why_no_validation(job: Job) -> str | None:
    """What keeps the task from giving validation tasks; None where nothing does."""
    if "val" not in job.task.splits:
        what = "classes" if job.task.number("test") is None else "tasks"
        return f"task={job.choices['task']} has no validation {what} with this split"
    try:
        job.task.check_split("val")
    except UserError as sentence:
        return str(sentence)
    return None


def refuse_hydra(overrides: list[str], honoured: tuple[str, ...] = ()) -> None:
    """Raises UserError for a key of Hydra's own, which would be accepted and do nothing."""
    for override in overrides:
        if re.match(r"\+*hydra[./=]", override) and not override.startswith(honoured):
            raise UserError(
                f"{override} would do nothing: of Hydra's own keys only hydra/launcher, hydra/sweeper and what stands "
                "in them can be set, for a sweep (-m); a run's folder is name=..."
            )


def keys_of(overrides: list[str]) -> set[str]:
    return {override.partition("=")[0].lstrip("+") for override in overrides}


def given_twice(overrides: list[str]) -> list[str]:
    """A sentence for each key that is there with two values."""
    last: dict[str, str] = {}
    notes: list[str] = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if last.get(key, value) != value:
            notes.append(f"{key} is given twice, and the last counts: {key}={value}, not {last[key]}")
        last[key] = value
    return notes


def make_job(
    node: DictConfig,
    choices: dict[str, str],
    given: set[str],
    trust: bool,
    input_shape: tuple[int, ...] | None = None,
) -> Job:
    """Check and build a whole configuration; `given` are the keys that stand on the command line.

    Without `trust`, only classes of this package are imported: a run folder may come from anywhere. With `input_shape`
    the task's images get that shape.
    """
    groups = {group: node.pop(group) for group in GROUPS}
    for group, part in groups.items():
        if not isinstance(part, DictConfig) or "_target_" not in part:
            raise UserError(f"{conf_dir() / group / choices[group]}.yaml has no _target_, the class that it is about")
    run = Run(**check(Run, node, ""))
    notes: list[str] = []

    def make(group: str, base: type, **injected: Any) -> Any:
        return build(groups[group], group, base, given, trust, notes, **injected)

    optimizer: Optimizer = make("optimizer", Optimizer)
    if optimizer.anneals and optimizer.schedule_steps is None:
        optimizer = dataclasses.replace(optimizer, schedule_steps=run.steps)
    task: TaskDistribution = make("task", TaskDistribution)
    run = _each_task_once(run, task, given, notes)
    shown = task if input_shape is None else Adapted(task, input_shape)
    net: Net = make("model", Net, spec=shown.spec)
    algo: Algorithm = make("algo", Algorithm)
    if run.expect is not None:
        parse_expectation(run.expect, task.spec.metric, algo.test_steps)
    config = _plain(dataclasses.asdict(run))
    choices = dict(choices)
    for group, part in (("algo", algo), ("task", task), ("model", net), ("optimizer", optimizer)):
        if f"{group}._target_" in given:  # no longer the chosen yaml's
            choices[group] = (net.module_class if part is net and isinstance(net, ModuleNet) else type(part)).__name__
        config[group] = {"_target_": _path(type(part)), **_plain(_values(part, frozenset({"spec"})))}
    if isinstance(net, ModuleNet):
        config["model"] = {"_target_": _path(net.module_class), **net.arguments}
    return Job(run, algo, shown, net, optimizer, choices, config, notes, frozenset(given))


def _each_task_once(run: Run, task: TaskDistribution, given: set[str], notes: list[str]) -> Run:
    """The run with no more episodes than there are tasks, where those are counted. More on the command line is refused;
    a preset's number is one for tasks without end."""
    splits: dict[str, tuple[Split, str]] = {"test_episodes": ("test", "test"), "eval_episodes": ("val", "validation")}
    for key, (split, word) in splits.items():
        asked, there_are = getattr(run, key), task.number(split) if split in task.splits else None
        if there_are is None or asked <= there_are:
            continue
        if key in given:
            raise UserError(
                f"{key}={asked} is more than the {there_are} {word} tasks that there are, and each is scored once: "
                f"give {key}={there_are} or less"
            )
        fewer: Any = {key: there_are}
        run = dataclasses.replace(run, **fewer)
        notes.append(f"{key}={there_are}, not {asked}: there are no more {word} tasks, and each is scored once")
    return run


def build(
    node: DictConfig, group: str, base: type, given: set[str], trust: bool, notes: list[str], **injected: Any
) -> Any:
    """The object that a group of the configuration describes: `_target_` with the other keys as its fields."""
    target = str(node.pop("_target_"))
    cls = _import(target, group, trust)
    is_module = base is Net and isinstance(cls, type) and issubclass(cls, torch.nn.Module)
    if not is_module and not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        or_module = " or a torch.nn.Module" if base is Net else ""
        raise UserError(
            f"{group}._target_={target} must be a frozen dataclass that implements {_path(base)}{or_module}"
        )
    try:
        if f"{group}._target_" in given:
            defaults = _argument_defaults(cls) if is_module else _field_defaults(cls, frozenset(injected))
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
    default. The yaml that was chosen belongs to another class: its other keys are dropped, with a note."""
    kept: dict[str, Any] = {}
    lacking: list[str] = []
    own: list[str] = []
    plain: Any = OmegaConf.to_container(node)
    for key, value in plain.items():
        is_given = any(name == f"{group}.{key}" or name.startswith(f"{group}.{key}.") for name in given)
        if is_given or defaults.get(key) == MISSING:
            kept[key] = value
        elif key not in defaults:
            lacking.append(key)
        elif (default := _plain(defaults[key])) != value:
            own.append(f"{group}.{key}={default} (not {value})")
    if lacking:
        notes.append(f"{target} has no {', '.join(lacking)}: dropped from {group}")
    if own:
        notes.append(f"{target}'s own defaults stand: {', '.join(own)}")
    return OmegaConf.create(kept)


def _import(target: str, group: str, trust: bool) -> Any:
    module, _, name = target.rpartition(".")
    if not _is_ours(target):
        if not trust:
            raise UserError(
                f"the run's {group}._target_={target} is not part of metalearn, and importing it would run its code: "
                "give trust=true if you trust it"
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


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def check(cls: type, node: DictConfig, prefix: str, injected: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The fields of dataclass `cls` as this node gives them, of the right types. Raises UserError for any other key."""
    types = _field_types(cls, injected)
    # A factory for each, since a list cannot be a field's default.
    fields = [
        (name, types[name], dataclasses.field(default_factory=partial(copy, default)))
        for name, default in _field_defaults(cls, injected).items()
    ]
    schema = OmegaConf.structured(dataclasses.make_dataclass(cls.__name__, fields))
    unset = [str(key) for key in node if OmegaConf.is_missing(node, key)]
    for key, value in ((key, node[key]) for key in map(str, node) if key not in unset):
        if key not in types:
            hint = nearest(key, types, prefix)
            if not _is_ours(_path(cls)):
                hint += f"; a class's keys are the fields of its frozen dataclass: {key}: int = 1"
            raise UserError(f"{prefix}{key} is not a key of {cls.__name__}{hint}")
        if isinstance(value, bool) and str(value).lower() in getattr(types[key], "__members__", ()):
            value = str(value).lower()  # a word of an enum, which yaml takes for a truth value
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{prefix}{key}={value} must be {describe(types[key])}") from error
    missing = [name for name in types if name in unset or OmegaConf.is_missing(schema, name)]
    if missing:
        raise UserError(f"{prefix}{missing[0]} has no value: give {prefix}{missing[0]}=...")
    values = {name: OmegaConf.to_container(v) if OmegaConf.is_config(v := schema[name]) else v for name in types}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


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


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises UserError where this device has no such products: nothing is computed in another precision than asked."""
    if precision is Precision.tf32 and device.type == "cpu":
        raise UserError("precision=tf32 is for NVIDIA GPUs, and this device is the cpu: take precision=fp32")
    if precision in (Precision.tf32, Precision.bf16) and device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        if capability < (8, 0) and torch.version.hip is None:
            raise UserError(f"precision={precision.name} wants a GPU of 2020 (Ampere) or later, not {name}: take fp32")


def key_defaults(job: Job) -> dict[str, Any]:
    """What each key is where nobody sets it, by its whole name: in a run of a version without the key, that is what
    was done."""
    defaults = run_keys()
    for group, part in (("algo", job.algo), ("task", job.task), ("model", job.net), ("optimizer", job.optimizer)):
        if isinstance(part, ModuleNet):
            own = _argument_defaults(part.module_class)
        else:
            own = _field_defaults(type(part), frozenset({"spec"}))
        defaults |= {f"{group}.{key}": _plain(value) for key, value in own.items() if value != MISSING}
    return defaults


def gone_keys(config: dict[str, Any], groups: list[str], trust: bool) -> dict[str, Any]:
    """The keys in the configuration of a run that there are no longer, of those that belong to no group and of these
    groups."""
    known = {field.name for field in dataclasses.fields(Run)} | set(GROUPS)
    gone = {key: value for key, value in config.items() if key not in known}
    for group in groups:
        cls = _import(config[group]["_target_"], group, trust)
        if dataclasses.is_dataclass(cls):
            keys = {"_target_", *_field_types(cls, frozenset({"spec"}))}
            gone |= {f"{group}.{key}": value for key, value in config[group].items() if key not in keys}
    return gone


# The keys of a class are its fields; a field that is a dataclass itself stands for the fields of that one.


def _field_types(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
    types: dict[str, Any] = {}
    for name, hint in _fields(cls, injected).items():
        types |= _field_types(hint, frozenset()) if dataclasses.is_dataclass(hint) else {name: hint}
    return types


def _field_defaults(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
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
            defaults |= _field_defaults(hint, frozenset()) if default is MISSING else _values(default, frozenset())
    return defaults


def _values(part: Any, injected: frozenset[str]) -> dict[str, Any]:
    """The keys of an object with their values."""
    values: dict[str, Any] = {}
    for name, hint in _fields(type(part), injected).items():
        value = getattr(part, name)
        values |= _values(value, frozenset()) if dataclasses.is_dataclass(hint) else {name: value}
    return values


def _assemble(cls: Any, values: dict[str, Any], injected: dict[str, Any]) -> Any:
    """The object whose keys have these values."""
    arguments = dict(injected)
    for name, hint in _fields(cls, frozenset(injected)).items():
        arguments[name] = _assemble(hint, values, {}) if dataclasses.is_dataclass(hint) else values[name]
    return cls(**arguments)


def _fields(cls: Any, injected: frozenset[str]) -> dict[str, Any]:
    """The types of a class's own fields."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and f.name not in injected}


def _argument_defaults(module: type) -> dict[str, Any]:
    """The same for a module's constructor."""
    arguments = inspect.signature(module).parameters.values()
    return {p.name: MISSING if p.default is inspect.Parameter.empty else p.default for p in arguments}


def _plain(value: Any) -> Any:
    """Enums as their names, tuples as lists: what yaml and a later command line can read again."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
