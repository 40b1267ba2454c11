"""`metalearn reproduce`: train and test a paper's row, and say how what comes of it stands to what was published.

A row is a preset of conf/experiment that names a published figure. Its runs are outputs/reproduce/NAME/seed=N, which an
interrupted command continues. Each becomes a line of outputs/reproduce/results.jsonl, or of another file that is named.
"""

import dataclasses
import json
import math
import re
import shlex
from collections.abc import Iterable
from contextlib import closing
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from metalearn_cli.config import conf_folder
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.config.overrides import keys_of
from metalearn_cli.errors import UserError
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.scores import after, number
from metalearn_cli.papers.verdict import OWN, Published, figures, mean_of, measured, provenance, published, verdict
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.series import Damage, each_line
from metalearn_cli.system.console import Console, tell
from metalearn_cli.system.files import Log, write_durably
from metalearn_cli.system.measure import timed
from metalearn_cli.training.run import train_run
from metalearn_cli.tuning.prepare import prepare

# What a user may give besides: where and how fast a row is computed. All else would make it another row.
KEYS = (
    *("device", "threads", "allocator", "deterministic", "compile", "cuda_graph", "tasks_per_chunk", "memory"),
    *("task.root", "other_batch_norm", "save_every", "lock"),
)

_TIMED = 20  # steps, after two that warm up
_VALIDATIONS = 10  # of a run that a budget cuts short, where the preset has more
_OF_VALIDATION = 16  # episodes that are timed


def reproduce(names: list[str], seeds: list[int], budget: float | None, overrides: list[str], path: Path) -> str:
    """Train and test each row with each seed, or take what an earlier command made of it -> what to show."""
    known = conf_folder.published()
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))} names a seed twice: give each once")
    for name in names:
        if name not in known:
            raise UserError(
                f"{name} is no row with a published figure{_near(name, known)} (reproduce --list names them)"
            )
    for key in sorted(keys_of(overrides)):
        if key not in KEYS:
            raise UserError(f"{key} would make another row of it: reproduce takes {', '.join(KEYS)}")
    if path.parent != OWN.parent and not path.parent.is_dir():
        raise UserError(f"results={path}: there is no folder {path.parent}: make it first")
    measured(path)  # what is wrong with the file is said now, not when a row is trained
    shown = []
    for name in names:
        lines = [_train(name, known[name], seed, budget, overrides) for seed in seeds]
        _append(lines, path)
        shown.append(_shown(name, known[name], seeds, lines, path))
    return "\n\n".join(shown)


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


def _shown(name: str, paper: dict[str, Any], seeds: list[int], lines: list[dict[str, Any]], path: Path) -> str:
    """What came of a row, by its seeds' lines, beside what was published."""
    first, percent = lines[0], lines[0]["metric"] == "accuracy"
    means, unit = [line["mean"] for line in lines], " %" if percent else ""
    ours = mean_of(means)
    shown = f"{number(ours, percent)} +- {number(first['ci95'], percent)}{unit}"
    if len(seeds) > 1:
        shown += f", the mean of seeds {', '.join(map(str, seeds))}: {', '.join(number(m, percent) for m in means)}"
    mode = f", batch norm {first['batch_norm']}" if first["batch_norm"] else ""
    interval = f" +- {number(paper['ci95'], percent)}" if paper.get("ci95") is not None else ""
    others = [
        f"{mode} {number(mean, percent)} +- {number(ci95, percent)}" for mode, (mean, ci95) in first["others"].items()
    ]
    test = f"{first['metric']}{after(first['inner_steps'])}, over {first['episodes']} episodes{mode}"
    fields = {
        "paper": f"{number(paper['mean'], percent)}{interval}{unit} ({paper['source']})",
        "ours": f"{shown} ({test}; seed {seeds[0]}'s interval)",
        "median": number(first["median"], percent),
        "diverged": f"{max(line['diverged'] for line in lines):.2%}" if first["inner_steps"] else "",
        "beside": ", ".join(others),
        "length": f"{first['length']}, {first['minutes']:.1f} minutes of training on {first['device']}",
        "command": first["command"],
        "verdict": verdict(Published(paper["mean"], paper.get("ci95")), means, first["ci95"], percent, first["length"]),
        "in": str(path),
    }
    return "\n".join([name, *(f"  {key:<8} {value}" for key, value in fields.items() if value)])


def _train(name: str, paper: dict[str, Any], seed: int, budget: float | None, overrides: list[str]) -> dict[str, Any]:
    """One seed of a row -> its line."""
    suffix = f"-{duration(budget)}" if budget else ""
    given = [f"experiment={name}", f"seed={seed}", *overrides, f"name=reproduce/{name}{suffix}/seed={seed}"]
    whole = load_job(given).run.steps
    if budget:
        given[1:1] = _kept_steps(runs.OUTPUTS / "reproduce" / f"{name}{suffix}") or fit_budget(load_job(given), budget)
    job = load_job(given)
    # task.root, or a budget's keys, leave the row what it is.
    job = job._replace(run=dataclasses.replace(job.run, paper=paper), config={**job.config, "paper": paper})
    folder, results = train_run(job, given)
    steps = results.steps  # of a run that was begun under another preset, that one's
    is_short = steps < whole or "short run" in paper["source"]
    length = f"{steps:,} of {whole:,} steps" if steps < whole else f"{steps:,} steps"
    return {
        "row": name,
        "seed": seed,
        "command": shlex.join(["metalearn", "train", *given]),
        "length": f"short run: {length}" if is_short else length,
        "source": paper["source"],
        "date": str(date.today()),
        **provenance(folder),
        "test": "",
        "cell": f"reproduce {duration(budget)}" if budget else "reproduce",
        "published": published(paper, results.metric == "accuracy"),
        **figures(results, paper.get("step"), None),
        "inner_steps": results.per_step[-1 if paper.get("step") is None else paper["step"]].step,
    }


def fit_budget(job: Job, seconds: float) -> list[str]:
    """How many steps fit, by timing some here -> the keys that make the run so long. Its final test comes on top."""
    console = Console()
    job = prepare(job, None, console)
    learner = new_learner(job)

    def step(at: int) -> None:
        learner.step(job.task.gather(job.training_draw(at), learner.device), at)

    timed(learner.device, 2, step)
    _, of_step = timed(learner.device, _TIMED, lambda at: step(2 + at))
    validations, of_validation = 0, 0.0
    if job.run.eval_every:
        validations = min(_VALIDATIONS, max(job.run.steps // job.run.eval_every, 1))
        modes, number = [job.headline], min(_OF_VALIDATION, job.run.eval_episodes)
        _, once = timed(
            learner.device, 1, lambda _: evaluate(learner, job.task, "val", number, 0, modes, lambda done: None)
        )
        of_validation = once * job.run.eval_episodes / number
    steps = min(int((seconds - validations * of_validation) / of_step), job.run.steps)
    if steps < max(validations, 1):
        least = validations * of_validation + max(validations, 1) * of_step
        raise UserError(
            f"--budget {duration(seconds)} is too short for this row here: give {math.ceil(least)}s or more"
        )
    console.say(
        f"{_TIMED} steps took {of_step * _TIMED:.3g} s, a validation takes {of_validation:.3g} s: "
        f"{steps:,} of {job.run.steps:,} steps and {validations} validations fit into {duration(seconds)}"
    )
    return _length(steps, steps // validations if validations else 0, min(job.run.log_every, -(-steps // 10)))


def _kept_steps(folder: Path) -> list[str]:
    """The length that an earlier command chose for this row and budget, whatever the seed."""
    for path in sorted(folder.glob("seed=*/config.yaml")):
        config = runs.load_config(path)
        return _length(config["steps"], config["eval_every"], config["log_every"])
    return []


def _length(steps: int, eval_every: int, log_every: int) -> list[str]:
    return [f"steps={steps}", f"log_every={log_every}", *([f"eval_every={eval_every}"] if eval_every else [])]


def _append(lines: list[dict[str, Any]], path: Path) -> None:
    """Add what is not there yet."""
    # The day of another look at the same run is no news, nor is a key that lines of before do not have.
    there = [{**line, "date": None, "inner_steps": None} for line in measured(path)]
    _ = list(each_line(path, damage := Damage()))
    if damage.cut is not None:
        tell(f"{damage.cut}, by a process that was killed: it is removed")
        write_durably(path, b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with closing(Log(path)) as file:
        for line in lines:
            if {**line, "date": None, "inner_steps": None} not in there:
                file.write(json.dumps(line, allow_nan=False) + "\n")


_UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_budget(text: str) -> float:
    """30m -> 1800 seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or float(found[1]) == 0:
        raise UserError(f"--budget {text} must be a time, e.g. 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def duration(seconds: float) -> str:
    """1800 -> 30m."""
    for unit in ("h", "m"):
        if seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{seconds:g}s"
