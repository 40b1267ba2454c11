"""Kill a run at some moment, and what of it must be equal afterwards."""

import os
import random
import signal
import time
from pathlib import Path

from commands import is_running


def what_must_be_equal(folder: Path) -> dict[str, bytes]:
    """Every checkpoint that is kept (their names are hashes of their bits), metrics, results, episodes."""
    run = folder / "outputs" / "run"
    paths = [*(run / "checkpoints").iterdir(), run / "metrics.jsonl", run / "results.json", run / "episodes.npz"]
    return {path.name: path.read_bytes() for path in paths}


def kill_after(pid: int, run: Path, saves: int) -> bool:
    """SIGKILL once `saves` checkpoints have appeared that were not there, and a random moment later."""
    seen = set((run / "checkpoints").glob("step-*")) if run.exists() else set()
    new: set[Path] = set()
    while len(new) < saves and is_running(pid):
        new |= set((run / "checkpoints").glob("step-*")) - seen
        time.sleep(0.0005)
    time.sleep(random.Random(saves).random() * 0.01)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)
