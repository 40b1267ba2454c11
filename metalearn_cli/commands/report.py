"""`metalearn report`: runs as a table and as one page."""

from pathlib import Path

from metalearn_cli.config.conf_folder import folders_of_runs
from metalearn_cli.errors import UserError

PLACE = 5
HELP = """\
Report on runs: a table, results.csv and a page of figures.

metalearn report FOLDER ... [out=FILE.html] [csv=FILE.csv]

  metalearn report outputs/my-run                             a table here; report.html and results.csv in that folder
  metalearn report outputs/a outputs/my-sweep outputs/b/eval/omniglot-1a2b3c4d out=page.html csv=table.csv
  metalearn report 'outputs/maml-s*' csv=null                 a pattern in quotes; no csv

For several folders both files are written beside them and named after them (outputs/report-a-b-1a2b3c4d.html); the last
line says where. The page is one file that loads nothing from anywhere: it can be sent, printed and kept. An unfinished
run is shown as far as it has come, with the command that goes on with it. Neither data nor checkpoints are read.
For a sweep one sentence names the best setting, chosen on validation, with the mean of the test over its seeds and the
95% interval. A failed job is listed with its reason here, in the csv (state, failed) and on the page; damaged or
missing records are listed with file and line. Exit codes: 0 if there is a report, even if jobs failed (`train -m` then
has 1), and 1 if there is none.
"""

KEYS = ("out", "csv")


def complete(words: list[str]) -> list[str]:
    return [*folders_of_runs(words[-1]), *(f"{key}=" for key in KEYS)]


def run(arguments: list[str]) -> int:
    from metalearn_cli.config.overrides import check_file, split_folders

    folders, files = split_folders(arguments, KEYS, "report")
    if not folders:
        raise UserError("report needs the folder of a run, of an evaluation or of a sweep: metalearn report outputs/a")
    for key, path in files.items():
        if path != "null":
            check_file(key, Path(path))

    from metalearn_cli.report.report import report

    report(folders, files)
    return 0
