"""Runs to whose process something happens at a certain moment, and what of them must be equal afterwards."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import is_running

from metalearn_cli.tasks.base import Draw, Split
from metalearn_cli.tasks.sinusoid import Sinusoid


def before_draws(patch: pytest.MonkeyPatch, act: Callable[[Split, int], object]) -> None:
    """Call `act` with the split and its count before each draw of sinusoids."""
    draw, drawn = Sinusoid.draw, Counter[Split]()

    def act_and_draw(self: Sinusoid, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        drawn[split] += 1
        act(split, drawn[split])
        return draw(self, tasks, split, rng)

    patch.setattr(Sinusoid, "draw", act_and_draw)


def send_at(patch: pytest.MonkeyPatch, at: tuple[Split, int], *numbers: signal.Signals) -> None:
    """Send the process these signals before one of its draws, a known place."""

    def act(split: Split, count: int) -> None:
        for number in numbers if (split, count) == at else ():
            os.kill(os.getpid(), number)

    before_draws(patch, act)


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
