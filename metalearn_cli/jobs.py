"""What the commands do: one training in its run folder, one evaluation of a run, and how results are printed."""

import contextlib
import hashlib
import json
import shlex
import shutil
import traceback
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli import checkpoint, continued, runs, scored_parts
from metalearn_cli.catalog import EVAL_KEYS, GROUPS, PRESETS, flatten, run_keys
from metalearn_cli.checked import check_environment
from metalearn_cli.config import Job, gone_keys, key_defaults, make_job
from metalearn_cli.datasets.places import expand
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import Pruned, UserError
from metalearn_cli.files import refuse_link
from metalearn_cli.interrupt import Interrupt, Interrupted
from metalearn_cli.loop import new_mirror, test, train
from metalearn_cli.machine import new_learner, require_shares
from metalearn_cli.metrics import shortfall, steps_to_show
from metalearn_cli.mirror import check_installed
from metalearn_cli.mistakes import nearest
from metalearn_cli.overrides import compose_config, given_twice, parse_override
from metalearn_cli.parallel import ALONE, Ranks
from metalearn_cli.prepare import prepare
from metalearn_cli.progress import Console, show, tell
from metalearn_cli.pruning import Pruning
from metalearn_cli.schema import build
from metalearn_cli.stored import examples_in
from metalearn_cli.task_file import going_on, to_json, trained_on
from metalearn_cli.tasks.adapted import can_adapt
from metalearn_cli.tasks.base import TaskDistribution
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.tones import drawn, warnings
from metalearn_cli.text import printable


def train_run(
    job: Job, overrides: list[str], ranks: Ranks = ALONE, pruning: Pruning | None = None, number: int | None = None
) -> tuple[Path, dict[str, Any]]:
    """Train in the run's folder, or take the results of a run that is already finished -> folder, results. Raises
    Pruned where a search gives the run up. `number`: that of a job of a sweep."""
    begun = ranks.from_first(lambda: continued.begun(job.run.name))
    job = continued.as_begun(job, begun)
    # What is wrong with the device, the parts or the data is said before a folder is made.
    check_installed(job.run.logger.name if job.run.logger else None)
    require_shares(job, ranks)
    new_learner(job, ranks)
    fingerprint = _same_everywhere(job, ranks)
    notes = job.task.notes()  # read the data

    def new_folder() -> Path:
        folder = runs.folder_of(job.run.name, job.choices["algo"], job.choices["task"])
        folder.mkdir(parents=True, exist_ok=job.run.name is not None)
        return folder

    folder = ranks.from_first(new_folder)
    with _first_in(folder, job, ranks) as about, closing(_console(folder / "train.log", ranks, number)) as console:
        for note in job.notes:
            (console.say if number is None else console.note)(note)  # a sweep has said those of its jobs
        for note in [*notes, *about]:
            console.say_once(note)
        results = ranks.from_first(lambda: _begin(folder, job, overrides, fingerprint, console, ranks))
        if results is not None:
            return folder, results
        try:
            with Interrupt(ranks.agree, is_quiet=not ranks.is_first) as interrupt:
                with interrupt.leaving_at_once():
                    job = prepare(job, folder, console, ranks)
                results = train(new_learner(job, ranks), job, folder, console, interrupt, pruning)
        except Interrupted as signal:
            raise Interrupted(signal.code - 128, how_to_continue(folder, overrides, ranks)) from signal
        except Pruned as end:
            console.say(f"{folder} is {end}")
            raise
        except Exception as error:  # whoever called says it on the screen
            with contextlib.suppress(OSError):  # the disk may be full, which is what failed
                console.note(f"failed: {error if isinstance(error, UserError) else traceback.format_exc()}")
            raise
        console.note(f"results are in {folder}")
        return folder, results


def _begin(
    folder: Path, job: Job, overrides: list[str], fingerprint: str, console: Console, ranks: Ranks
) -> dict[str, Any] | None:
    """Check what the folder holds, and write down what will be done in it -> the results, where it is done already."""
    runs.check_same_data(folder, fingerprint)
    if (results := finished_results(folder, job, console)) is not None:
        console.say(f"{folder} is already finished, {job.run.steps} steps")
        shutil.rmtree(folder / scored_parts.FOLDER, ignore_errors=True)  # of a process that was killed as it finished
        with closing(new_mirror(folder, job, results, console, ranks)) as mirror:
            mirror.finish(results)
        return results
    for difference in runs.other_versions(folder, ranks.size):
        console.say(difference)
    runs.write_records(folder, job.config, overrides, job.choices, fingerprint, ranks.size)
    examples = trained_on(job.task)
    with contextlib.suppress(UserError):  # it is written anew, whatever has become of it
        examples = going_on(examples, runs.read_json(folder / "task.json"))
    runs.write_json(folder / "task.json", to_json(examples))
    classes = {str(split): job.task.class_names(split) for split in job.task.splits}
    if any(classes.values()):
        runs.write_json(folder / "classes.json", classes)
    return None


@contextlib.contextmanager
def _first_in(folder: Path, job: Job, ranks: Ranks) -> Iterator[list[str]]:
    """The run's folder taken by the first rank, and found to be this run's -> what nothing proves of it."""
    if not ranks.is_first:
        yield []
        return
    with runs.lock(folder, job.run.lock):
        runs.remove_temporary(folder)
        about = runs.check_written(folder)
        runs.check_same(folder, job.config, key_defaults(job), job.given)
        yield about


def _console(log: Path, ranks: Ranks, job: int | None = None) -> Console:
    return Console(log, job=job) if ranks.is_first else Console(is_silent=True)


def _same_everywhere(job: Job, ranks: Ranks) -> str:
    """The fingerprint of the data. Raises UserError where the ranks were given different commands or data."""
    fingerprint = job.task.fingerprint
    for what, own in (("configuration", json.dumps(job.config, sort_keys=True)), ("data", fingerprint)):
        each = ranks.gather(own)
        if others := [rank for rank in range(ranks.size) if each[rank] != each[0]]:
            raise UserError(
                f"rank {others[0]} of {ranks.size} has another {what} than rank 0: give all of them the same"
            )
    return fingerprint


def eval_run(run: Path, job: Job, overrides: list[str], ranks: Ranks = ALONE) -> tuple[Path, dict[str, Any]]:
    """Test the checkpoint that a run tested, with other episodes or on another task, in a folder of its own.

    The folder's name is made of what is tested, so that the same command finds its results again -> folder, results.
    """
    learner = new_learner(job, ranks)
    fingerprint = _same_everywhere(job, ranks)
    tested, about = ranks.from_first(lambda: _tested(run, job, fingerprint))
    notes = [*job.notes, *job.task.notes(), *about, *_unlike_the_training(run, job)]
    learner.load_state_dict(tested.tensors)
    what = {key: value for key, value in job.config.items() if key not in ("expect", "trust", "logger")}
    digest = hashlib.sha256(json.dumps([what, fingerprint, tested.step], sort_keys=True).encode()).hexdigest()
    folder = run / "eval" / f"{job.choices['task']}-{digest[:8]}"

    def new_folder() -> None:
        refuse_link(folder.parent)
        refuse_link(folder)
        folder.mkdir(parents=True, exist_ok=True)

    ranks.from_first(new_folder)
    locked = runs.lock(folder, job.run.lock) if ranks.is_first else contextlib.nullcontext()
    with locked, closing(_console(folder / "eval.log", ranks)) as console:
        for note in notes:
            console.say(note)
        results, changed = ranks.from_first(lambda: runs.read_results(folder, job.config))
        for sentence in changed:
            console.say(sentence)
        if results is not None:
            console.say(f"{folder} holds the results of this very evaluation: remove it to test once more")
            return folder, results
        try:
            if ranks.is_first:
                runs.write_json(folder / "choices.json", runs.choices(run))
                runs.write_records(folder, job.config, overrides, job.choices, fingerprint, ranks.size)
            with Interrupt(ranks.agree, is_quiet=not ranks.is_first) as interrupt:
                with interrupt.leaving_at_once():
                    job = prepare(job, folder, console, ranks)
                learner = new_learner(job, ranks)
                learner.load_state_dict(tested.tensors)
                results = test(learner, job, folder, tested.step, console, interrupt)
        except BaseException as failure:
            if isinstance(failure, Interrupted) and (folder / scored_parts.FOLDER).exists():
                again = shlex.join([*launcher(ranks), "eval", *overrides])
                raise Interrupted(failure.code - 128, f"saved a part of the test; continue with: {again}") from failure
            if ranks.is_first:
                shutil.rmtree(folder)  # an evaluation is whole, or its scored blocks wait, or it is not there
            raise
        console.note(f"results are in {folder}")
        return folder, results


def _unlike_the_training(run: Path, job: Job) -> list[str]:
    """What the user should know of their own pictures."""
    if not set(Preparation.KEYS) <= job.config["task"].keys():
        return []
    tones = examples_in(run, runs.load_config(run / "config.yaml"), job.run.trust).tones
    if tones is None:
        return []
    x = drawn(job.task, "test")
    return warnings(x, tones, "a sample of the test", [f"number {number}" for number in range(1, len(x) + 1)])


def _tested(run: Path, job: Job, fingerprint: str) -> tuple[checkpoint.Checkpoint, list[str]]:
    """The checkpoint that a run tested, or its newest, and what the user should know about that."""
    defaults = {key.removeprefix("task."): value for key, value in key_defaults(job).items() if key.startswith("task.")}
    if _same_data(job.config["task"], defaults | runs.load_config(run / "config.yaml")["task"]):
        runs.check_same_data(run, fingerprint)
    tested, skipped = runs.load_tested(run)
    if (run / "results.json").exists():
        return tested, skipped
    return tested, [*skipped, f"{run} is not finished: testing its step {tested.step} of {job.run.steps}"]


def load_eval_job(overrides: list[str]) -> tuple[Path, Job]:
    """The run's own configuration, with what may be set otherwise at a test."""
    given = {_key(override): override.partition("=")[2] for override in overrides}
    if "run" not in given:
        raise UserError("eval needs the folder of a run: metalearn eval run=outputs/my-run")
    run = Path(given.pop("run"))
    runs.check_folder(run)
    config = run_keys() | runs.load_config(run / "config.yaml")  # a run of a version without some key has its default
    runs.check_parts(run / "config.yaml", config, GROUPS)
    # Whether to run foreign code is the word of who gives the command, never of the folder.
    trust = "trust" in given and parse_override(f"trust={given['trust']}")[1] is True
    kept = [group for group in GROUPS if group not in given and f"{group}._target_" not in given]
    if gone := gone_keys(config, kept, trust):
        raise UserError(f"{run} {runs.gone_keys(run, gone)}")
    for override in overrides:
        _check_eval_key(override, config, has_own_task="task._target_" in given)
    records = _choices(run / "environment.json")
    rest = [override for override in overrides if not override.startswith("run=")]
    on_task = [override for override in rest if _key(override) == "task" or _key(override).startswith("task.")]
    if "task" in given:
        composed, choices = compose_config(on_task)
        config["task"] = OmegaConf.to_container(composed.task)
        config["task"] |= _own_preparation(run, config["task"], set(given), trust)
        records["task"] = choices["task"]
        rest = [override for override in rest if override not in on_task]
    for override in rest:
        _set(config, override, has_own_task="task._target_" in given)
    notes = [f"tested {_sizes(config['task'])}"] if _sizes(config["task"]) and "task" in given else []
    config |= {"compile": False, "cuda_graph": False, "memory": None, "logger": None}  # of a training
    config["expect"] = config["expect"] if "expect" in given else None
    config["paper"] = config["paper"] if not on_task and "batch_norm" not in given else None  # of another protocol
    input_shape = None
    if on_task:
        own = _where_it_stands_now(runs.load_config(run / "config.yaml")["task"], config["task"])
        both = _task(own, set(), trust), _task(config["task"], set(given), trust)
        input_shape = _check_task(run, records["task"], *both)
    job = make_job(OmegaConf.create(config), records, set(given), trust, input_shape)
    if "task" in given and set(Preparation.KEYS) <= config["task"].keys():
        notes.append(str(job.task.preparation))
    return run, job._replace(notes=[*job.notes, *given_twice(overrides), *notes])


def _choices(path: Path) -> dict[str, str]:
    """The chosen yaml of each group, as a run has recorded it; that of the task becomes the name of a folder."""
    environment = runs.read_json(path)
    check_environment(path, environment)
    choices: dict[str, str] = environment.get("choices", {})
    if missing := [group for group in GROUPS if group not in choices]:
        raise UserError(f"{path} has no choices.{missing[0]}: it is not whole, or of another version")
    return choices


def _sizes(task: dict[str, Any]) -> str:
    """Another task has its own sizes, not those of the run's."""
    return ", ".join(f"{name} {task[name]}" for name in ("way", "shot", "query") if name in task)


def _own_preparation(run: Path, task: dict[str, Any], given: set[str], trust: bool) -> dict[str, Any]:
    """The keys by which pictures of the user's own are prepared as the run's were, but for those that are given."""
    own = examples_in(run, runs.load_config(run / "config.yaml"), trust).preparation
    if own is None or not set(Preparation.KEYS) <= task.keys():
        return {}
    return {
        key: value for key, value in own.to_json().items() if key in Preparation.KEYS and f"task.{key}" not in given
    }


def _task(node: dict[str, Any], given: set[str], trust: bool) -> TaskDistribution:
    task: TaskDistribution = build(OmegaConf.create(node), "task", TaskDistribution, given, trust, [])
    return task


def _where_it_stands_now(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The run's own task: where its folder is gone and the same task is asked for in another folder, in that one."""
    gone = own.get("root") is not None and not expand(own["root"]).exists()
    is_same = own["_target_"] == other["_target_"] and other.get("root") is not None
    return {**own, "root": other["root"]} if gone and is_same else own


def _same_data(task: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether two tasks differ in the sizes of their episodes at most."""
    return task.keys() == own.keys() and all(
        task[key] == own[key] for key in task if key not in Episodes.__dataclass_fields__
    )


def _check_task(run: Path, name: str, own: TaskDistribution, other: TaskDistribution) -> tuple[int, ...] | None:
    """Raises UserError where another task than the run's own has examples that its network cannot take, or classes that
    it learned -> the shape that the task's images must get; None: they have it."""
    (kind, shape), (own_kind, own_shape) = ((task.spec.kind, list(task.spec.input_shape)) for task in (other, own))
    is_same = (kind, shape) == (own_kind, own_shape)
    if not is_same and not (kind == own_kind and can_adapt(other.spec, own.spec.input_shape)):
        raise UserError(
            f"task={name} has {kind} of examples of shape {shape}, and the model of {run} takes {own_kind} of "
            f"{own_shape}: take a task like the run's"
        )
    if both := sorted(own.classes("train") & other.classes("test")):
        what = "classes" if other.number("test") is None else "tasks"
        raise UserError(
            f"{len(both)} of the {len(other.classes('test'))} {what} of this test were trained on by {run}, e.g. "
            f"{both[0]}: take the split that it was trained with"
        )
    return None if is_same else own.spec.input_shape


def _check_eval_key(override: str, config: dict[str, Any], has_own_task: bool) -> None:
    """Raises UserError for a key that an evaluation cannot set."""
    key = _key(override)
    if override.startswith("+") and not (has_own_task and key.startswith("task.")):
        raise UserError(f"{override}: give it without the +")
    if key in (*EVAL_KEYS, "run") or key.startswith("task."):
        return
    if key in (*flatten(config), *GROUPS, *PRESETS):
        raise UserError(f"{key} belongs to the training: eval can set {', '.join(EVAL_KEYS)}, and the keys of the task")
    on_task = (f"task.{name}" for name in config["task"] if name != "_target_")
    raise UserError(f"there is no key {key}{nearest(key, [*EVAL_KEYS, *on_task])}")


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _set(config: dict[str, Any], override: str, has_own_task: bool) -> None:
    """key=value in the configuration of a run, which has the key."""
    key, value = parse_override(override)
    if "${" in override:
        raise UserError(f"{override}: an evaluation takes plain values, not references")
    group, _, rest = key.partition(".")
    if rest and rest not in config[group] and not has_own_task:
        names = [name for name in map(str, config[group]) if name != "_target_"]
        raise UserError(f"the run's {group} has no key {rest}{nearest(rest, names, f'{group}.')}")
    (config[group] if rest else config)[rest or key] = value


def finished_results(folder: Path, job: Job, console: Console) -> dict[str, Any] | None:
    """The results of a run that has been tested after these steps, and as the job asks; where it was tested otherwise,
    a sentence says so."""
    results, changed = runs.read_results(folder, job.config)
    for sentence in changed:
        console.say(sentence)
    if results is None or results["steps"] != job.run.steps:
        return None
    asked = {
        "select": (job.run.select.name, results["select"]),
        "test_episodes": (job.run.test_episodes, results["episodes"]),
        "other_batch_norm": (_listed(mode.name for mode in job.test_modes[1:]), _listed(results["other_batch_norm"])),
    }
    other = [f"{key}={now} (it was {then})" for key, (now, then) in asked.items() if now != then]
    if other:
        console.say(f"{folder} is tested again, with {', '.join(other)}")
    return None if other else results


def _listed(modes: Iterable[str]) -> str:
    return f"[{','.join(sorted(modes))}]"


def how_to_continue(folder: Path, overrides: list[str], ranks: Ranks = ALONE) -> str:
    """What was saved, and the command that goes on from it."""
    paths = checkpoint.list_newest_first(folder / "checkpoints")
    saved = f"saved step {checkpoint.step_of(paths[0])}" if paths else "nothing was trained yet"
    if (folder / scored_parts.FOLDER).exists():
        saved += " and a part of its test"
    rest = [override for override in overrides if not override.startswith("name=")]
    command = shlex.join([*launcher(ranks), "train", *rest, f"name={folder.relative_to(runs.OUTPUTS)}"])
    return f"{saved}; continue with: {command}"


def launcher(ranks: Ranks) -> list[str]:
    """How as many ranks are started; on several machines the user adds where they meet."""
    if ranks.size == 1:
        return ["metalearn"]
    machines = [f"--nnodes={ranks.size // ranks.local_size}"] if ranks.size > ranks.local_size else []
    return ["torchrun", *machines, f"--nproc-per-node={ranks.local_size}", "-m", "metalearn_cli"]


def print_config(job: Job) -> int:
    print(OmegaConf.to_yaml(OmegaConf.create(job.config)), end="")
    return 0


def print_results(folder: Path, results: dict[str, Any], expect: str | None) -> int:
    """The test as a table: inner steps, then the other batch-norm modes, the paper's figure, the folder.

    Returns the exit code: 3 where the test falls short of `expect`.
    """
    percent = results["metric"] == "accuracy"
    mode = f", batch norm {results['batch_norm']}" if results["batch_norm"] else ""
    lines: list[str] = []
    lines.append(f"test {results['metric']}{' in %' if percent else ''} over {results['episodes']} episodes{mode}")
    per_step = results["per_step"]
    adapts = len(per_step) > 1 or per_step[0]["diverged"] > 0  # what takes no inner steps does not diverge by them
    lines.append(f"{'inner steps  ' * adapts}{'mean':>9}  {'+- 95%':>8}  {'median':>9}{'  diverged' * adapts}")
    for row in (per_step[step] for step in steps_to_show(len(per_step) - 1)):  # results.json has them all
        mean, ci95, median = (number(row[key], percent) for key in ("mean", "ci95", "median"))
        step, diverged = (f"{row['step']:>11}  ", f"  {row['diverged']:>8.2%}") if adapts else ("", "")
        lines.append(f"{step}{mean:>9}  {ci95:>8}  {median:>9}{diverged}")
    for other, row in results["other_batch_norm"].items():
        mean, ci95 = number(row["mean"], percent), number(row["ci95"], percent)
        lines.append(f"with batch norm {other}{', after the last step' * adapts}: {mean} +- {ci95}")
    if baselines := results.get("baselines"):  # classes have none, nor have runs of before
        figures = {name: [number(row[key], percent) for key in ("mean", "ci95")] for name, row in baselines.items()}
        lines.append(", ".join(f"{name}: {mean} +- {ci95}" for name, (mean, ci95) in figures.items()))
    if results["learned"]:
        lines.append("learned: " + ", ".join(f"{name} {value:.4g}" for name, value in results["learned"].items()))
    if (paper := results["paper"]) is not None:
        ci95 = f" +- {number(paper['ci95'], percent)}" if paper.get("ci95") is not None else ""
        step = f" after {paper['step']} inner step(s)" if paper.get("step") is not None else ""
        lines.append(f"published{step}: {number(paper['mean'], percent)}{ci95} ({paper['source']})")
    lines.append(f"results are in {folder}")
    show("\n".join(map(printable, lines)))
    if (short := shortfall(expect, results)) is None:
        return 0
    tell(f"metalearn: {short}")
    return 3


def number(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4g}"
