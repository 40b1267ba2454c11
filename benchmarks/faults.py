"""The fault matrix in full: every row many times, row by row, into benchmarks/faults.md.

    python benchmarks/faults.py                  # goes on with the rows that this commit has not
    python benchmarks/faults.py --rows A1,A3     # these, also where they stand there already

A row is a test with the marker `row`; CI runs the same tests, a few times each. Needs `pip install -e '.[test]'`.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "faults.md"
HEAD = """\
# The fault matrix, in full

Made by `python benchmarks/faults.py`, which appends a line for each row. A try is one run of a test of that row.

| row | what happens | tries | failures | commit | date | minutes |
|---|---|---|---|---|---|---|
"""
ROWS = {
    "A1": "SIGKILL at random moments",
    "A2": "SIGKILL at every file-system event",
    "A3": "SIGKILL in every algorithm on every task",
    "A4": "SIGTERM at random moments",
    "A5": "Ctrl-C once, twice, five times",
    "A6": "an algorithm raises in the middle of a run",
    "A7": "the order of write, fsync, rename, fsync",
    "A8": "a full disk, at every size of a checkpoint",
    "A9": "a full disk for the records",
    "A10": "the run's folder vanishes, or cannot be written",
    "A11": "a checkpoint cut, flipped, emptied, replaced",
    "A12": "all checkpoints damaged",
    "A13": "a checkpoint of another model, or of a newer format",
    "A14": "what a killed process has left behind",
    "A15": "a clock that jumps, another time zone",
    "A16": "continued at its end, and prolonged",
    "A17": "continued with other intervals of saving and logging",
    "A18": "memory and open files over many steps",
    "A19": "a digit changed in a file beside the checkpoints, or in an export",
    "B1": "eight processes with one name",
    "B2": "sixteen launches in one second",
    "B3": "the holder of a lock is killed",
    "B4": "several ranks against one process",
    "B5": "continued with another number of ranks",
    "B6": "one rank is killed, raises, meets NaN, gets SIGTERM",
    "B7": "a meta-batch that ranks cannot split",
    "B8": "a sweep with one failing job",
    "C1": "unknown keys, and words that are not key=value",
    "C2": "values of another type or out of range",
    "C3": "unknown algorithms, tasks, models, presets",
    "C4": "more classes, shots or examples than there are",
    "C5": "classes in two splits, splits without classes",
    "C6": "data that are missing, empty, a file",
    "C7": "archives cut, changed, huge, leading out of the folder",
    "C8": "images cut, empty, huge, of odd modes, no images",
    "C9": "numbers that are none or not finite, images of one colour",
    "C10": "files that pose as checkpoints and would run something",
    "C11": "run folders that name classes to import",
    "C12": "devices and precisions that are not here",
    "C13": "memory ends",
    "C14": "folders that cannot be made or written",
    "C15": "a value that is not finite: support, query, gradient, divergence",
    "C16": "continued with another configuration, version or schedule",
    "C17": "closed streams, pipes and terminals of any width",
    "C18": "umask, locale, hash seed, no home, a folder that is gone",
    "C19": "yaml that is not right, of conf/ and of a run",
    "C20": "anything for any key",
    "C21": "a search's folder from somebody else, whose trials name keys and classes of their own",
    "C22": "links in a run's folder to what is elsewhere",
    "C23": "names in a run's records that lead out of its folder",
    "C24": "names and values that a terminal, a spreadsheet or a browser would obey",
    "C25": "pipes, files without end, and small ones that take long to read",
    "C26": "records of a run whose values are missing or of another kind",
    "C27": "files that pose as pictures and would start another program",
    "D1": "the same bits in another process, from a checkout and a wheel's layout",
    "D2": "golden losses in float64",
    "D3": "meta-gradients by finite differences and by their definitions",
    "D4": "nothing of the query set or of test classes is seen",
    "D5": "classes and images are drawn uniformly",
    "D6": "the 95% interval covers in 95 of 100 tests",
    "D7": "random labels give chance",
    "D8": "faults written into the program by hand: the tests see each",
    "P10": "runs of every release are tested and prolonged",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help=f"some of {','.join(ROWS)}")
    given = parser.parse_args().rows
    if unknown := [row for row in (given or "").split(",") if row and row not in ROWS]:
        parser.error(f"there is no row {unknown[0]}: take some of {', '.join(ROWS)}")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    if not TABLE.exists():
        TABLE.write_text(HEAD)
    done = {line.split("|")[1].strip() for line in TABLE.read_text().splitlines() if f"| {commit} |" in line}
    rows = given.split(",") if given else [row for row in ROWS if row not in done]
    failed = 0
    for row in rows:
        print(f"{row}: {ROWS[row]}", flush=True)
        began = time.monotonic()
        tries, failures = run(row)
        failed += failures > 0 or tries == 0
        minutes = (time.monotonic() - began) / 60
        line = f"| {row} | {ROWS[row]} | {tries} | {failures} | {commit} | {datetime.date.today()} | {minutes:.1f} |"
        with open(TABLE, "a") as table:
            table.write(line + "\n")
        print(line, flush=True)
    return 1 if failed else 0


def run(row: str) -> tuple[int, int]:
    """How many tries a row had, and how many failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        environment = {**os.environ, "METALEARN_ROW": row, "METALEARN_FAULTS": "full", "OMP_NUM_THREADS": "1"}
        options = ["-q", "-m", "", "-n", "auto", "--timeout", "7200"]  # -m "": nightly ones too
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, env=environment)
        suites = ElementTree.parse(report).getroot().iter("testsuite")
        counts = [
            {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} for suite in suites
        ]
    tries = sum(count["tests"] - count["skipped"] for count in counts)
    return tries, sum(count["failures"] + count["errors"] for count in counts)


if __name__ == "__main__":
    sys.exit(main())
