"""`metalearn report`: runs as a table and as one page."""

from pathlib import Path

from metalearn_cli.config.conf_folder import folders_of_runs
from metalearn_cli.errors import UserError

HELP = """\
Report on runs: a table, results.csv and a page of figures.

metalearn report FOLDER ... [out=FILE.html] [csv=FILE.csv]

  metalearn report outputs/my-run                             a table here; report.html and results.csv in that folder
  metalearn report outputs/a outputs/my-sweep outputs/b/eval/omniglot-1a2b3c4d out=page.html csv=table.csv
  metalearn report 'outputs/maml-s*' csv=null                 a pattern in quotes; no csv

Of several folders both stand beside them, by their names: outputs/report-a-b-1a2b3c4d.html; the last line says where.
The page is one file that loads nothing from anywhere: it can be sent, printed and kept. A run that is not finished is
shown as far as it has come, with the command that goes on with it. Neither data nor checkpoints are read.
Of a sweep one sentence names the best setting: chosen on validation, with the mean of the test over its seeds and the
95% interval. A job that failed is named with its sentence here, in the csv (state, failed) and on the page, and what is
damaged or missing in a folder with its file and line. Exit codes: 0 where there is a report, whatever it says of jobs
(`train -m` has 1 where one failed), and 1 where there is none.
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
