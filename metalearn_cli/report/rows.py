"""What a run was and what came of it: the rows of the table and of results.csv, and the warnings beside them."""

from collections import defaultdict
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from metalearn_cli.compare.comparison import unbeaten_by
from metalearn_cli.compare.groups import Part
from metalearn_cli.compare.statistics import paired
from metalearn_cli.config.conf_folder import conf_dir, list_choices
from metalearn_cli.learning.scores import after_steps, text_of
from metalearn_cli.run_folder.read import RunFolder, stage_seconds
from metalearn_cli.run_folder.series import training_seconds
from metalearn_cli.tasks.metrics import METRICS

COLUMNS = (
    *("name", "algo", "task", "way", "shot", "steps", "seed", "metric", "mean", "ci95", "median", "diverged"),
    *("batch_norm", "episodes", "episodes_sha256", "tested_step", "minutes", "published", "git_commit", "git_dirty"),
    *("inner_steps", "state", "steps_done", "failed", "transductive_head"),
)

SHOWN = {  # the headings for a person, and the column under each
    **{"run": "name", "metric": "metric", "mean": "mean", "± 95%": "ci95", "median": "median", "diverged": "diverged"},
    **{"seed": "seed", "algo": "algo", "task": "task", "way/shot": "size", "steps": "steps"},
    **{"batch norm": "batch_norm", "minutes": "minutes"},
}
ALIGN = "llrrrrrllrrlr"

TableRow = dict[str, Any]  # a value for each of COLUMNS, None where there is none; and of how many `runs` it is


def table_rows(parts: list[Part], failed: dict[str, str]) -> list[TableRow]:
    """Make a row for each run, once; after the seeds of a configuration, where all are tested, one for their mean; and
    one for each job that failed before it had a configuration, with its sentence."""
    rows: dict[Any, TableRow] = {}
    for part in parts:
        seeds = [_run_row(run) for run in part.runs]
        for run, row in zip(part.runs, seeds, strict=True):
            rows.setdefault(run.folder.resolve(), row)
        if len(seeds) > 1 and all(row["mean"] is not None for row in seeds):
            rows[part.name] = _seeds_row(part.name, seeds)
    for job, sentence in failed.items():
        rows[job] = {**dict.fromkeys(COLUMNS), "runs": 1, "name": job, "state": "failed", "failed": sentence}
    return list(rows.values())


def _run_row(run: RunFolder) -> TableRow:
    """The raw figures of a run, accuracies in 0..1."""
    results, choices, unfinished = run.results, run.environment.choices, run.unfinished
    seconds = training_seconds(run.timing)
    keys = ("metric", "mean", "ci95", "median", "batch_norm", "episodes", "episodes_sha256", "transductive_head")
    return {
        "runs": 1,
        "name": str(run.folder),
        "algo": (results and results.algo) or choices.get("algo"),
        "task": (results and results.task) or choices.get("task"),
        **{key: run.config.get(f"task.{key}") for key in ("way", "shot")},
        **{key: run.config.get(key) for key in ("steps", "seed")},
        **{key: getattr(results, key, None) for key in keys},
        "diverged": results.last.diverged if results else None,
        "inner_steps": results.last.step if results else None,
        "tested_step": results.step if results else None,
        "published": results.published.mean if results and results.published else None,
        "minutes": None if seconds is None else (seconds + stage_seconds(run.folder)) / 60,
        **{key: getattr(run.environment, key) for key in ("git_commit", "git_dirty")},
        "state": unfinished.state if unfinished else "finished",
        "steps_done": unfinished.step if unfinished else getattr(results, "step", None),
        "failed": unfinished.failed if unfinished else None,
    }


def _seeds_row(name: str, rows: list[TableRow]) -> TableRow:
    """The mean over the seeds of one configuration, with the interval over seeds."""
    over_seeds = paired(np.array([row["mean"] for row in rows]))
    minutes = [row["minutes"] for row in rows]
    return {
        **{key: value if all(row[key] == value for row in rows) else None for key, value in rows[0].items()},
        **{"runs": len(rows), "name": f"{name}, mean over {len(rows)} seeds"},
        "seed": ",".join(str(row["seed"]) for row in rows),
        **{"mean": over_seeds.mean, "ci95": over_seeds.half, "median": None},
        "diverged": float(np.mean([row["diverged"] for row in rows])),
        "minutes": None if None in minutes else sum(minutes),
    }


def cells(row: TableRow) -> list[str]:
    """Write a row for a person: accuracies in percent, way and shot together."""
    metric, diverged = str(row["metric"]), row["diverged"]
    texts = {name: "" if value is None else str(value) for name, value in row.items()}
    texts |= {key: text_of(row[key], metric) for key in ("mean", "ci95", "median") if row[key] is not None}
    if row["metric"] is None:
        texts["metric"] = row["state"] + ("" if row["steps_done"] is None else f", step {row['steps_done']:,}")
    else:
        texts["metric"] = f"{metric}{', %' if METRICS[metric].unit else ''}{after_steps(row['inner_steps'])}"
        texts["mean"] = texts["mean"] or "not finite"
    heads = "transductive head" * bool(row["transductive_head"])
    texts["batch_norm"] = ", ".join(filter(None, (texts["batch_norm"], heads)))
    has_share = diverged or (row["inner_steps"] and diverged is not None)
    texts["diverged"] = f"{diverged:.2%}" if has_share else ""
    texts["minutes"] = "" if row["minutes"] is None else f"{row['minutes']:.2g}"
    texts["size"] = "/".join(filter(None, (texts["way"], texts["shot"])))
    return [texts[column] for column in SHOWN.values()]


def warnings_of(runs: list[RunFolder]) -> list[str]:
    """A sentence for each reason why the figures say less than they seem to, with the runs that it is about."""
    hashes, about = defaultdict[tuple[str | None, str], set[str]](set), defaultdict[str, list[str]](list)
    for run in runs:
        if (results := run.results) is None:
            continue
        hashes[results.task, results.metric].add(results.episodes_sha256)
        name, choices, share, steps = (
            str(run.folder),
            run.environment.choices,
            results.last.diverged,
            run.config["steps"],
        )
        if share:
            sentence = "some test tasks diverged; they stand in the mean, so look at the median too"
            about[sentence].append(f"{name} ({share:.2%})")
        if results.mean is None:
            about["the mean is not finite"].append(name)
        if results.batch_norm == "transductive":
            about["transductive batch norm: the query examples of a task help to classify each other"].append(name)
        if results.transductive_head:
            about["a transductive head: the query examples of a task help to classify each other"].append(name)
        if run.environment.git_dirty:
            about["the source had changes that were not committed"].append(name)
        if results.config is None:
            sentence = "made by a version that kept no hashes: nothing proves that the files are as it wrote them"
            about[sentence].append(name)
        if words := unbeaten_by(run):
            about[f"on the same episodes nothing shows that it is better than {words}"].append(name)
        if (debug := choices.get("debug")) is not None:
            about[f"debug={debug} is a first look, not a result"].append(name)
        if (full := _published_steps(run)) is not None and steps < full:
            about[f"a short run, where {choices['experiment']} has {full} steps"].append(f"{name} ({steps})")
    sentences = [
        f"the runs on {task} were tested on {len(sets)} different sets of episodes: their means do not compare"
        for (task, _), sets in hashes.items()
        if len(sets) > 1
    ]
    for sentence, names in about.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        sentences.append(f"{sentence}: {', '.join(names[:4])}{more}")
    return [*sentences, *(sentence for run in runs for sentence in _about_files(run))]


def _about_files(run: RunFolder, most: int = 5) -> list[str]:
    """Say how an unfinished run goes on, and name the first parts of a run's files that are left out."""
    sentences = [f"{sentence}: left out" if " line " in sentence else sentence for sentence in run.damage[:most]]
    if len(run.damage) > most:
        sentences.append(f"{run.folder} has {len(run.damage) - most} more such places")
    if run.unfinished is not None:
        tested = "tested after {:,} steps, which the figures are of, and was given more: "
        begun = tested.format(run.results.steps) if run.results else ""
        sentences.append(f"{run.folder}: {begun}{run.unfinished.sentence}")
    return sentences


def _published_steps(run: RunFolder) -> int | None:
    """The steps of the experiment that a run began with."""
    experiment = run.environment.choices.get("experiment")
    if experiment not in list_choices("experiment"):
        return None
    steps = OmegaConf.select(OmegaConf.load(conf_dir() / "experiment" / f"{experiment}.yaml"), "steps")
    return steps if isinstance(steps, int) else None
