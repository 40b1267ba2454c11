"""From the command line to checked objects: Hydra composes conf/*.yaml, and the dataclasses are the schema.

The values stand in conf/, the types and ranges in the classes: each group of the configuration (`algo`, `task`,
`model`, `optimizer`) names its class in `_target_`, and its other keys are that class's fields.
"""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import MISSING, DictConfig

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.config.conf_folder import GROUPS, Paper, conf_dir, flatten, run_keys
from metalearn_cli.config.overrides import check_name, compose_run, given_twice, keys_of
from metalearn_cli.config.schema import (
    argument_defaults,
    build,
    check,
    field_defaults,
    field_types,
    import_class,
    path_of,
    plain,
    values_of,
)
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import parse_expectation
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.user_module import ModuleNet
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.device import Precision, check_threads
from metalearn_cli.system.measure import parse_memory
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.system.typed_json import from_json
from metalearn_cli.tasks.base import Draw, Split, TaskDistribution, draw_slice
from metalearn_cli.tasks.resized import Adapted


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
    memory: str | None  # a size, or "auto"
    logger: Logger | None
    expect: str | None
    trust: bool
    lock: bool
    paper: dict[str, Any] | None

    def __post_init__(self) -> None:
        for key in ("tasks_per_step", "test_episodes", "eval_episodes", "log_every", "save_every", "keep"):
            if getattr(self, key) < 1:
                raise UserError(f"{key}={getattr(self, key)} must be at least 1")
        check_threads(self.threads)
        chunk = self.tasks_per_chunk
        if chunk is not None and chunk != "auto" and (isinstance(chunk, str) or chunk < 1):
            raise UserError(f"tasks_per_chunk={chunk} must be a whole number from 1 on, auto or null")
        if self.memory not in (None, "auto"):
            parse_memory(self.memory)
        for key in ("steps", "seed", "episodes_seed", "eval_every"):
            if getattr(self, key) < 0:
                raise UserError(f"{key}={getattr(self, key)} must be 0 or above")
        if self.name is not None:
            check_name(self.name)
        try:
            _ = self.published
        except UserError:
            raise UserError("paper must have a mean and a source, e.g. paper={mean:0.9,source:mine}") from None

    @property
    def published(self) -> Paper | None:
        return None if self.paper is None else from_json(Paper, self.paper, Path("paper"))

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

    @property
    def headline(self) -> BatchNorm:
        """The batch-norm mode of the figure that is reported, and by which a checkpoint is chosen."""
        return self.run.batch_norm or self.algo.batch_norm

    @property
    def test_modes(self) -> list[BatchNorm]:
        """The batch-norm modes that a test scores, the headline first."""
        others = self.run.other_batch_norm if self.net.init_stats() else ()
        return [self.headline, *(mode for mode in others if mode is not self.headline)]

    @property
    def given_values(self) -> dict[str, Any]:
        """What the command line gave, by key: in a sweep, what was swept, and what is the same in all its jobs."""
        values = {**flatten(self.config), **self.choices}
        return {key: values[key] for key in sorted(self.given) if key in values and key != "name"}

    def training_draw(self, step: int, ranks: Ranks = ALONE) -> Draw:
        """This rank's tasks of meta-iteration `step`, counted from 0: the whole is a function of the seed and the step
        alone, and every rank draws it."""
        draw = self.task.draw(self.run.tasks_per_step, "train", generator(self.run.seed, "train", step))
        return draw_slice(draw, *ranks.share(self.run.tasks_per_step))


def load_job(overrides: list[str]) -> Job:
    """Compose, check and build. Raises UserError, before any data are touched."""
    return train_job(*compose_run(overrides), overrides)


def train_job(composed: DictConfig, choices: dict[str, str], overrides: list[str]) -> Job:
    """The job of a training with this configuration, which these overrides asked for."""
    given = keys_of(overrides)
    if "paper" not in given and any(key.partition(".")[0] in GROUPS for key in given):
        composed.paper = None  # the published figure belongs to the experiment as it stands
    elif composed.paper is not None:  # its other tests are made by `reproduce` alone
        composed.paper = {key: value for key, value in composed.paper.items() if key != "tests"}
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
    if optimizer.anneals and optimizer.schedule_steps is None and run.steps > 0:
        optimizer = dataclasses.replace(optimizer, schedule_steps=run.steps)
    task: TaskDistribution = make("task", TaskDistribution)
    run = _each_task_once(run, task, given, notes)
    shown = task if input_shape is None else Adapted(task, input_shape)
    net: Net = make("model", Net, spec=shown.spec)
    algo: Algorithm = make("algo", Algorithm)
    if run.expect is not None:
        parse_expectation(run.expect, task.spec.metric, algo.test_steps)
    config = plain(dataclasses.asdict(run))
    choices = dict(choices)
    for group, part in (("algo", algo), ("task", task), ("model", net), ("optimizer", optimizer)):
        if f"{group}._target_" in given:  # no longer the chosen yaml's
            choices[group] = (net.module_class if part is net and isinstance(net, ModuleNet) else type(part)).__name__
        config[group] = {"_target_": path_of(type(part)), **plain(values_of(part, frozenset({"spec"})))}
    if isinstance(net, ModuleNet):
        config["model"] = {"_target_": path_of(net.module_class), **net.arguments}
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


def key_defaults(job: Job) -> dict[str, Any]:
    """What each key is where nobody sets it, by its whole name: in a run of a version without the key, that is what
    was done."""
    defaults = run_keys()
    for group, part in (("algo", job.algo), ("task", job.task), ("model", job.net), ("optimizer", job.optimizer)):
        if isinstance(part, ModuleNet):
            own = argument_defaults(part.module_class)
        else:
            own = field_defaults(type(part), frozenset({"spec"}))
        defaults |= {f"{group}.{key}": plain(value) for key, value in own.items() if value != MISSING}
    return defaults


def gone_keys(config: dict[str, Any], groups: list[str], trust: bool) -> dict[str, Any]:
    """The keys in the configuration of a run that there are no longer, of those that belong to no group and of these
    groups."""
    known = {field.name for field in dataclasses.fields(Run)} | set(GROUPS)
    gone = {key: value for key, value in config.items() if key not in known}
    for group in groups:
        cls = import_class(config[group]["_target_"], group, trust)
        if dataclasses.is_dataclass(cls):
            keys = {"_target_", *field_types(cls, frozenset({"spec"}))}
            gone |= {f"{group}.{key}": value for key, value in config[group].items() if key not in keys}
    return gone
