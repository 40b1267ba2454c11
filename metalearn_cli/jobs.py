"""What the commands do: one training in its run folder, one evaluation of a run, and how results are printed."""

import secrets
import shlex
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli import checkpoint, runs
from metalearn_cli.catalog import GROUPS, flatten
from metalearn_cli.config import Job, compose_config, make_job, parse_override
from metalearn_cli.errors import UserError
from metalearn_cli.interrupt import Interrupt, Interrupted
from metalearn_cli.loop import new_learner, prepare, test, train
from metalearn_cli.metrics import parse_expectation
from metalearn_cli.progress import Console

# What an evaluation may set otherwise than the run that it evaluates; `task` and its keys besides.
_EVAL_KEYS = (
    *("device", "threads", "tasks_per_chunk", "test_episodes", "episodes_seed", "batch_norm", "other_batch_norm"),
    *("expect", "trust"),
)


def train_run(job: Job, overrides: list[str]) -> dict[str, Any]:
    """Train in the run's folder, or take the results of a run that is already finished."""
    # What is wrong with the device, the parts or the data is said before a folder is made.
    learner = new_learner(job)
    fingerprint = job.task.fingerprint
    folder = runs.folder_of(job.run.name, job.choices["algo"], job.choices["task"])
    folder.mkdir(parents=True, exist_ok=job.run.name is not None)
    with runs.lock(folder, job.run.lock):
        runs.remove_temporary(folder)
        runs.check_same(folder, job.config)
        with closing(Console(folder / "train.log")) as console:
            for note in job.notes:
                console.say(note)
            results = finished_results(folder, job)
            if results is not None:
                console.say(f"{folder} is already finished, {job.run.steps} steps")
                return results
            for difference in runs.other_versions(folder):
                console.say(difference)
            runs.write_records(folder, job.config, overrides, job.choices, fingerprint)
            try:
                with Interrupt() as interrupt:
                    results = train(learner, job, folder, console, interrupt)
            except Interrupted as signal:
                raise Interrupted(signal.code - 128, how_to_continue(folder, overrides)) from signal
            except Exception as error:
                console.say(f"failed: {error}")
                raise
            console.say(f"results are in {folder}")
            return results


def eval_run(run: Path, job: Job, overrides: list[str]) -> dict[str, Any]:
    """Test the checkpoint that a run tested, with other episodes or on another task, in a new folder of its own."""
    learner = new_learner(job)
    fingerprint = job.task.fingerprint
    checkpoints = run / "checkpoints"
    notes = list(job.notes)
    if (run / "results.json").exists():
        tested = checkpoint.load_step(checkpoints, runs.read_json(run / "results.json")["step"])
    else:
        newest, skipped = checkpoint.load_newest(checkpoints)
        if newest is None:
            raise UserError(f"{run} has no checkpoint yet: train it first")
        tested = newest
        notes += [f"skipping {damage}" for damage in skipped]
        notes.append(f"{run} is not finished: testing its step {tested.step} of {job.run.steps}")
    learner.load_state_dict(tested.tensors)
    folder = run / "eval" / f"{job.choices['task']}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    with closing(Console(folder / "eval.log")) as console:
        for note in notes:
            console.say(note)
        if (run / "choices.json").exists():
            runs.write_json(folder / "choices.json", runs.read_json(run / "choices.json"))
        runs.write_records(folder, job.config, overrides, job.choices, fingerprint)
        prepare(job, folder, console, learner.device)
        headline = job.run.batch_norm or job.algo.batch_norm
        try:
            with Interrupt() as interrupt:
                results = test(learner, job, folder, tested.step, headline, console, interrupt)
        except BaseException:
            shutil.rmtree(folder)  # an evaluation is whole or not there
            raise
        console.say(f"results are in {folder}")
        return results


def load_eval_job(overrides: list[str]) -> tuple[Path, Job]:
    """The run's own configuration, with what may be set otherwise at a test."""
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    if "run" not in given:
        raise UserError("eval needs the folder of a run: metalearn eval run=outputs/my-run")
    run = Path(given.pop("run"))
    if not (run / "config.yaml").is_file():
        raise UserError(f"run={run} is not the folder of a run: there is no config.yaml in it")
    config = runs.load_config(run / "config.yaml")
    missing = [key for key in (*GROUPS, "expect", "trust", "paper") if key not in config]
    if missing:
        raise UserError(f"{run / 'config.yaml'} has no {missing[0]}: it is not whole, or of another version")
    for key in given:
        if not (key in _EVAL_KEYS or key == "task" or key.startswith("task.") or key == "algo.test_steps"):
            raise UserError(
                f"{key} belongs to the training: eval can set task, task.*, algo.test_steps, {', '.join(_EVAL_KEYS)}"
            )
    references = [key for key, value in flatten(config).items() if "${" in str(value)]
    if references:
        raise UserError(f"{references[0]} in {run / 'config.yaml'} is a reference, which no run writes: mend the file")
    records = runs.read_json(run / "environment.json").get("choices", {})
    rest = [override for override in overrides if not override.startswith("run=")]
    on_task = [override for override in rest if _key(override) == "task" or _key(override).startswith("task.")]
    if "task" in given:
        composed, choices = compose_config(on_task)
        config["task"] = OmegaConf.to_container(composed.task)
        records["task"] = choices["task"]
        rest = [override for override in rest if override not in on_task]
    for override in rest:
        _set(config, override)
    config["expect"] = config["expect"] if "expect" in given else None
    config["paper"] = config["paper"] if not on_task and "batch_norm" not in given else None  # of another protocol
    # Whether to run foreign code is the word of who gives the command, never of the folder.
    trust = bool(config["trust"]) if "trust" in given else False
    return run, make_job(OmegaConf.create(config), records, set(given), trust)


def _key(override: str) -> str:
    return override.partition("=")[0]


def _set(config: dict[str, Any], override: str) -> None:
    """key=value in the configuration of a run, which has the key."""
    key, value = parse_override(override)
    if "${" in override:
        raise UserError(f"{override}: an evaluation takes plain values, not references")
    group, _, rest = key.partition(".")
    if rest and rest not in config[group]:
        raise UserError(f"the run's {group} has no key {rest}; it has {', '.join(map(str, config[group]))}")
    (config[group] if rest else config)[rest or key] = value


def finished_results(folder: Path, job: Job) -> dict[str, Any] | None:
    """The results of a run that has been tested after these steps, and by this choice of the checkpoint."""
    path = folder / "results.json"
    results = runs.read_json(path) if path.exists() else None
    if results is not None and (results["steps"], results["select"]) == (job.run.steps, job.run.select.name):
        return results
    return None


def how_to_continue(folder: Path, overrides: list[str]) -> str:
    """What was saved, and the command that goes on from it."""
    paths = checkpoint.list_newest_first(folder / "checkpoints")
    saved = f"saved step {checkpoint.step_of(paths[0])}" if paths else "nothing was trained yet"
    rest = [override for override in overrides if not override.startswith("name=")]
    command = shlex.join(["metalearn", "train", *rest, f"name={folder.relative_to(runs.OUTPUTS)}"])
    return f"{saved}; continue with: {command}"


def print_config(job: Job) -> int:
    print(OmegaConf.to_yaml(OmegaConf.create(job.config)), end="")
    return 0


def print_results(results: dict[str, Any], expect: str | None) -> int:
    """The test as a table: one line per inner step, then the other batch-norm modes and the paper's figure.

    Returns the exit code: 3 where the test falls short of `expect`.
    """
    percent = results["metric"] == "accuracy"
    mode = f", batch norm {results['batch_norm']}" if results["batch_norm"] else ""
    print(f"test {results['metric']}{' in %' if percent else ''} over {results['episodes']} episodes{mode}")
    print(f"{'inner steps':>11}  {'mean':>9}  {'+- 95%':>8}  {'median':>9}  {'diverged':>8}")
    for row in results["per_step"]:
        mean, ci95, median = (number(row[key], percent) for key in ("mean", "ci95", "median"))
        print(f"{row['step']:>11}  {mean:>9}  {ci95:>8}  {median:>9}  {row['diverged']:>8.2%}")
    for other, row in results["other_batch_norm"].items():
        mean, ci95 = number(row["mean"], percent), number(row["ci95"], percent)
        print(f"with batch norm {other}, after the last step: {mean} +- {ci95}")
    if (paper := results["paper"]) is not None:
        ci95 = f" +- {number(paper['ci95'], percent)}" if paper.get("ci95") is not None else ""
        step = f" after {paper['step']} inner step(s)" if paper.get("step") is not None else ""
        print(f"published{step}: {number(paper['mean'], percent)}{ci95} ({paper['source']})")
    if expect is None or parse_expectation(expect, results["metric"], len(results["per_step"]) - 1).met(results):
        return 0
    print(f"metalearn: the test falls short of expect={expect!r}", file=sys.stderr)
    return 3


def number(value: float | None, percent: bool) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2f}" if percent else f"{value:.4g}"
