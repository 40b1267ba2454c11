"""From the command line to checked objects: Hydra composes the values in conf/, dataclasses have types and ranges."""

import dataclasses
from enum import Enum
from typing import Any, NamedTuple

import torch
from omegaconf import MISSING, DictConfig, OmegaConf

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.capabilities import batch_norm_at_test, images_in_batch, require_range, steps_at_test
from metalearn_cli.config import schema
from metalearn_cli.config.conf_folder import GROUPS, Config, conf_dir, flatten, run_keys
from metalearn_cli.config.overrides import compose_run, given_keys, given_twice
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import as_wanted, build_task, size_wanted, why_no_validation
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import parse_expectation
from metalearn_cli.nets.base import Net, with_spec
from metalearn_cli.nets.capabilities import backbone_of
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.device import Precision
from metalearn_cli.system.limits import Chunk, Count, Device, Memory, Name, Natural, PaperNode, Renames, Text, Threads
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import Draw, Split, TaskDistribution, draw_slice
from metalearn_cli.tasks.capabilities import draw_classes, span_of, task_count
from metalearn_cli.tasks.embedded import EmbeddedImages
from metalearn_cli.tasks.example_format import Weights, weights_of
from metalearn_cli.tasks.resized import ResizedImages


class Select(Enum):
    best = "best"  # the checkpoint with the best validation result
    last = "last"


class Logger(Enum):
    wandb = "wandb"  # Weights & Biases
    mlflow = "mlflow"


@dataclasses.dataclass(frozen=True)
class Run:
    """The keys that belong to no group; conf/config.yaml explains each and has its value."""

    name: Name | None
    init: Text | None
    init_names: Renames
    stages: tuple[dict[str, Any], ...]
    seed: Natural
    episodes_seed: Natural
    steps: Natural
    tasks_per_step: Count
    test_episodes: Count
    batch_norm: BatchNorm | None
    other_batch_norm: tuple[BatchNorm, ...]
    eval_every: Natural
    eval_episodes: Count
    select: Select
    log_every: Count
    save_every: Count
    keep: Count
    device: Device
    precision: Precision
    deterministic: bool
    threads: Threads | None
    allocator: Allocator
    compile: bool
    cuda_graph: bool
    tasks_per_chunk: Chunk | None
    memory: Memory | None
    logger: Logger | None
    expect: str | None
    trust: bool
    lock: bool
    paper: PaperNode | None

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.precision is Precision.fp64 else torch.float32


class Job(NamedTuple):
    """Everything that a run is made of, checked. At most a user's table has been read, or a user's folder listed."""

    run: Run
    algo: Algorithm
    task: TaskDistribution
    net: Net
    optimizer: Optimizer
    choices: dict[str, str]  # the chosen yaml of each group, e.g. {"algo": "maml", "experiment": "maml/sinusoid"}
    config: Config  # all of it as plain values, as it is written to config.yaml
    notes: list[str]  # what the user should know about how the command line was understood
    given_keys: frozenset[str] = frozenset()  # the keys that stand on the command line

    @property
    def headline(self) -> BatchNorm:
        """The batch-norm mode of the figure that is reported, and by which a checkpoint is chosen."""
        return self.run.batch_norm or batch_norm_at_test(self.algo, self.task.spec)

    @property
    def test_modes(self) -> list[BatchNorm]:
        """The batch-norm modes that a test scores, the headline first."""
        others = self.run.other_batch_norm if self.net.init_stats() else ()
        return [self.headline, *(mode for mode in others if mode is not self.headline)]

    @property
    def weights(self) -> Weights | None:
        """The network with weights that the model is made of."""
        backbone = backbone_of(self.net)
        return None if backbone is None else weights_of(backbone)

    @property
    def splits_used(self) -> tuple[Split, ...]:
        """The splits whose tasks this training draws, and its test."""
        training: tuple[Split, ...] = ("train", "val") if self.run.eval_every else ("train",)
        return (*training, "test") if self.run.steps else ("test",)

    @property
    def given_values(self) -> Config:
        """What the command line gave, by key: in a sweep, what was swept, and what is the same in all its jobs."""
        values = {**flatten(self.config), **self.choices}
        return {key: values[key] for key in sorted(self.given_keys) if key in values and key != "name"}

    def with_keys(self, **values: Any) -> "Job":
        """The job with other values of keys that belong to no group."""
        return self._replace(run=dataclasses.replace(self.run, **values), config=self.config | to_json(values))

    def training_draw(self, step: int, ranks: Ranks = ALONE) -> Draw:
        """This rank's tasks of meta-iteration `step`, counted from 0: a function of the seed and the step alone."""
        tasks, rng = self.run.tasks_per_step, generator(self.run.seed, "train", step)
        images = images_in_batch(self.algo, self.task.spec)
        draw = draw_classes(self.task, tasks, images, rng) if images else self.task.draw(tasks, "train", rng)
        return draw_slice(draw, *ranks.share(tasks))


def load_job(overrides: list[str]) -> Job:
    """Compose, check and build a job. Raises UserError before any data are touched."""
    return train_job(*compose_run(overrides), overrides)


def train_job(composed: DictConfig, choices: dict[str, str], overrides: list[str]) -> Job:
    """The job of a training with this configuration, for which these overrides asked."""
    keys = frozenset(given_keys(overrides))
    if "paper" not in keys and any(key.partition(".")[0] in GROUPS for key in keys):
        composed.paper = None  # the published figure belongs to the experiment as it stands
    elif composed.paper is not None:  # its other tests are made by `reproduce` alone
        composed.paper.pop("tests", None)
    source = ConfigSource(keys, trust=True)
    composed.task.update(size_wanted(composed, source))
    job = make_job(composed, choices, source)
    return with_validation(job._replace(notes=[*job.notes, *given_twice(overrides)]))


def with_validation(job: Job) -> Job:
    """The job of a training, without validations where its task cannot have them. Raises UserError where the command
    needs them."""
    reason = why_no_validation(job.task, job.choices["task"])
    if reason and job.run.select is Select.best:
        raise UserError(f"{reason}, by which select=best would choose: set select=last, or take a split that has them")
    if reason is None or job.run.eval_every == 0:
        return job
    if "eval_every" in job.given_keys:
        raise UserError(f"eval_every={job.run.eval_every} asks for validations, but {reason}: set eval_every=0")
    # A preset's interval is one for tasks that can be validated; select=last says that this run needs no validation.
    return job.with_keys(eval_every=0)._replace(notes=[*job.notes, f"no validation: {reason}"])


def make_job(
    node: DictConfig, choices: dict[str, str], source: ConfigSource, input_shape: tuple[int, ...] | None = None
) -> Job:
    """Check and build a whole configuration. With `input_shape` the images of the task get that shape."""
    for group in GROUPS:
        if not isinstance(node[group], DictConfig) or "_target_" not in node[group]:
            raise UserError(f"{conf_dir() / group / choices[group]}.yaml has no _target_, the class that it is about")
    keys = [str(key) for key in node if key not in GROUPS]
    run = Run(**schema.checked_fields(Run, OmegaConf.masked_copy(node, keys), ""))
    if run.init_names and run.init is None:
        raise UserError(
            f"init_names=[{','.join(run.init_names)}] renames what init has, and there is no init: give both"
        )
    optimizer: Optimizer = schema.build(node.optimizer, "optimizer", Optimizer, source)
    if optimizer.anneals and optimizer.schedule_steps is None and run.steps > 0:
        optimizer = dataclasses.replace(optimizer, schedule_steps=run.steps)
    task = build_task(node.task, source)
    run, notes = _cap_episodes_to_tasks(run, task, source.given_keys)
    shown = task if input_shape is None else ResizedImages(task, input_shape)
    net: Net = schema.build(node.model, "model", Net, source, shown.spec)
    if isinstance(net, Pretrained):
        shown = as_wanted(task, net)
        net = with_spec(net, shown.spec)
    algo: Algorithm = schema.build(node.algo, "algo", Algorithm, source)
    if run.expect is not None:
        parse_expectation(run.expect, task.spec.metric, steps_at_test(algo, task.spec))
    parts = {"algo": algo, "task": task, "model": net, "optimizer": optimizer}
    # A class that the command names is no longer the chosen yaml's.
    named = [group for group in GROUPS if f"{group}._target_" in source.given_keys]
    choices = choices | {group: schema.class_of(parts[group]).__name__ for group in named}
    config = to_json(dataclasses.asdict(run)) | {group: schema.described(part) for group, part in parts.items()}
    notes = [note for group in named for note in schema.note_on_defaults(node[group], group, source)] + notes
    job = Job(run, algo, shown, net, optimizer, choices, config, notes, source.given_keys)
    for mode in job.test_modes:
        algo.require_mode(mode)
    if (span := span_of(task)) is not None:
        require_range(algo, *span)
    if algo.needs_unlabelled and task.spec.kind == "classes" and not task.spec.unlabelled:
        raise UserError(
            f"algo={choices['algo']} learns from unlabelled examples too, and not all tasks have them: give "
            "task.unlabelled=5, a number of images of each class"
        )
    return job


def _cap_episodes_to_tasks(run: Run, task: TaskDistribution, given_keys: frozenset[str]) -> tuple[Run, list[str]]:
    """The run with no more episodes than there are tasks, where those are counted, and a sentence on each number that
    is another one now. More on the command line is refused; a preset's number is meant for tasks without end."""
    notes: list[str] = []
    splits: dict[str, tuple[Split, str]] = {"test_episodes": ("test", "test"), "eval_episodes": ("val", "validation")}
    for key, (split, word) in splits.items():
        asked, count = getattr(run, key), task_count(task, split) if split in task.splits else None
        if count is None or asked <= count:
            continue
        if key in given_keys:
            limit = f"more than the {count} {word} tasks that there are, and each is scored once"
            raise UserError(f"{key}={asked} is {limit}: give {key}={count} or less")
        run = dataclasses.replace(run, **{key: count})  # type: ignore[arg-type]
        notes.append(f"{key}={count}, not {asked}: there are no more {word} tasks, and each is scored once")
    return run, notes


def key_defaults(job: Job) -> Config:
    """The value of each key where nobody sets it, which a run of a version without the key had."""
    defaults = run_keys()
    task = job.task.task if isinstance(job.task, EmbeddedImages | ResizedImages) else job.task
    for group, part in (("algo", job.algo), ("task", task), ("model", job.net), ("optimizer", job.optimizer)):
        values = schema.default_keys(schema.class_of(part))
        defaults |= {f"{group}.{key}": to_json(value) for key, value in values.items() if value != MISSING}
    return defaults


def removed_keys(config: Config, groups: list[str], trust: bool) -> Config:
    """The keys in a run's configuration, of these groups or of none, that this version does not have."""
    known = {field.name for field in dataclasses.fields(Run)} | set(GROUPS)
    removed = {key: value for key, value in config.items() if key not in known}
    for group in groups:
        cls = schema.import_class(config[group]["_target_"], group, trust)
        if dataclasses.is_dataclass(cls):
            keys = {"_target_", *schema.field_types(cls)}
            removed |= {f"{group}.{key}": value for key, value in config[group].items() if key not in keys}
    return removed
