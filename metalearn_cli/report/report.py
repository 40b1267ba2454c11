"""`metalearn report`: runs as a table on the screen, as a CSV file, and as one page."""

import hashlib
import os
import re
from pathlib import Path

from metalearn_cli.compare.best_setting import best_sentences
from metalearn_cli.compare.groups import parts
from metalearn_cli.report.page import Sweep, page
from metalearn_cli.report.rows import ALIGN, COLUMNS, SHOWN, cells, table_rows, warnings_of
from metalearn_cli.run_folder.read import RunFolder, find_runs
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import as_csv, lines, printable
from metalearn_cli.system.text_table import aligned


def report(arguments: list[str], options: dict[str, str]) -> None:
    """Print the table of the runs in these folders, and write the page and the csv, unless `options` say null."""
    by_argument = {argument: parts(argument, one_of_each=False) for argument in arguments}
    failed = {job: sentence for argument in arguments for job, sentence in find_runs(argument).failed.items()}
    every_part = [part for grouped in by_argument.values() for part in grouped]
    runs = list({run.folder.resolve(): run for part in every_part for run in part.runs}.values())
    paths = _places(arguments, runs) | options
    rows = table_rows(every_part, failed)
    warned = [*(f"{job} failed: {sentence}" for job, sentence in failed.items()), *warnings_of(runs)]
    sweeps = [
        Sweep(name, settings, best_sentences(settings)) for name, settings in by_argument.items() if len(settings) > 1
    ]
    title = str(runs[0].folder) if len(runs) == 1 else f"{len(runs)} runs: {', '.join(arguments)}"
    html = page(title, runs, rows, sweeps, warned) if paths["out"] != "null" else ""
    show("\n".join(aligned([list(SHOWN), *map(cells, rows)], ALIGN)))
    for sweep in sweeps:
        for sentence in sweep.best:
            show(printable(f"{sweep.name}: {sentence}"))
    for sentence in warned:
        tell(f"note: {printable(sentence)}")
    if paths["csv"] != "null":
        table = as_csv([COLUMNS, *([row[name] for name in COLUMNS] for row in rows if row["runs"] == 1)])
        write_durably(Path(paths["csv"]), table.encode())
        show(f"the table is in {paths['csv']}")
    if html:
        write_durably(Path(paths["out"]), lines(html).encode())
        show(f"the page is {paths['out']}")


def _places(arguments: list[str], runs: list[RunFolder]) -> dict[str, str]:
    """Where the page and the table go: into a single folder, or beside several folders, named after them."""
    if len(arguments) == 1 and Path(arguments[0]).is_dir():
        return {"out": str(Path(arguments[0]) / "report.html"), "csv": str(Path(arguments[0]) / "results.csv")}
    folders = sorted({run.folder.absolute() for run in runs})
    beside = Path(os.path.relpath(os.path.commonpath([folder.parent for folder in folders])))
    names = re.sub(r"[^\w.=,]+", "-", "-".join(Path(argument).name for argument in arguments))[:60].strip("-")
    digest = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:8]  # names may be cut, or be used twice
    stem = "-".join(filter(None, ("report", names, digest)))
    return {"out": str(beside / f"{stem}.html"), "csv": str(beside / f"{stem}.csv")}
