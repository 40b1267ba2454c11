"""`metalearn reproduce`: train and test a paper's row, and compare its figures with those that were published.

A row is a preset of conf/experiment that names a published figure, and in `paper.tests` its other published figures.
Its runs are outputs/reproduce/NAME/seed=N, which an interrupted command continues. Each test becomes a line of
outputs/reproduce/results.jsonl, or of another file that is named.
"""

import dataclasses
import json
import math
import shlex
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.config import conf_folder
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.scores import after_steps, text_of, with_interval
from metalearn_cli.papers.verdict import RowResult, mean_of, read_measured, verdict
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.environment import read_environment
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.series import drop_half_line, read_timing, training_seconds
from metalearn_cli.system.console import Console, tell
from metalearn_cli.system.files import Log
from metalearn_cli.system.limits import SECONDS
from metalearn_cli.system.measure import timed
from metalearn_cli.system.typed_json import Json
from metalearn_cli.tasks.metrics import METRICS
from metalearn_cli.training.eval_job import load_eval_job
from metalearn_cli.training.eval_run import eval_run
from metalearn_cli.training.run import train_run
from metalearn_cli.tuning.prepare import prepare

_TIMED = 20  # steps, after two that warm up
_VALIDATIONS = 10  # of a run that a budget cuts short, where the preset has more
_OF_VALIDATION = 16  # episodes that are timed
_LENGTH = ("steps", "log_every", "eval_every")  # the keys that a budget sets


class Cell(NamedTuple):
    """One published figure of a row, and the test that it is of."""

    mean: float
    ci95: float | None = None
    step: int | None = None  # how many inner steps it is after; None: the last
    key: str = ""  # what `metalearn eval` is given, e.g. task.shot=10; "": the training's own test
    batch_norm: str | None = None  # the mode, where it is not the headline's

    @property
    def label(self) -> str:
        return self.key or self.batch_norm or f"step {self.step}"


class Row(NamedTuple):
    """A preset with its published figures, and what it is trained with here."""

    name: str
    source: str
    cells: list[Cell]  # the first is the headline
    budget: float | None  # seconds of training
    overrides: list[str]

    @property
    def label(self) -> str:
        return f"reproduce {duration(self.budget)}" if self.budget else "reproduce"

    @property
    def folder(self) -> str:
        """The place of its runs in outputs/."""
        return f"reproduce/{self.name}" + (f"-{duration(self.budget)}" if self.budget else "")


def reproduce(names: list[str], seeds: list[int], budget: float | None, overrides: list[str], path: Path) -> str:
    """Train and test each row with each seed, or take the results of an earlier command -> the text to show."""
    published = conf_folder.published_papers()
    read_measured(path)  # a damaged file is told now, not when a row is trained
    shown = []
    for name in names:
        paper = published[name]
        headline = Cell(paper["mean"], paper.get("ci95"), paper.get("step"))
        cells = [headline, *(Cell(**cell) for cell in paper.get("tests", []))]
        row = Row(name, paper["source"], cells, budget, overrides)
        by_seed = [_train(row, seed) for seed in seeds]
        _append([result for results in by_seed for result in results], path)
        shown += [_shown(results, path) for results in zip(*by_seed, strict=True)]
    return "\n\n".join(shown)


def _shown(seeds: tuple[RowResult, ...], path: Path) -> str:
    """Write the results of one test of a row beside what was published."""
    first, means = seeds[0], [seed.mean for seed in seeds]
    metric, unit = first.metric, " %" if METRICS[first.metric].unit else ""
    ours = f"{with_interval(mean_of(means), first.ci95, metric)}{unit}"
    if len(seeds) > 1:
        numbers = ", ".join(str(seed.seed) for seed in seeds)
        ours += f", the mean of seeds {numbers}: {', '.join(text_of(mean, metric) for mean in means)}"
    mode = f", batch norm {first.batch_norm}" if first.batch_norm else ""
    test = f"{metric}{after_steps(first.inner_steps)}, over {first.episodes} episodes{mode}"
    fields = {
        "paper": f"{first.published}{unit} ({first.source})",
        "ours": f"{ours} ({test}; seed {first.seed}'s interval)",
        "median": text_of(first.median, metric),
        "diverged": f"{max(seed.diverged for seed in seeds):.2%}" if first.inner_steps else "",
        "beside": ", ".join(f"{mode} {with_interval(*other, metric)}" for mode, other in first.others.items()),
        "length": f"{first.length}, {first.minutes:.1f} minutes of training on {first.device}",
        "command": "; ".join(filter(None, (first.command, first.test))),
        "verdict": verdict(list(seeds)),
        "in": str(path),
    }
    title = first.row + "".join(f", {label}" for label in first.cell.split(", ")[1:])
    return "\n".join([title, *(f"  {key:<8} {value}" for key, value in fields.items() if value)])


def _train(row: Row, seed: int) -> list[RowResult]:
    """Train and test one seed of a row -> the line of each test."""
    arguments = [f"experiment={row.name}", f"seed={seed}", *row.overrides, f"name={row.folder}/seed={seed}"]
    whole = load_job(arguments).run.steps
    if row.budget:
        kept = _kept_steps(runs.OUTPUTS / row.folder)
        arguments[1:1] = kept or fit_budget(load_job(arguments), row.budget)
    job, headline = load_job(arguments), row.cells[0]
    # task.root, or a budget's keys, leave the row what it is.
    paper = {"mean": headline.mean, "ci95": headline.ci95, "step": headline.step, "source": row.source}
    job = job._replace(run=dataclasses.replace(job.run, paper=paper), config={**job.config, "paper": paper})
    folder, results = train_run(job, arguments)
    steps = results.steps  # where a run was begun under another preset, that one's
    made = read_environment(folder)
    commit, timing = made.git_commit, read_timing(folder / "timing.jsonl")
    if timing.damage:
        raise UserError(f"{timing.damage[0]}: mend or remove the line")
    length = f"{steps:,} of {whole:,} steps" if steps < whole else f"{steps:,} steps"
    about: Json = {
        **{"row": row.name, "seed": seed, "source": row.source, "steps": steps, "date": str(date.today())},
        "command": shlex.join(["metalearn", "train", *arguments]),
        "length": f"short run: {length}" if steps < whole or "short run" in row.source else length,
        "minutes": round((training_seconds(timing) or 0.0) / 60, 1),
        "commit": commit[:7] + "+" * bool(made.git_dirty) if commit else f"metalearn {made.metalearn}",
        "torch": made.torch,
        "device": made.gpu or made.processor,
    }
    lines = []
    for cell in row.cells:
        command = [f"run={folder}", cell.key]
        tested = eval_run(*load_eval_job(command), command)[1] if cell.key else results
        label = row.label if cell is headline else f"{row.label}, {cell.label}"
        test = shlex.join(["metalearn", "eval", *command]) if cell.key else ""
        lines.append(RowResult(**about, cell=label, test=test, **_figures(tested, cell)))
    return lines


def _figures(results: Results, cell: Cell) -> Json:
    """Take from a test's results what stands beside a published figure."""
    at_step, mode = results.per_step[-1 if cell.step is None else cell.step], cell.batch_norm
    figures = at_step if mode in (None, results.batch_norm) else results.other_batch_norm[mode]
    others = results.other_batch_norm if mode is None else {}
    return {
        **{"mean": figures.mean, "ci95": figures.ci95, "median": figures.median},
        "others": {mode: (other.mean, other.ci95) for mode, other in others.items()},
        "diverged": at_step.diverged,
        "inner_steps": at_step.step,
        "metric": results.metric,
        "batch_norm": mode or results.batch_norm,
        "episodes": results.episodes,
        "episodes_sha256": results.episodes_sha256[:16],
        "published": with_interval(cell.mean, cell.ci95, results.metric),
    }


def fit_budget(job: Job, seconds: float) -> list[str]:
    """Time some steps here -> the keys of a run that is as long as fits. Its final test comes on top."""
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
        _, once = timed(learner.device, 1, lambda _: evaluate(learner, job.task, EpisodeRange("val", number, 0), modes))
        of_validation = once * job.run.eval_episodes / number
    steps = min(int((seconds - validations * of_validation) / of_step), job.run.steps)
    if steps < max(validations, 1):
        least = math.ceil(validations * of_validation + max(validations, 1) * of_step)
        raise UserError(f"--budget {duration(seconds)} is too short for this row here: give {least}s or more")
    console.say(
        f"{_TIMED} steps took {of_step * _TIMED:.3g} s, a validation takes {of_validation:.3g} s: "
        f"{steps:,} of {job.run.steps:,} steps and {validations} validations fit into {duration(seconds)}"
    )
    length = (steps, min(job.run.log_every, math.ceil(steps / 10)), steps // validations if validations else 0)
    return [f"{key}={value}" for key, value in zip(_LENGTH, length, strict=True)]


def _kept_steps(folder: Path) -> list[str]:
    """Find the length that an earlier command chose for this row and budget, with any seed."""
    for path in sorted(folder.glob("seed=*/config.yaml")):
        config = load_config(path)
        return [f"{key}={config[key]}" for key in _LENGTH]
    return []


def _append(lines: list[RowResult], path: Path) -> None:
    """Add the lines that are not in the file yet."""

    def without_day(line: RowResult) -> RowResult:  # another look at the same run, on another day, is not news
        return dataclasses.replace(line, date="", inner_steps=None)

    written = [without_day(line) for line in read_measured(path)]
    if drop_half_line(path):
        tell(f"the last line of {path} was cut off, by a process that was killed: it is removed")
    with closing(Log(path)) as file:
        for line in lines:
            if without_day(line) not in written:
                file.write(json.dumps(dataclasses.asdict(line), allow_nan=False) + "\n")


def duration(seconds: float) -> str:
    """Write 1800 as 30m."""
    for unit in ("h", "m"):
        if seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"
