"""`metalearn eval`: test a finished run again, or on another task."""

from pathlib import Path

from metalearn_cli.config import conf_folder
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.run_folder.config_file import check_folder, check_parts, load_config
from metalearn_cli.system.processes import is_one_of_several

# The keys that a test may change, besides those of the task.
KEYS = (
    *("task", "algo.test_steps", "device", "precision", "threads", "allocator", "tasks_per_chunk"),
    *("test_episodes", "episodes_seed"),
    *("batch_norm", "other_batch_norm", "expect", "trust"),
)

PLACE = 2
HELP = """\
Test a finished run again: more episodes, other tasks, your own pictures.

metalearn eval run=FOLDER [key=value ...]

  metalearn eval run=outputs/my-run test_episodes=1000        more episodes; the first 600 are the same
  metalearn eval run=outputs/my-run algo.test_steps=50        more inner steps
  metalearn eval run=outputs/my-run task.shot=5               other tasks of the same distribution
  metalearn eval run=outputs/my-run task=cifar_fs             another distribution; images get the run's size and
                                                              channels, and a sentence says so
  metalearn eval run=outputs/my-run task=image_folder task.root=DIR
                                                              your own pictures, prepared as `predict` prepares them
  metalearn eval run=outputs/my-run batch_norm=inductive      another mode as the headline

The run's own model and settings are used, except for the keys that you give (precision and device among them). Results
go to FOLDER/eval/<task>-<id>, which the last line names. The id is made from what is tested: the same command finds its
results again, and another command never overwrites them.
"""


def complete(words: list[str]) -> list[str]:
    if words[-1].startswith("-"):
        return ["--help "]
    tasks = conf_folder.list_choices("task")
    on_task = [key for choice in tasks for key in conf_folder.keys_in_yaml("task", choice)]
    return conf_folder.key_options(words[-1], ["run", *KEYS, *on_task])


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
    from metalearn_cli.config.overrides import check_group, check_value, compose_config, given_keys

    folders = [override.removeprefix("run=") for override in overrides if override.startswith("run=")]
    if not folders:
        raise UserError("eval needs the folder of a run: metalearn eval run=outputs/my-run")
    folder = Path(folders[-1])
    check_folder(folder)
    config = conf_folder.run_keys() | load_config(folder / "config.yaml")
    check_parts(folder / "config.yaml", config, conf_folder.GROUPS)
    keys = given_keys(overrides)
    for override in overrides:
        _check_key(override, config, "task._target_" in keys, "task" in keys)
    on_task = [override for override in overrides if override.lstrip("+").startswith(("task=", "task."))]
    if "task" in keys:
        check_group("task", compose_config(on_task)[0].task, on_task)
    of_another_task = on_task if {"task", "task._target_"} & keys else []
    for override in overrides:
        if override not in of_another_task and not override.startswith("run="):
            if "${" in override:
                raise UserError(f"{override}: an evaluation takes plain values, not references")
            check_value(override, config)


def _check_key(override: str, config: conf_folder.Config, has_own_class: bool, has_own_task: bool) -> None:
    """Raises UserError for a key that an evaluation cannot set."""
    key = override.partition("=")[0].lstrip("+")
    is_on_task = key.startswith("task.")
    if override.startswith("+") and not (has_own_class and is_on_task):
        raise UserError(f"{override}: give it without the +")
    known = conf_folder.flatten(config)
    settable = ["run", "task", *(name for name in known if name in KEYS or name.startswith("task."))]
    if key in settable or (is_on_task and (has_own_class or has_own_task)):
        return
    if key in (*known, *config, *conf_folder.PRESETS):
        raise UserError(f"{key} belongs to the training: eval can set {', '.join(KEYS)}, and the keys of the task")
    raise UserError(f"there is no key {key}{nearest(key, settable)}")
