"""What a run was and what came of it: the rows of the table and of results.csv, and the warnings beside them."""

from typing import Any

import numpy as np
from omegaconf import OmegaConf

from metalearn_cli.compare.groups import Part
from metalearn_cli.compare.statistics import paired
from metalearn_cli.config.conf_folder import conf_dir, list_choices
from metalearn_cli.learning.scores import after, figure
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.series import training_seconds
from metalearn_cli.system import text

COLUMNS = (
    *("name", "algo", "task", "way", "shot", "steps", "seed", "metric", "mean", "ci95", "median", "diverged"),
    *("batch_norm", "episodes", "episodes_sha256", "tested_step", "minutes", "published", "git_commit", "git_dirty"),
    *("inner_steps", "state", "steps_done", "failed"),
)


TableRow = dict[str, Any]  # a value for each of COLUMNS


def run_row(run: RunFolder) -> TableRow:
    """The raw figures of a run, accuracies in 0..1; None where there is none."""
    results, choices = run.results, run.environment.choices
    published = results.published if results else None
    keys = ("metric", "mean", "ci95", "median", "batch_norm", "episodes", "episodes_sha256")
    figures = {key: getattr(results, key, None) for key in keys}
    return {
        "name": str(run.folder),
        "algo": (results and results.algo) or choices.get("algo"),
        "task": (results and results.task) or choices.get("task"),
        "way": run.config.get("task.way"),
        "shot": run.config.get("task.shot"),
        "steps": run.config.get("steps"),
        "seed": run.config.get("seed"),
        **figures,
        "diverged": results.last.diverged if results else None,
        "tested_step": results.step if results else None,
        "minutes": minutes(run),
        "published": published.mean if published else None,
        "git_commit": run.environment.git_commit,
        "git_dirty": run.environment.git_dirty,
        "inner_steps": results.last.step if results else None,
        "state": run.unfinished.state if run.unfinished else "finished",
        "steps_done": run.unfinished.step if run.unfinished else getattr(results, "step", None),
        "failed": run.unfinished.failed if run.unfinished else None,
    }


def failed_row(job: str, sentence: str) -> TableRow:
    """The row of a job that failed before it had a configuration."""
    return {**dict.fromkeys(COLUMNS), "name": job, "state": "failed", "failed": sentence}


def minutes(run: RunFolder) -> float | None:
    """The minutes that the training took."""
    seconds = training_seconds(run.timing)
    return None if seconds is None else seconds / 60


def rows_as_csv(rows: list[TableRow]) -> str:
    return text.as_csv([COLUMNS, *([row[name] for name in COLUMNS] for row in rows)])


def cells(row: TableRow) -> list[str]:
    """A row for a person: accuracies in percent, way and shot together."""
    metric, diverged = str(row["metric"]), row["diverged"]
    texts = {name: "" if value is None else str(value) for name, value in row.items()}
    done = "" if row["steps_done"] is None else f", step {row['steps_done']:,}"
    mean, ci95, median = ("" if row[key] is None else figure(row[key], metric) for key in ("mean", "ci95", "median"))
    if row["metric"] is None:
        state = f"{row['state']}{done}"
    else:
        state = f"{metric}{', %' if metric == 'accuracy' else ''}{after(row['inner_steps'])}"
        mean = mean or "not finite"
    return [
        *(texts["name"], state, mean, ci95, median),
        f"{diverged:.2%}" if diverged or (row["inner_steps"] and diverged is not None) else "",
        *(texts["seed"], texts["algo"], texts["task"], "/".join(filter(None, (texts["way"], texts["shot"])))),
        *(texts["steps"], texts["batch_norm"], "" if row["minutes"] is None else f"{row['minutes']:.2g}"),
    ]


HEADER = [
    *("run", "metric", "mean", "± 95%", "median", "diverged", "seed", "algo", "task", "way/shot", "steps"),
    *("batch norm", "minutes"),
]
ALIGN = "llrrrrrllrrlr"


def seeds_row(part: Part) -> TableRow | None:
    """A row for the seeds of one configuration, with the interval over seeds; None where there is one seed, or a run is
    not finished."""
    rows = [run_row(run) for run in part.runs]
    if len(rows) < 2 or any(one["mean"] is None for one in rows):
        return None
    found = paired(np.array([one["mean"] for one in rows]))
    same = {key: rows[0][key] if all(one[key] == rows[0][key] for one in rows) else None for key in COLUMNS}
    diverged, taken = ([one[key] for one in rows] for key in ("diverged", "minutes"))
    return {
        **same,
        "name": f"{part.name}, mean over {len(rows)} seeds",
        "seed": ",".join(str(one["seed"]) for one in rows),
        **{"mean": found.mean, "ci95": found.half, "median": None},
        "diverged": float(np.mean(diverged)),
        "minutes": None if None in taken else sum(taken),
    }


def warnings_of(every: list[RunFolder]) -> list[str]:
    """A sentence for each reason why the figures say less than they seem to, with the runs that it is about."""
    about: dict[str, list[str]] = {}
    for run in every:
        name, results, choices = str(run.folder), run.results, run.environment.choices
        if results is None:
            continue
        if share := results.last.diverged:
            sentence = "some test tasks diverged; they stand in the mean, so look at the median too"
            about.setdefault(sentence, []).append(f"{name} ({share:.2%})")
        if results.mean is None:
            about.setdefault("the mean is not finite", []).append(name)
        if results.batch_norm == "transductive":
            sentence = "transductive batch norm: the query examples of a task help to classify each other"
            about.setdefault(sentence, []).append(name)
        if run.environment.git_dirty:
            about.setdefault("the source had changes that were not committed", []).append(name)
        if results.config is None:
            sentence = "made by a version that kept no hashes: nothing proves that the files are as it wrote them"
            about.setdefault(sentence, []).append(name)
        if (debug := choices.get("debug")) is not None:
            about.setdefault(f"debug={debug} is a first look, not a result", []).append(name)
        if (full := published_steps(run)) is not None and run.config["steps"] < full:
            sentence = f"a short run, where {choices['experiment']} has {full} steps"
            about.setdefault(sentence, []).append(f"{name} ({run.config['steps']})")
    hashes: dict[tuple[Any, ...], set[str]] = {}
    for run in every:
        if run.results is not None:
            key = run.results.task, run.results.metric
            hashes.setdefault(key, set()).add(run.results.episodes_sha256)
    said = [
        f"the runs on {task} were tested on {len(found)} different sets of episodes: their means do not compare"
        for (task, _), found in hashes.items()
        if len(found) > 1
    ]
    said += [f"{sentence}: {_some(names)}" for sentence, names in about.items()]
    return said + _unfinished(every) + _damage(every)


def _unfinished(every: list[RunFolder]) -> list[str]:
    """A sentence on each run that has steps to go or was not tested: how far it is, and how it goes on."""
    said = []
    for run in every:
        if (left := run.unfinished) is None:
            continue
        if run.results is not None:
            tested = f"tested after {run.results.steps:,} steps, which the figures are of, and was given more: "
        else:
            tested = ""
        said.append(f"{run.folder}: {tested}{left.sentence}")
    return said


def _damage(every: list[RunFolder], most: int = 5) -> list[str]:
    """What is left out of the runs' files, line by line; only the first of many lines."""
    said = []
    for run in every:
        said += [f"{sentence}: left out" if " line " in sentence else sentence for sentence in run.damage[:most]]
        said += [f"{run.folder} has {len(run.damage) - most} more such places"] * (len(run.damage) > most)
    return said


def _some(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def published_steps(run: RunFolder) -> int | None:
    """The steps of the experiment that a run began with."""
    experiment = run.environment.choices.get("experiment")
    if experiment is None or experiment not in list_choices("experiment"):
        return None
    steps = OmegaConf.select(OmegaConf.load(conf_dir() / "experiment" / f"{experiment}.yaml"), "steps")
    return steps if isinstance(steps, int) else None
