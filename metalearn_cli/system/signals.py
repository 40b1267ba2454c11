"""Ctrl-C, SIGTERM and a closed terminal: leave at once where nothing would be lost, else finish the step and save."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Agree = Callable[[int | None], int | None]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):  # no `except Exception` on the way may take it for a fault
    """The user or the scheduler asks the program to end; `code` is the exit code, 130, 143 or 129."""

    def __init__(self, number: int, advice: str = "") -> None:
        super().__init__(number, advice)
        self.code, self.advice = 128 + number, advice


class Interrupt:
    """Note a first signal in `number`; a second one ends the process at once, which loses nothing that was saved.
    `agree` makes one number of those that the processes of one run have noted; `is_quiet`: another tells the user."""

    def __init__(self, agree: Agree = lambda number: number, is_quiet: bool = False) -> None:
        self.number: int | None = None
        self._agree, self._is_quiet = agree, is_quiet
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        self._before = catch(self._note)
        return self

    def __exit__(self, *failure: object) -> None:
        if self.number is None:
            restore(self._before)
        else:  # what is ending is not stopped a second time
            catch(end_at_once)

    def has_come(self) -> bool:
        """Whether a signal has come, to any process of the run: all of them ask at the same places."""
        agreed = self._agree(self.number)
        if agreed is not None:  # else one may have come meanwhile
            self.number = agreed
        return agreed is not None

    def poll(self, *progress: object) -> None:
        """Raises Interrupted if a signal has come, to any process of the run."""
        if self.has_come():
            self._leave()

    def _leave(self) -> None:
        if self.number is not None:
            raise Interrupted(self.number)

    @contextlib.contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """Raise Interrupted at once when a signal comes, in work that adds nothing to the last checkpoint."""

        def leave(number: int, frame: FrameType | None) -> None:
            if self.number is not None:
                os._exit(128 + number)
            self.number = number
            raise Interrupted(number)

        before = catch(leave)
        try:
            self._leave()  # a signal that came earlier
            yield
        finally:
            restore(before)
            self._leave()  # foreign code may have taken the exception for one of its own

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        if self._is_quiet:
            return
        with contextlib.suppress(OSError):  # the terminal may be gone; and print may be at work where this breaks in
            os.write(2, b"metalearn: finishing the step and saving; once more to leave at once\n")


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """The handler outside of training and evaluation, where there is nothing to save."""
    catch(end_at_once)
    raise Interrupted(number)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """The handler of a process that is ending: no exception, which could come out anywhere."""
    os._exit(128 + number)


def catch(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Let `handler` take the signals -> what took them before."""
    # Under nohup a closed terminal is to be ignored, and stays so.
    signals = [n for n in _SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in signals}


def restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
