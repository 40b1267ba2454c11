"""`metalearn eval`: test a finished run again, or on another task."""

from pathlib import Path
from typing import Any

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, flatten, key_options, keys_in_yaml, list_choices, run_keys
from metalearn_cli.config.fields import is_in_source, types_in_source
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.run_folder.config_file import check_folder, check_parts, load_config
from metalearn_cli.system.processes import is_one_of_several

# What may be set otherwise than the run has it; the keys of the task besides.
KEYS = (
    *("task", "algo.test_steps", "device", "precision", "threads", "allocator", "tasks_per_chunk"),
    *("test_episodes", "episodes_seed"),
    *("batch_norm", "other_batch_norm", "expect", "trust"),
)

HELP = """\
Test a finished run again: more episodes, other tasks, your own pictures.

metalearn eval run=FOLDER [key=value ...]

  metalearn eval run=outputs/my-run test_episodes=1000        more episodes; the first 600 are the same
  metalearn eval run=outputs/my-run algo.test_steps=50        more inner steps
  metalearn eval run=outputs/my-run task.shot=5               other tasks of the same distribution
  metalearn eval run=outputs/my-run task=cifar_fs             another distribution; images get the run's size and
                                                              channels, and what was done is said and recorded
  metalearn eval run=outputs/my-run task=image_folder task.root=DIR
                                                              your own pictures, prepared as `predict` prepares them
  metalearn eval run=outputs/my-run batch_norm=inductive      another headline; the others stand beside it

The run's own model and settings are used, but for keys that are given (precision and device among them). Results go to
FOLDER/eval/<task>-<id>, which the last line says; the id is made of what is tested: the same command finds its results
again, and another never overwrites them.
"""

FLAGS = ()


def complete(words: list[str]) -> list[str]:
    if words[-1].startswith("-"):
        return ["--help "]
    on_task = [key for choice in list_choices("task") for key in keys_in_yaml("task", choice)]
    return key_options(words[-1], ["run", *KEYS, *on_task])


def run(arguments: list[str]) -> int:
    if not is_one_of_several():  # several processes tell a mistake when they have met
        check_eval(arguments)

    from metalearn_cli.system.ranks import join
    from metalearn_cli.training.eval_job import load_eval_job
    from metalearn_cli.training.eval_run import eval_run
    from metalearn_cli.training.results_table import print_results

    with join() as ranks:
        if ranks.size > 1:
            check_eval(arguments)
        folder, job = load_eval_job(arguments)
        tested, results = eval_run(folder, job, arguments, ranks)
        return ranks.from_first(lambda: print_results(tested, results, job.run.expect))


def check_eval(overrides: list[str]) -> None:
    """Raises UserError for a folder that is not a run's, and for a key, type or range that is wrong: without torch."""
    from metalearn_cli.config.overrides import compose_task

    values = {override.partition("=")[0].lstrip("+"): override.partition("=")[2] for override in overrides}
    if "run" not in values:
        raise UserError("eval needs the folder of a run: metalearn eval run=outputs/my-run")
    folder = Path(values["run"])
    check_folder(folder)
    config = run_keys() | load_config(folder / "config.yaml")
    check_parts(folder / "config.yaml", config, GROUPS)
    has_own_class = "task._target_" in values
    for override in overrides:
        _check_key(override, config, has_own_class)
    others = [override for override in overrides if not override.startswith("run=")]
    if "task" in values:
        compose_task([override for override in others if _is_on_task(override)])
        others = [override for override in others if not _is_on_task(override)]
    for override in others:
        if "${" in override:
            raise UserError(f"{override}: an evaluation takes plain values, not references")
        if not (has_own_class and _is_on_task(override)):
            _check_value(override, config)


def _is_on_task(override: str) -> bool:
    return override.lstrip("+").startswith(("task=", "task."))


def _check_key(override: str, config: dict[str, Any], has_own_class: bool) -> None:
    """Raises UserError for a key that an evaluation cannot set."""
    key = override.partition("=")[0].lstrip("+")
    if override.startswith("+") and not (has_own_class and key.startswith("task.")):
        raise UserError(f"{override}: give it without the +")
    if key in (*KEYS, "run") or key.startswith("task."):
        return
    if key in (*flatten(config), *GROUPS, *PRESETS):
        raise UserError(f"{key} belongs to the training: eval can set {', '.join(KEYS)}, and the keys of the task")
    on_task = (f"task.{name}" for name in config["task"] if name != "_target_")
    raise UserError(f"there is no key {key}{nearest(key, [*KEYS, *on_task])}")


def _check_value(override: str, config: dict[str, Any]) -> None:
    """Raises UserError for a value that the run's own class cannot have, or a key that it does not have."""
    from metalearn_cli.config.overrides import check_value, parse_override

    key, value = parse_override(override)
    group, _, name = key.rpartition(".")
    if group and name not in config[group]:
        names = [name for name in map(str, config[group]) if name != "_target_"]
        raise UserError(f"the run's {group} has no key {name}{nearest(name, names, f'{group}.')}")
    owner = config[group]["_target_"] if group else "metalearn_cli.config.job.Run"
    types = types_in_source(owner, frozenset({"spec"})) if is_in_source(owner) else {}
    if name in types:
        check_value(key, value, types[name], owner)
