"""Ctrl-C and SIGTERM: leave at once where nothing would be lost, otherwise finish the step, save, and leave."""

import os
import signal
import sys
from types import FrameType
from typing import Any


class Interrupted(BaseException):  # no `except Exception` on the way may take it for a fault
    """The user (or the scheduler) wants the program to end; `code` is the exit code, 130 or 143."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(number, advice)
        self.code, self.advice = 128 + number, advice


class Interrupt:
    """While it is entered, a first SIGINT or SIGTERM is noted in `number`, and a second one ends the process at once.

    That loses nothing that was saved: a checkpoint is written under a temporary name first.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *failure: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def poll(self, *progress: object) -> None:
        """Raises Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        print("metalearn: finishing the step and saving; once more to leave at once", file=sys.stderr, flush=True)


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """The handler outside of training and evaluation, where there is nothing to save."""
    raise Interrupted(number)
