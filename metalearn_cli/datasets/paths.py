"""Where data sets and packed sets are, what is in their folders, and writing there. Imports nothing heavy, so that
lists are quick."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain, turn_at

MOST_BYTES = 100_000_000  # of a table: a million rows and more


def data_root() -> Path:
    """Return the folder of all data sets."""
    if not (value := os.environ.get("METALEARN_DATA")):
        raise UserError("METALEARN_DATA is not set: set it to the folder of all data sets, or task.root to that of one")
    return expand(value)


def cache_root() -> Path:
    """Return the folder of all packed sets."""
    if (value := os.environ.get("METALEARN_CACHE")) == "":
        raise UserError("METALEARN_CACHE is set to nothing: set it to the folder for packed data sets, or unset it")
    return expand(value) if value else expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metalearn"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room there, or set METALEARN_CACHE to another folder"
        ) from error


@contextlib.contextmanager
def turn_of(stem: str, waits: bool = True) -> Iterator[bool]:
    """Yield whether this process alone may pack under this name now. A cache folder that was made for it, and is still
    empty at the end, is removed."""
    is_new = not cache_root().exists()
    waiting = f"waiting for another process that packs {stem} in {cache_root()}" if waits else None
    try:
        with contextlib.ExitStack() as turn:
            with writing(cache_root()):
                cache_root().mkdir(parents=True, exist_ok=True)
                alone = turn.enter_context(turn_at(cache_root() / f"{stem}.lock", waiting))
            yield alone
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty
                cache_root().rmdir()


def expand(path: str) -> Path:
    """Return the path, with the home folder for a ~ at its start. Raises UserError for what no path can be."""
    if "\0" in path:
        raise UserError(f"{path!r} holds a zero byte, which no path has")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} is in a home folder that is not known here: give the whole path (METALEARN_CACHE for packed sets)"
        ) from None


def names_in(folder: Path) -> list[str]:
    """Return what is in a folder, sorted; hidden entries (.DS_Store and the like) do not count."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - 779,165 Paths
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error


def sizes(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """Return the name of each file with its size in bytes."""
    try:
        return [(path.name, path.stat().st_size) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error


def inside(name: str, where: str) -> str:
    """Return a path in a folder, as somebody else's file has it. Raises UserError if it leads out of the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{where} names {name}, which leads out of the folder that it is about")
    return name


def check_table(path: Path) -> None:
    """Raises OSError for a table that is not a plain file, whose reading may never end, or is too large to be read."""
    check_plain(path)
    if (size := path.stat().st_size) > MOST_BYTES:
        raise OSError(
            errno.EFBIG, f"it has {size / 1e6:.0f} MB, and at most {MOST_BYTES / 1e6:.0f} are read", str(path)
        )
