"""The rows of papers as tables in the terminal: which there are, and what was measured of them."""

import shlex
from pathlib import Path
from typing import Any

from metalearn_cli.config import conf_folder
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import after, number
from metalearn_cli.papers.verdict import OURS, OWN, mean_of, measured, over_seeds, parse_published, published, verdict
from metalearn_cli.system.text_table import aligned
from metalearn_cli.tasks.known_sets import about_sets

COLUMNS = (
    "row",
    "test",
    "paper",
    "ours",
    "+- 95%",
    "over seeds",
    "seeds",
    "batch norm",
    "verdict",
    "length",
    "command",
)


def listing() -> str:
    """Every row: what was published, and what it is."""
    rows = [["row", "metric", "paper", "after", "what it is"]]
    for name, paper in conf_folder.published().items():
        step = after(paper.get("step")).removeprefix(" after ")
        percent = _is_percent(name)
        metric = "accuracy, %" if percent else "mse"
        rows.append([name, metric, published(paper, percent), step, conf_folder.describe("experiment", name)])
    return "\n".join(aligned(rows, "llrll"))


def table(task: str, path: Path) -> str:
    """What was measured of the rows on a task, by the lines of a checkout and of `path`, and which rows were not.

    Raises UserError where no row is on this task.
    """
    papers = conf_folder.published()
    known = [name for name in papers if _task_of(name).startswith(task)]
    if path != OWN and not path.exists():
        raise UserError(f"results={path}: there is no such file")
    paths = [each for each in dict.fromkeys((OURS, path)) if each.exists()]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in (line for each in paths for line in measured(each)):
        if _task_of(line["row"]).startswith(task):
            groups.setdefault((line["row"], line["cell"]), []).append(line)
    if not known and not groups:
        tasks = [
            name for name in conf_folder.list_choices("task") if any(_task_of(row).startswith(name) for row in papers)
        ]
        raise UserError(f"no row is on the task {task}: there are rows on {', '.join(tasks)}")
    rows = [list(COLUMNS)]
    rows += [_measured(row, cell, sorted(lines, key=_seed)) for (row, cell), lines in groups.items()]
    seen = {row for row, _ in groups}
    for name in known:
        if name not in seen:
            figure = published(papers[name], _is_percent(name))
            rows.append([name, "", figure, *[""] * 5, "not measured here", "", f"metalearn reproduce {name}"])
    percent = "; accuracies in %" if any(map(_is_percent, [*known, *seen])) else ""
    about = f"ours is the mean over seeds, +- 95% that of the first seed over its test episodes{percent}; "
    about += f"from {' and '.join(map(str, paths or [path]))}"
    return "\n".join([*aligned(rows, "llrrrrllllll"[: len(COLUMNS)]), about])


def _measured(row: str, cell: str, lines: list[dict[str, Any]]) -> list[str]:
    """The seeds of one test of a row."""
    first, percent, length = lines[0], lines[0]["metric"] == "accuracy", lines[0]["length"]
    if " of " in length and "short run" not in length:  # as the tables of papers write it
        length = f"short run: {length}"
    means = [line["mean"] for line in lines]
    paper = parse_published(first["published"], percent)
    finite = [mean for mean in means if mean is not None]
    of_seeds = over_seeds(finite) if len(finite) == len(means) else None
    seeds = ",".join(str(line["seed"]) for line in lines)
    return [
        *(row, f"{cell}{after(first.get('inner_steps'))}", first["published"]),
        *(number(mean_of(means), percent), number(first["ci95"], percent)),
        *("" if of_seeds is None else number(of_seeds, percent), seeds, first.get("batch_norm") or "none"),
        verdict(paper, means, first["ci95"], percent, length) if paper else "nothing to compare with",
        *(length, _command(row, cell, seeds, first)),
    ]


def _command(row: str, cell: str, seeds: str, first: dict[str, Any]) -> str:
    """What does it all again: the row with these seeds, or what a table of papers has been made by."""
    word, _, budget = cell.partition(" ")
    if word != "reproduce":
        return str(first.get("command", ""))
    more = ["--budget", budget] if budget else []
    return shlex.join(["metalearn", "reproduce", row, *(["--seeds", seeds] if seeds != "0" else []), *more])


def _seed(line: dict[str, Any]) -> int:
    return int(line["seed"])


def _is_percent(row: str) -> bool:
    """Rows on images have accuracies, those on curves errors."""
    return any(_task_of(row).startswith(name) for name in about_sets())


def _task_of(row: str) -> str:
    return row.partition("/")[2]
