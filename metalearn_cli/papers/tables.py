"""The rows of papers as tables in the terminal: all of them, and what was measured of them."""

import os
import shlex
import textwrap
from pathlib import Path
from statistics import mean

from metalearn_cli.config import conf_folder
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import after_steps, text_of, with_interval
from metalearn_cli.papers.verdict import OURS, OWN, RowResult, interval_over_seeds, mean_of, read_measured, verdict
from metalearn_cli.papers.work import Speed, counted
from metalearn_cli.system.text_table import aligned
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.metrics import METRICS

COLUMNS = (
    *("row", "test", "paper", "ours", "+- 95%", "over seeds", "seeds", "each", "median", "diverged", "batch norm"),
    *("other modes", "verdict", "length", "minutes", "command"),
)
ALIGN = "llrrrrllrrllllrl"


def listing(speed: Speed, width: int | None) -> str:
    """List every row with its published figure, and what it takes here; lines end at `width`, where there is one."""
    rows, works = [["row", "paper", "time", "data", "needs", "after", "what it is"]], counted()
    for name, paper in conf_folder.published_papers().items():
        metric, step = _metric(name), after_steps(paper.get("step")).removeprefix(" after ")
        shown = f"{with_interval(paper['mean'], paper.get('ci95'), metric)} {METRICS[metric].unit or metric}"
        work, time, needs, data = works.get(name), "", "", ""
        if work is not None:
            time, data = _rough(work.seconds(speed)), _data(work.task)
            stages = f", {work.stages} stage{'s' * (work.stages > 1)} first" * bool(work.stages)
            needs = f"{max(work.gigabytes, 0.1):.1f} GB{stages}"
        rows.append([name, shown, time, data, needs, step, conf_folder.summary_of("experiment", name)])
    table = [
        line if width is None or len(line) <= width else f"{line[: width - 1]}…" for line in aligned(rows, "lrrllll")
    ]
    notes = _notes(speed, {work.task for work in works.values()})
    return "\n".join([*table, *(textwrap.fill(note, width or 120) for note in notes)])


def _notes(speed: Speed, tasks: set[str]) -> list[str]:
    """Say how the columns of the list are made, and where the sets are."""
    sets = {name: about for name, about in about_sets().items() if name in tasks}
    folders = {name: about.folder_of() for name, about in sets.items() if _data(name) == name}
    missing = [name for name in sets if name not in folders]
    places = "; ".join(f"{name} in {folder}" for name, folder in folders.items()) or "no set"
    absent = f"; absent: {', '.join(missing)} (metalearn data prepare NAME says how to get one)" * bool(missing)
    return [
        f"time: an estimate for {speed.device}: operations and calls of training, validations and tests, counted once, "
        f"over the {speed.operations / 1e9:.0f} GFLOP/s and {speed.calls:,.0f} calls/s that were timed now "
        "(rows that were trained, beside other work, took 0.7 to 8 times as long)",
        "needs: the least memory, with one task at a time; a stage is a training before, part of the time",
        f"data: {places}{absent}; rows of curves need none",
    ]


def _data(task: str) -> str:
    """The set of a task, and whether it is here; "" for a task without one."""
    if (about := about_sets().get(task)) is None:
        return ""
    is_here = bool(os.environ.get("METALEARN_DATA")) and about.is_in(about.folder_of())
    return task if is_here else f"{task}: absent"


def _rough(seconds: float) -> str:
    """Write 5400 seconds as 1.5 h."""
    for unit, size in (("years", 31_557_600), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return "< 1 min"


def measured_table(task: str, path: Path) -> str:
    """Show what was measured of the rows on a task, by the lines of a checkout and of `path`, and which rows were not.
    Raises UserError where no row is on this task."""
    papers = conf_folder.published_papers()
    known = [name for name in papers if _task(name).startswith(task)]
    if path != OWN and not path.exists():
        raise UserError(f"results={path}: there is no such file")
    paths = [each for each in dict.fromkeys((OURS, path)) if each.exists()]
    tests: dict[tuple[str, str], list[RowResult]] = {}
    for result in (result for each in paths for result in read_measured(each)):
        if _task(result.row).startswith(task):
            tests.setdefault((result.row, result.cell), []).append(result)
    if not known and not tests:
        tasks = [
            name for name in conf_folder.list_choices("task") if any(_task(row).startswith(name) for row in papers)
        ]
        raise UserError(f"no row is on the task {task}: there are rows on {', '.join(tasks)}")
    rows = [list(COLUMNS), *(_cells(sorted(seeds, key=lambda seed: seed.seed)) for seeds in tests.values())]
    measured = {row for row, _ in tests}
    for name in known:
        if name not in measured:
            shown = with_interval(papers[name]["mean"], papers[name].get("ci95"), _metric(name))
            cells = {"row": name, "paper": shown, "verdict": "not measured here"}
            cells["command"] = f"metalearn reproduce {name}"
            rows.append([cells.get(column, "") for column in COLUMNS])
    percent = "; accuracies in %" if any(METRICS[_metric(row)].unit for row in [*known, *measured]) else ""
    results = [result for seeds in tests.values() for result in seeds]
    sources = "; ".join(dict.fromkeys(result.source for result in results if result.source))
    made = sorted({f"{result.device}, torch {result.torch}, {result.date}" for result in results if result.date})
    notes = [f"published: {sources}"] * bool(sources) + [f"measured: {'; '.join(made)}"] * bool(made)
    about = f"ours is the mean over seeds, +- 95% that of the first seed over its test episodes{percent}; "
    about += f"from {' and '.join(map(str, paths or [path]))}"
    return "\n".join([*aligned(rows, ALIGN), *notes, about])


def _cells(seeds: list[RowResult]) -> list[str]:
    """Make the line of one test of a row."""
    first, means = seeds[0], [seed.mean for seed in seeds]
    metric, over_seeds = first.metric, interval_over_seeds(means)
    medians = [seed.median for seed in seeds if seed.median is not None]
    numbers = ",".join(str(seed.seed) for seed in seeds)
    is_marked = "short run" in first.length or not first.is_short
    return [
        *(first.row, first.cell + ("" if "step" in first.cell else after_steps(first.inner_steps)), first.published),
        *(text_of(mean_of(means), metric), text_of(first.ci95, metric)),
        *("" if over_seeds is None else text_of(over_seeds, metric), numbers),
        *(", ".join(text_of(value, metric) for value in means), text_of(mean(medians) if medians else None, metric)),
        *(f"{max(seed.diverged for seed in seeds):.2%}", first.batch_norm or "none"),
        ", ".join(f"{mode} {with_interval(*other, metric)}" for mode, other in first.others.items()),
        *(verdict(seeds), first.length if is_marked else f"short run: {first.length}"),
        *(f"{mean(seed.minutes for seed in seeds):.1f}", _command(first, numbers)),
    ]


def _command(first: RowResult, seeds: str) -> str:
    """The command that does it all again, or the commands of a line that was made in another way."""
    word, _, budget = first.cell.partition(",")[0].partition(" ")
    if word != "reproduce":
        return "; ".join(filter(None, (first.command, first.test)))
    more = [*(["--seeds", seeds] if seeds != "0" else []), *(["--budget", budget] if budget else [])]
    return shlex.join(["metalearn", "reproduce", first.row, *more])


def _metric(row: str) -> str:
    """Name the metric of a row: accuracies on images, log-likelihoods under a kernel, errors on other curves."""
    if any(_task(row).startswith(name) for name in about_sets()):
        return "accuracy"
    return "log_likelihood" if _task(row).startswith(("rbf", "matern52", "periodic")) else "mse"


def _task(row: str) -> str:
    return row.partition("/")[2]
