"""The job of `metalearn eval`: the configuration of a run, with the keys changed that a test may change."""

import dataclasses
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, Config, run_keys
from metalearn_cli.config.job import Job, make_job, removed_keys
from metalearn_cli.config.overrides import compose_config, given_twice, parse_override
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import build_task
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import config_file, environment, runs
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import TaskDistribution
from metalearn_cli.tasks.capabilities import identities, preparation_of, task_count
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.likelihood import ValuesLikelihood
from metalearn_cli.tasks.resized import can_resize
from metalearn_cli.trained.loading import examples_in


def load_eval_job(overrides: list[str]) -> tuple[Path, Job]:
    """Build the job of an evaluation, which `check_eval` has checked -> the folder of the run, and the job."""
    values = {_key(override): override.partition("=")[2] for override in overrides}
    run = Path(values.pop("run"))
    recorded = config_file.load_config(run / "config.yaml")
    config = deepcopy(run_keys() | recorded)  # a run of a version without some key has its default
    # The command alone decides whether foreign code runs, and never the folder.
    trust = "trust" in values and parse_override(f"trust={values['trust']}")[1] is True
    source = ConfigSource(frozenset(values), trust, run)
    kept = [group for group in GROUPS if group not in values and f"{group}._target_" not in values]
    if removed := removed_keys(config, kept, trust):
        raise UserError(f"{run} {runs.gone_keys(run, removed)}")
    choices = environment.read_environment(run).choices
    if missing := [group for group in GROUPS if group not in choices]:
        raise UserError(
            f"{run / environment.ENVIRONMENT} has no choices.{missing[0]}: it is damaged, or of another version"
        )
    rest = [override for override in overrides if not override.startswith("run=")]
    on_task = [override for override in rest if _key(override) == "task" or _key(override).startswith("task.")]
    notes: list[str] = []
    if "task" in values:
        composed, chosen = compose_config(on_task)
        config["task"] = OmegaConf.to_container(composed.task)
        config["task"] |= _run_preparation(run, config["task"], set(values), trust)
        kept_keys = [key for key in ValuesLikelihood.__dataclass_fields__ if f"task.{key}" not in values]
        config["task"] |= {
            key: recorded["task"][key] for key in kept_keys if key in config["task"].keys() & recorded["task"]
        }
        choices["task"] = chosen["task"]
        rest = [override for override in rest if override not in on_task]
        sizes = [f"{name} {config['task'][name]}" for name in ("way", "shot", "query") if name in config["task"]]
        notes = [f"tested {', '.join(sizes)}"] if sizes else []  # another task has sizes of its own
    for override in rest:
        key, value = parse_override(override)
        group, _, name = key.partition(".")
        (config[group] if name else config)[name or key] = value
    config |= {"compile": False, "cuda_graph": False, "memory": None, "logger": None}  # of a training
    config["expect"] = config["expect"] if "expect" in values else None
    config["paper"] = config["paper"] if not on_task and "batch_norm" not in values else None  # of another protocol
    input_shape, base = None, None
    if on_task:
        trained_on = build_task(_with_its_folder(recorded["task"], config["task"]), ConfigSource(trust=trust))
        input_shape = _check_task(run, choices["task"], trained_on, build_task(config["task"], source))
        base = trained_on.spec.base
    job = make_job(OmegaConf.create(config), choices, source, input_shape)
    if base is not None:  # the network has learned the classes of its training, and not those of this task
        net: Any = job.net
        job = job._replace(net=dataclasses.replace(net, spec=net.spec._replace(base=base)))
    if "task" in values and set(Preparation.KEYS) <= config["task"].keys():
        notes.append(str(preparation_of(job.task)))
    return run, job._replace(notes=[*job.notes, *given_twice(overrides), *notes])


def _run_preparation(run: Path, task: Config, named: set[str], trust: bool) -> Config:
    """The keys that prepare the user's pictures as those of the run were, without the keys that the command names."""
    preparation = examples_in(run, config_file.load_config(run / "config.yaml"), trust).preparation
    if preparation is None or not set(Preparation.KEYS) <= task.keys():
        return {}
    keys = [key for key in Preparation.KEYS if f"task.{key}" not in named]
    return {key: value for key, value in to_json(preparation).items() if key in keys}


def _with_its_folder(trained: Config, tested: Config) -> Config:
    """The task of the training; its data may have moved into the folder of the test, where that is the same task."""
    is_gone = trained.get("root") is not None and not expand(trained["root"]).exists()
    is_same = trained["_target_"] == tested["_target_"] and tested.get("root") is not None
    return {**trained, "root": tested["root"]} if is_gone and is_same else trained


def is_same_data(task: Config, other: Config) -> bool:
    """Tell whether two tasks differ in the sizes of their episodes at most."""
    return task.keys() == other.keys() and all(
        task[key] == other[key] for key in task if key not in Episodes.__dataclass_fields__
    )


def _check_task(run: Path, name: str, trained: TaskDistribution, tested: TaskDistribution) -> tuple[int, ...] | None:
    """Raises UserError where the task of the test has examples that the run's network cannot take, or classes that it
    has learned -> the shape that its images need to get; None: they have it."""
    spec, other = trained.spec, tested.spec
    is_same = (spec.kind, spec.input_shape) == (other.kind, other.input_shape)
    if spec.kind == other.kind and spec.likelihood != other.likelihood:
        raise UserError(
            f"task={name} has another task.likelihood, or another key of it, than the model of "
            f"{run} was trained with: take the run's"
        )
    if not is_same and not (spec.kind == other.kind and can_resize(other, spec.input_shape)):
        raise UserError(
            f"task={name} has {other.kind} of examples of shape {list(other.input_shape)}, and the model of {run} "
            f"takes {spec.kind} of {list(spec.input_shape)}: take a task like the run's"
        )
    if both := sorted(identities(trained, "train") & identities(tested, "test")):
        what = "classes" if task_count(tested, "test") is None else "tasks"
        raise UserError(
            f"{len(both)} of the {len(identities(tested, 'test'))} {what} of this test were trained on by {run}, e.g. "
            f"{both[0]}: take the split that it was trained with"
        )
    return None if is_same else spec.input_shape


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
