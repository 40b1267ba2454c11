"""Where data sets and packed sets are, and writing there. Imports nothing heavy, so that lists are quick."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import turn_at

MOST_BYTES = 100_000_000  # of a table: a million rows and more


def data_root() -> Path:
    """The folder of all data sets."""
    if not (value := os.environ.get("METALEARN_DATA")):
        raise UserError(
            "METALEARN_DATA is not set: set it to the folder that holds the data sets (omniglot/, cifar-fs/, ...), "
            "or give the data set's own folder as task.root"
        )
    return expand(value)


def cache_root() -> Path:
    """The folder of all packed sets."""
    if (value := os.environ.get("METALEARN_CACHE")) == "":
        raise UserError("METALEARN_CACHE is set to nothing: set it to the folder for packed data sets, or unset it")
    return expand(value) if value else expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metalearn"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room there, "
            "or set METALEARN_CACHE to a folder that can be written"
        ) from error


@contextlib.contextmanager
def turn_of(stem: str, waits: bool = True) -> Iterator[bool]:
    """Whether this process alone may pack under this name now. Makes the cache's folder, and removes it where nothing
    has come into it: the source is missing, or holds something else."""
    made = not cache_root().exists()
    waiting = f"waiting for another process that packs {stem} in {cache_root()}" if waits else None
    try:
        with contextlib.ExitStack() as turn:
            with writing(cache_root()):
                cache_root().mkdir(parents=True, exist_ok=True)
                alone = turn.enter_context(turn_at(cache_root() / f"{stem}.lock", waiting))
            yield alone
    finally:
        if made:
            with contextlib.suppress(OSError):  # it is not empty
                cache_root().rmdir()


def expand(path: str) -> Path:
    """The path, with the home folder for a ~ at its start."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} is in a home folder that is not known here: give the whole path (METALEARN_CACHE for packed sets)"
        ) from None


def inside(name: str, where: str) -> str:
    """A path in a folder, as somebody else's file has it. Raises UserError for one that leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{where} names {name}, which leads out of the folder that it is about")
    return name


def check_table(path: Path, what: str) -> None:
    """Raises UserError where that is no plain file, or one that is too large to be read whole; OSError where it is not
    there. Reading something else may never end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{what} is no file: give a table with a row for each picture")
    if about.st_size > MOST_BYTES:
        raise UserError(
            f"{what} has {about.st_size / 1e6:.0f} MB, and at most {MOST_BYTES / 1e6:.0f} are read: leave out what "
            "is not used"
        )
