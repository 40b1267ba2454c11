"""Tell the user what is going on, on stderr; characters that a terminal would obey are written out."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from metalearn_cli.system.files import Log
from metalearn_cli.system.text import lines, printable

T = TypeVar("T")


def show(text: str) -> None:
    """Print results on stdout. A reader who has read enough (`| head`), or a closed terminal, is not an error."""
    try:
        print(lines(text), flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Say a sentence on stderr, whether or not somebody can read it."""
    with contextlib.suppress(OSError):
        print(lines(text), file=sys.stderr, flush=True)


def tell_each(sentences: Iterable[str]) -> None:
    """Say each of these on a line of its own."""
    for sentence in sentences:
        tell(printable(sentence))


class Console:
    """Writes each sentence to stderr and to train.log. A silent one, of a process beside the one that speaks, does not;
    one of a sweep's jobs, of which it has the number, keeps to the log what need not be seen again and again."""

    def __init__(self, log: Path | None = None, is_silent: bool = False, job: int | None = None) -> None:
        self._log = Log(log) if log else None
        self.is_silent = is_silent
        self._job = job

    def say(self, text: str) -> None:
        if self.is_silent:
            return
        with contextlib.suppress(OSError):  # nobody listens any more: the work goes on, and so does the log
            tqdm.write(lines(text), file=sys.stderr)
        self.note(text)

    def say_once(self, text: str) -> None:
        """Say what holds for all jobs of a sweep: the first one does."""
        (self.note if self._job else self.say)(text)

    def show(self, picture: str) -> None:
        """Show a picture in characters to a user who sits at a terminal before a single run."""
        (self.say if self._job is None and sys.stderr.isatty() else self.note)(picture)

    def note(self, text: str) -> None:
        """Write into the log alone. A line that does not begin a record is indented."""
        if self._log:
            record = lines(text).rstrip("\n").replace("\n", "\n    ")
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {record}\n")

    def close(self) -> None:
        if self._log:
            self._log.close()


class Progress:
    """Show how far work is, as a bar on a terminal, else as a line every ten seconds. `announced` is said where more
    than a minute remains. A `passing` one shows nothing of work of two seconds, and removes its bar."""

    def __init__(
        self, console: Console, what: str, total: int, start: int = 0, announced: str = "", passing: bool = False
    ) -> None:
        self._console, self._what, self._total, self._start = console, what, total, start
        self._announced, self._passing = announced, passing
        self._began = self._spoke = time.monotonic()
        is_shown = sys.stderr.isatty() and not console.is_silent
        bar: dict[str, Any] = {"disable": not is_shown, "leave": not passing, "delay": 2 if passing else 0}
        self._bar = tqdm(None, what, total, initial=start, file=sys.stderr, **bar)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.close()

    def is_due(self) -> bool:
        """Whether it is time to say something, since nothing was said for a while."""
        return time.monotonic() - self._spoke >= (10 if self._bar.disable else 1)

    def advance(self, done: int, note: str = "") -> None:
        """Show that `done` of `total` are done, with a `note` beside it."""
        self._bar.update(done - self._bar.n)
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        now = time.monotonic()
        rate = (done - self._start) / max(now - self._began, 1e-9)
        seconds = (self._total - done) / rate if rate else 0.0
        if self._announced and rate and now - self._began >= 2:
            if seconds > 60:
                self._console.say(f"{self._announced}: about {round(seconds / 60)} minute{'s' * (seconds >= 90)}")
            self._announced = ""
        is_last = done == self._total and not self._passing
        if not self._bar.disable:
            self._spoke = now
        elif note and (self.is_due() or is_last):
            self._spoke = now
            time_left = f"{int(seconds // 60)}:{int(seconds % 60):02d} left"
            self._console.say(f"{self._what} {done}/{self._total}  {note}  {rate:.3g}/s  {time_left}")


def follow(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items one after another, and show how many of them are done."""
    with Progress(Console(), what, total) as progress:
        for number, item in enumerate(items):
            progress.advance(number, "done" if number else "")
            yield item
        progress.advance(total)
