"""The tables of benchmarks/papers/README.md, from the lines of results.jsonl, and the learning curves."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.papers.rows import ROWS, Cell, Row
from metalearn_cli.papers.verdict import mean_of, parse_published, verdict

HEAD = """\
# What this program gets, beside what was published

Made by `python -m benchmarks.papers` from [results.jsonl](results.jsonl), which has for every figure its command,
commit, device, interval and the hash of its test episodes. "ours" is the mean over seeds of the test's mean, with each
seed's figure in brackets; +- is the 95% interval over test episodes of the first seed, which does not hold the noise of
training. Accuracies are in percent. "batch norm" is the mode of "ours"; "other modes" are the same model on the same
episodes (transductive: all queries of an episode together; inductive: the support's statistics; running: averages of
training; one_query: the support and that one query). The verdict: within the intervals of both (and of the seeds, where
there are several), or better or worse by how much, or none where the interval is wider than the published figure; a run
that is shorter than the published one is called a short run.
Training time is of one CPU thread on a machine that did other work as well.
"""

COLUMNS = ("`metalearn train ...`", "test", "published", "ours", "batch norm", "other modes", "median", "diverged")
COLUMNS = (*COLUMNS, "seeds", "length", "minutes", "verdict")


def write(lines: list[dict[str, Any]], folder: Path) -> None:
    """README.md, and curves.png where validations were kept."""
    parts = [HEAD]
    for table in dict.fromkeys(row.table for row in ROWS):
        rows = [row for row in ROWS if row.table == table and any(line["row"] == row.name for line in lines)]
        if rows:
            parts.append(f"## {table}\n\n" + "\n".join(_table(rows, lines)) + "\n")
    cells = {(row.name, cell.label) for row in ROWS for cell in row.cells}
    if others := [line for line in lines if (line["row"], line["cell"]) not in cells]:
        parts.append("## By `metalearn reproduce`\n\n" + "\n".join(_reproduced(others)) + "\n")
    if curves := sorted((folder / "curves").glob("*.jsonl")):
        draw(curves, folder / "curves.png")
        parts.append(
            "## Learning curves\n\nValidation, headline mode, from [curves/](curves).\n\n![curves](curves.png)\n"
        )
    parts.append((folder / "notes.md").read_text())
    (folder / "README.md").write_text("\n".join(parts))


def _table(rows: list[Row], lines: list[dict[str, Any]]) -> list[str]:
    table = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    used = []
    for row in rows:
        for cell in row.cells:
            found = [line for line in lines if line["row"] == row.name and line["cell"] == cell.label]
            used += found
            if found:
                table.append(_line(row, cell, sorted(found, key=lambda line: line["seed"])))
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    made = "; ".join(sorted({f"{line['device']}, torch {line['torch']}, {line['date']}" for line in used}))
    return [*table, "", f"Published: {sources}.", "", f"Measured: {made}."]


def _line(row: Row, cell: Cell, found: list[dict[str, Any]]) -> str:
    test = cell.label + (f" (`eval {cell.test}`)" if cell.test else "")
    length = row.length if row.length == "full length" or row.is_whole else f"short run: {row.length}"
    return _cells(f"`{row.command}`", test, cell.published, length, found)


def _reproduced(lines: list[dict[str, Any]]) -> list[str]:
    table = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["row"], line["cell"]), []).append(line)
    for (row, cell), found in groups.items():
        table.append(_cells(f"`metalearn reproduce {row}`", cell, found[0]["published"], found[0]["length"], found))
    return table


def _cells(command: str, test: str, published: str, length: str, found: list[dict[str, Any]]) -> str:
    first = found[0]
    percent = first["metric"] == "accuracy"

    def show(value: float | None) -> str:
        if value is None:
            return "diverged"
        return f"{100 * value:.2f}" if percent else f"{value:.3g}"

    means = [line["mean"] for line in found]
    medians = [line["median"] for line in found if line["median"] is not None]
    ours = f"{show(mean_of(means))} +- {show(first['ci95'])} [{', '.join(map(show, means))}]"
    others = ", ".join(f"{mode} {show(mean)}" for mode, (mean, _) in first.get("others", {}).items())
    paper = parse_published(published, percent)
    parts = [
        *(command, test, published, ours, first["batch_norm"] or "none", others),
        show(statistics.mean(medians) if medians else None),
        f"{max(line['diverged'] for line in found):.2%}",
        ", ".join(str(line["seed"]) for line in found),
        length,
        f"{statistics.mean(line['minutes'] for line in found):.1f}",
        verdict(paper, means, first["ci95"], percent, length) if paper else "nothing to compare with",
    ]
    return "| " + " | ".join(parts) + " |"


# Okabe and Ito's colours, which colour-blind readers can tell apart; the line style tells them apart without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
STYLES = [(colour, style) for style in ("-", ":") for colour in COLOURS]

TITLES = {"omniglot": "Omniglot", "cifar_fs": "CIFAR-FS"}


def draw(paths: list[Path], picture: Path) -> None:
    """Accuracy over meta-iterations, a picture for each data set, and a curve for each seed."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    tasks = [task for task in TITLES if any(task in path.stem for path in paths)]
    figure, axes = plt.subplots(1, len(tasks), figsize=(5.5 * len(tasks) + 1, 6.5), layout="constrained", squeeze=False)
    for side, task in zip(axes[0], tasks, strict=True):
        rows: dict[str, list[Path]] = {}
        for path in paths:
            if task in path.stem:
                rows.setdefault(path.stem.partition("-seed=")[0], []).append(path)
        for (row, seeds), (colour, style) in zip(rows.items(), STYLES, strict=False):
            for path in seeds:
                lines = [json.loads(line) for line in path.read_text().splitlines()]
                steps, accuracy = zip(*((line["step"], 100 * line["val/accuracy"]) for line in lines), strict=True)
                of_seeds = f", {len(seeds)} seeds" if len(seeds) > 1 else ""
                name = f"{row} ({steps[-1]:,} steps{of_seeds})" if path is seeds[0] else None
                side.plot(steps, accuracy, color=colour, linestyle=style, marker="o", markersize=3, label=name)
        side.set(xlabel="meta-iterations", ylabel="validation accuracy in %, 5-way 1-shot", xscale="log")
        side.set_title(TITLES[task], fontsize=10)
        side.grid(alpha=0.3)
        side.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=1)
    figure.suptitle("Protocols differ: no comparison of algorithms", fontsize=11)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
