"""The tables of benchmarks/papers/README.md, from the lines of results.jsonl."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.papers.rows import ROWS, Cell, Row

HEAD = """\
# What this program gets, beside what was published

Made by `python -m benchmarks.papers` from [results.jsonl](results.jsonl), which has for every figure its command,
commit, device, interval and the hash of its test episodes. "ours" is the mean over seeds of the test's mean, with each
seed's figure in brackets; +- is the 95% interval over test episodes of one seed, which does not hold the noise of
training. Accuracies are in percent. Training time is of one CPU thread on a machine that did other work as well.
"""


def write(lines: list[dict[str, Any]], path: Path) -> None:
    parts = [HEAD]
    for table in dict.fromkeys(row.table for row in ROWS):
        rows = [row for row in ROWS if row.table == table and any(line["row"] == row.name for line in lines)]
        if rows:
            parts.append(f"## {table}\n\n" + "\n".join(_table(rows, lines)) + "\n")
    path.write_text("\n".join(parts))


def _table(rows: list[Row], lines: list[dict[str, Any]]) -> list[str]:
    columns = [
        "`metalearn train ...`",
        "test",
        "published",
        "ours",
        "median",
        "diverged",
        "batch norm",
        "seeds",
        "length",
    ]
    table = ["| " + " | ".join([*columns, "minutes"]) + " |", "|---" * 10 + "|"]
    for row in rows:
        for cell in row.cells:
            found = [line for line in lines if line["row"] == row.name and line["cell"] == cell.label]
            table.append(_line(row, cell, sorted(found, key=lambda line: line["seed"])))
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    made = lines[-1]
    return [*table, "", f"Published: {sources}.", "", f"{made['device']}, torch {made['torch']}, {made['date']}."]


def _line(row: Row, cell: Cell, found: list[dict[str, Any]]) -> str:
    percent = found[0]["metric"] == "accuracy"

    def show(value: float | None) -> str:
        if value is None:
            return "diverged"
        return f"{100 * value:.2f}" if percent else f"{value:.3g}"

    means = [line["mean"] for line in found if line["mean"] is not None]
    medians = [line["median"] for line in found if line["median"] is not None]
    ours = show(statistics.mean(means) if len(means) == len(found) else None)
    ours += f" +- {show(found[0]['ci95'])} [{', '.join(show(line['mean']) for line in found)}]"
    median = show(statistics.mean(medians) if medians else None)
    diverged = max(line["diverged"] for line in found)
    seeds = ", ".join(str(line["seed"]) for line in found)
    minutes = statistics.mean(line["minutes"] for line in found)
    test = f"{cell.label}" + (f" (`eval {cell.test}`)" if cell.test else "")
    parts = [
        f"`{row.command}`",
        test,
        cell.published,
        ours,
        median,
        f"{diverged:.2%}",
        found[0]["batch_norm"] or "none",
    ]
    return "| " + " | ".join([*parts, seeds, row.length, f"{minutes:.1f}"]) + " |"
