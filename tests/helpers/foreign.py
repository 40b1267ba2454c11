"""A run's folder that somebody else may have changed, and the commands that read it or write in it."""

import json
import shutil
from pathlib import Path
from typing import Any

from commands import succeed

from metalearn_cli.run_folder.records import HASH, sealed

RUN = ["algo=maml", "task=sinusoid", "model.hidden=[8]", "algo.test_steps=2", "tasks_per_step=2", "test_episodes=8"]
RUN += ["eval_episodes=8", "threads=1", "log_every=5", "eval_every=10", "select=last", "name=run"]

COMMANDS = {
    "train": ["train", *RUN, "steps=20"],  # which is finished
    "train on": ["train", *RUN, "steps=22"],
    "eval": ["eval", "run=outputs/run", "test_episodes=4"],
    "report": ["report", "outputs/run", "out=report.html", "csv=results.csv"],
    "compare": ["compare", "outputs/run", "outputs/other"],
    "predict": ["predict", "run=outputs/run", "support=s.csv", "query=q.csv"],
    "export": ["export", "run=outputs/run", "out=model"],
    "predict of an export": ["predict", "run=exported", "support=s.csv", "query=q.csv"],
}


def make(folder: Path) -> Path:
    """outputs/run, which is finished, outputs/other like it, exported/, and a support and query set."""
    for name, seed in (("other", "seed=1"), ("run", "seed=0")):
        succeed(folder, "train", *RUN, "steps=20", seed, f"name={name}")
    (folder / "s.csv").write_text("x,y\n" + "".join(f"{x},{x / 2}\n" for x in range(10)))
    (folder / "q.csv").write_text("x\n1\n2\n")
    succeed(folder, "export", "run=outputs/run", "out=exported")
    return folder


def copy(made: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made, folder, dirs_exist_ok=True))


def forge(path: Path, content: Any) -> None:
    """Write a record as a deceiver does: with the hash of the forged content."""
    if isinstance(content, dict):
        content = sealed({key: value for key, value in content.items() if key != HASH})
    path.write_text(json.dumps(content))
