"""`metalearn report`: runs as a table on the screen, as a CSV file, and as one page."""

import hashlib
import os
import re
from pathlib import Path

from metalearn_cli.compare.best_setting import best_sentences
from metalearn_cli.compare.groups import Part, parts
from metalearn_cli.report.page import Sweep, page
from metalearn_cli.report.rows import (
    ALIGN,
    HEADER,
    TableRow,
    cells,
    failed_row,
    rows_as_csv,
    run_row,
    seeds_row,
    warnings_of,
)
from metalearn_cli.run_folder.read import RunFolder, find_runs
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import lines, printable
from metalearn_cli.system.text_table import aligned


def report(given: list[str], options: dict[str, str]) -> None:
    """Print the table of the runs in these folders, and write the page and the csv, unless `options` say null."""
    found = {argument: parts(argument, one_of_each=False) for argument in given}
    failed = {job: sentence for argument in given for job, sentence in find_runs(argument).failed.items()}
    every = _once([run for some in found.values() for part in some for run in part.runs])
    paths = _places(given, every) | options
    rows = _rows([part for some in found.values() for part in some], every)
    rows += [(failed_row(job, sentence), False) for job, sentence in failed.items()]
    warned = [*(f"{job} failed: {sentence}" for job, sentence in failed.items()), *warnings_of(every)]
    sweeps = [Sweep(argument, some, best_sentences(some)) for argument, some in found.items() if len(some) > 1]
    title = str(every[0].folder) if len(every) == 1 else f"{len(every)} runs: {', '.join(given)}"
    made = page(title, every, rows, sweeps, warned) if paths["out"] != "null" else ""
    show("\n".join(aligned([HEADER, *(cells(one) for one, _ in rows)], ALIGN)))
    for name, _, best in sweeps:
        for sentence in best:
            show(printable(f"{name}: {sentence}"))
    for sentence in warned:
        tell(f"note: {printable(sentence)}")
    if paths["csv"] != "null":
        write_durably(
            Path(paths["csv"]), rows_as_csv([one for one, is_over_seeds in rows if not is_over_seeds]).encode()
        )
        show(f"the table is in {paths['csv']}")
    if paths["out"] != "null":
        write_durably(Path(paths["out"]), lines(made).encode())
        show(f"the page is {paths['out']}")


def _places(given: list[str], every: list[RunFolder]) -> dict[str, str]:
    """Where the page and the table go: into a single folder, or beside several folders, named after them."""
    if len(given) == 1 and Path(given[0]).is_dir():
        return {"out": str(Path(given[0]) / "report.html"), "csv": str(Path(given[0]) / "results.csv")}
    folders = sorted({run.folder.absolute() for run in every})
    beside = Path(os.path.relpath(os.path.commonpath([folder.parent for folder in folders])))
    names = re.sub(r"[^\w.=,]+", "-", "-".join(Path(argument).name for argument in given))[:60].strip("-")
    digest = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:8]  # names may be cut, or be used twice
    stem = "-".join(filter(None, ("report", names, digest)))
    return {"out": str(beside / f"{stem}.html"), "csv": str(beside / f"{stem}.csv")}


def _once(every: list[RunFolder]) -> list[RunFolder]:
    return list({run.folder.resolve(): run for run in every}.values())


def _rows(found: list[Part], every: list[RunFolder]) -> list[tuple[TableRow, bool]]:
    """A row for each run, and after the seeds of a configuration one for their mean."""
    rows: list[tuple[TableRow, bool]] = []
    left = {run.folder.resolve() for run in every}
    for part in found:
        for run in part.runs:
            if run.folder.resolve() in left:
                left.remove(run.folder.resolve())
                rows.append((run_row(run), False))
        if (one := seeds_row(part)) is not None:
            rows.append((one, True))
    return rows
