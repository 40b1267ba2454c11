"""Train and test rows of the papers' tables, and write what came of it beside what was published.

    python -m benchmarks.papers                                   # every row and seed; interrupted, it goes on
    python -m benchmarks.papers --rows maml/sinusoid --seeds 0
    python -m benchmarks.papers --render                          # the tables anew, from results.jsonl

Runs go to outputs/papers/ROW/seed=N. Each figure becomes a line of results.jsonl, with the command that made it.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.papers.report import write
from benchmarks.papers.rows import ROWS, Row
from metalearn_cli.papers.verdict import figures, measured, provenance
from metalearn_cli.run_folder.results import read_results

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.jsonl"
CURVES = HERE / "curves"


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.papers", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help=f"some of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--seeds", help="e.g. 0,1 (default: the row's)")
    parser.add_argument("--render", action="store_true", help="only write the tables")
    given = parser.parse_args()
    names = given.rows.split(",") if given.rows else [row.name for row in ROWS]
    if unknown := set(names) - {row.name for row in ROWS}:
        parser.error(f"there is no row {min(unknown)}")
    cells = {(row.name, cell.label) for row in ROWS for cell in row.cells}  # `metalearn reproduce` adds others
    known = {(line["row"], line["seed"]) for line in read() if (line["row"], line["cell"]) in cells}
    for row in (row for row in ROWS if row.name in names and not given.render):
        for seed in map(int, given.seeds.split(",")) if given.seeds else row.seeds:
            if (row.name, seed) not in known:
                lines = measure(row, seed)  # two processes may work on rows of their own
                with open(RESULTS, "a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines)
                write(read(), HERE)
    write(read(), HERE)
    return 0


def read() -> list[dict[str, Any]]:
    return measured(RESULTS)


def measure(row: Row, seed: int) -> list[dict[str, Any]]:
    """Train (or go on), test every cell -> a line for each."""
    name = f"papers/{row.name}/seed={seed}"
    command = ["train", *shlex.split(row.command), f"seed={seed}", f"name={name}"]
    folder = ROOT / metalearn(command)
    about = {
        "row": row.name,
        "seed": seed,
        "command": shlex.join(["metalearn", *command]),
        "length": row.length,
        "source": row.source,
        "date": str(datetime.date.today()),
        **provenance(folder),
    }
    keep_curve(folder, row, seed)
    lines = []
    for cell in row.cells:
        tested, test = folder, ""
        if cell.test:
            test = shlex.join(["metalearn", *(evaluate := ["eval", f"run={folder.relative_to(ROOT)}", cell.test])])
            tested = ROOT / metalearn(evaluate)
        lines.append(
            {
                **about,
                "test": test,
                "cell": cell.label,
                "published": cell.published,
                **figures(read_results(tested), cell.step, cell.mode),
            }
        )
    return lines


def metalearn(arguments: list[str]) -> str:
    """Run a command -> the folder that its last line names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    print(shlex.join(["metalearn", *arguments]), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "metalearn_cli", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"benchmarks.papers: {shlex.join(arguments)} ended with {done.returncode}")
    return done.stdout.strip().splitlines()[-1].removeprefix("results are in ")


def keep_curve(folder: Path, row: Row, seed: int) -> None:
    """The validations of a run, where it had some."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [
        {key: value for key, value in line.items() if key == "step" or key.startswith("val/")}
        for line in lines
        if any(key.startswith("val/") for key in line)
    ]
    if kept:
        CURVES.mkdir(exist_ok=True)
        path = CURVES / f"{row.name.replace('/', '-')}-seed={seed}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))


if __name__ == "__main__":
    sys.exit(main())
