"""The learner, job, folder, console and interrupt that every part of a training or an evaluation works with."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.config.job import Job
from metalearn_cli.learning.learner import Learner
from metalearn_cli.system.console import Console
from metalearn_cli.system.signals import Interrupt


class Session(NamedTuple):
    """A learner that does its job in a folder, tells the user how it goes, and may be interrupted.

    With several ranks each has its own; only the first one writes into the folder and speaks.
    """

    learner: Learner
    job: Job
    folder: Path
    console: Console
    interrupt: Interrupt

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


# Why the run in a folder is not worth its time, by its validations so far; None where it goes on.
GivesUp = Callable[[Path], str | None]


def never(folder: Path) -> None:
    """The verdict on a run that no search watches: it goes on."""
