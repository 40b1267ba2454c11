"""The job of `metalearn eval`: the configuration of a run, with the keys changed that a test may change."""

from copy import deepcopy
from pathlib import Path

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, Config, run_keys
from metalearn_cli.config.job import Job, build_task, make_job, removed_keys
from metalearn_cli.config.overrides import compose_config, given_twice, parse_override
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.config_file import check_folder, check_parts, load_config
from metalearn_cli.run_folder.environment import ENVIRONMENT, read_environment
from metalearn_cli.system.typed_json import to_json
from metalearn_cli.tasks.base import TaskDistribution
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.resized import can_adapt
from metalearn_cli.trained.loading import examples_in


def load_eval_job(overrides: list[str]) -> tuple[Path, Job]:
    """Check and build the job of an evaluation -> the folder of the run, and the job."""
    values = {_key(override): override.partition("=")[2] for override in overrides}
    run = Path(values.pop("run"))
    check_folder(run)
    own = load_config(run / "config.yaml")
    config = deepcopy(run_keys() | own)  # a run of a version without some key has its default
    check_parts(run / "config.yaml", config, GROUPS)
    # Only who gives the command decides whether foreign code runs, and never the folder.
    trust = "trust" in values and parse_override(f"trust={values['trust']}")[1] is True
    source = ConfigSource(frozenset(values), trust)
    kept = [group for group in GROUPS if group not in values and f"{group}._target_" not in values]
    if removed := removed_keys(config, kept, trust):
        raise UserError(f"{run} {runs.gone_keys(run, removed)}")
    choices = _choices(run)
    rest = [override for override in overrides if not override.startswith("run=")]
    on_task = [override for override in rest if _key(override) == "task" or _key(override).startswith("task.")]
    notes: list[str] = []
    if "task" in values:
        composed, chosen = compose_config(on_task)
        config["task"] = OmegaConf.to_container(composed.task)
        config["task"] |= _own_preparation(run, config["task"], set(values), trust)
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
    input_shape = None
    if on_task:
        trained_on = build_task(_where_it_stands_now(own["task"], config["task"]), ConfigSource(trust=trust))
        input_shape = _check_task(run, choices["task"], trained_on, build_task(config["task"], source))
    job = make_job(OmegaConf.create(config), choices, source, input_shape)
    if "task" in values and set(Preparation.KEYS) <= config["task"].keys():
        notes.append(str(job.task.preparation))
    return run, job._replace(notes=[*job.notes, *given_twice(overrides), *notes])


def _choices(run: Path) -> dict[str, str]:
    """Read which yaml the run chose in each group; the one of the task becomes the name of a folder."""
    choices = read_environment(run).choices
    if missing := [group for group in GROUPS if group not in choices]:
        raise UserError(f"{run / ENVIRONMENT} has no choices.{missing[0]}: it is not whole, or of another version")
    return choices


def _own_preparation(run: Path, task: Config, given: set[str], trust: bool) -> Config:
    """The keys by which the user's own pictures are prepared as those of the run were, without the keys that are
    given."""
    own = examples_in(run, load_config(run / "config.yaml"), trust).preparation
    if own is None or not set(Preparation.KEYS) <= task.keys():
        return {}
    return {key: value for key, value in to_json(own).items() if key in Preparation.KEYS and f"task.{key}" not in given}


def _where_it_stands_now(own: Config, other: Config) -> Config:
    """The run's own task. Where its folder is gone and the same task is asked for in another folder, it is in that
    one."""
    gone = own.get("root") is not None and not expand(own["root"]).exists()
    is_same = own["_target_"] == other["_target_"] and other.get("root") is not None
    return {**own, "root": other["root"]} if gone and is_same else own


def is_same_data(task: Config, own: Config) -> bool:
    """Whether two tasks differ in the sizes of their episodes at most."""
    return task.keys() == own.keys() and all(
        task[key] == own[key] for key in task if key not in Episodes.__dataclass_fields__
    )


def _check_task(run: Path, name: str, own: TaskDistribution, other: TaskDistribution) -> tuple[int, ...] | None:
    """Raises UserError where the task of the test has examples that the run's network cannot take, or classes that it
    has learned -> the shape that its images need to get; None: they have it."""
    (kind, shape), (own_kind, own_shape) = ((task.spec.kind, list(task.spec.input_shape)) for task in (other, own))
    is_same = (kind, shape) == (own_kind, own_shape)
    if not is_same and not (kind == own_kind and can_adapt(other.spec, own.spec.input_shape)):
        raise UserError(
            f"task={name} has {kind} of examples of shape {shape}, and the model of {run} takes {own_kind} of "
            f"{own_shape}: take a task like the run's"
        )
    if both := sorted(own.identities("train") & other.identities("test")):
        what = "classes" if other.task_count("test") is None else "tasks"
        raise UserError(
            f"{len(both)} of the {len(other.identities('test'))} {what} of this test were trained on by {run}, e.g. "
            f"{both[0]}: take the split that it was trained with"
        )
    return None if is_same else own.spec.input_shape


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")
