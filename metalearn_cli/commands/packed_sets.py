"""`metalearn data list` and `metalearn data clean`: which packed sets there are, and removing them.

A set that a process has mapped is locked (datasets/packed_set.py), so that it is not removed before that process ends.
"""

import datetime
import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.datasets.paths import cache_root, turn_of
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import show
from metalearn_cli.system.files import turn
from metalearn_cli.tasks.known_sets import about_sets


class PackedSet(NamedTuple):
    path: Path
    size: int  # bytes
    used: float  # when it was used last, in seconds

    @property
    def name(self) -> str:
        return self.path.name.rsplit(".", 2)[0]  # without the hash of its pixels

    @property
    def is_half(self) -> bool:
        """Its pictures are decoded, and not packed yet."""
        return self.path.suffix == ".decoded"


def packed_sets() -> list[PackedSet]:
    """List the packed sets, and what is decoded of folders and not packed yet."""
    paths = sorted(cache_root().glob(f"*.{'[0-9a-f]' * 16}.safetensors"))
    sets = [PackedSet(path, path.stat().st_size, path.stat().st_atime) for path in paths]
    half = [(path, path.stat()) for path in sorted(cache_root().glob("decoded-*.decoded"))]
    return sets + [PackedSet(path, about.st_size, about.st_mtime) for path, about in half]


def list_packed() -> None:
    """A line for each set: its name, its size, when it was used last, and of what it is."""
    found = packed_sets()
    width = max((len(one.name) for one in found), default=0)
    lines = [
        f"{one.name:<{width}}  {in_bytes(one.size):>7}  used {datetime.date.fromtimestamp(one.used)}  {_source(one)}"
        for one in found
    ]
    total = in_bytes(sum(one.size for one in found))
    number = sum(not one.is_half for one in found)
    show("\n".join([*lines, f"{number} packed set(s), {total}, in {cache_root()}"]))


def _source(one: PackedSet) -> str:
    if one.is_half:
        from metalearn_cli.datasets.decoded import folder_of  # imports torch

        return f"{folder_of(one.path) or 'a folder that nobody has noted'}, decoded and not packed yet"
    if one.name.startswith("image-folder-"):
        from metalearn_cli.datasets.image_folder import whence  # imports torch

        return whence(one.name)
    return ", ".join(known.title for known in about_sets().values() if one.path in known.packed_files())


def clean(words: list[str]) -> None:
    """Remove the sets of these names, or those that were not used for so many days (unused=30)."""
    days = [word.removeprefix("unused=") for word in words if word.startswith("unused=")]
    names = [word for word in words if not word.startswith("unused=")]
    if bool(days) == bool(names) or len(days) > 1:
        raise UserError("data clean wants the names of packed sets, or unused=DAYS: see metalearn data list")
    found = packed_sets()
    chosen = _unused(found, days[0]) if days else [one for name in names for one in _named(found, name)]
    if not cache_root().is_dir():
        show(f"nothing is packed in {cache_root()}")
        return
    with turn(cache_root(), f"waiting for another process that cleans {cache_root()}") as can_lock:
        if not can_lock:
            raise UserError(
                f"{cache_root()} stands on a file system that cannot lock files, so that nobody knows what is in use: "
                "remove the files yourself"
            )
        removed = [one for one in dict.fromkeys(chosen) if _remove(one)]
        freed = sum(one.size for one in removed)
        parts: list[Path] = []  # what killed processes have not packed to the end
        for path in sorted(cache_root().glob("*.part-*")):
            with turn_of(path.name.rpartition(".part-")[0], waits=False) as alone:
                if alone:  # else it is being packed
                    freed += path.stat().st_size
                    path.unlink()
                    parts.append(path)
    what = ", ".join([one.name for one in removed] + [path.name for path in parts])
    show(f"removed {len(removed) + len(parts)} packed set(s), {in_bytes(freed)}{what and f': {what}'}")
    if in_use := ", ".join(one.name for one in chosen if one not in removed):
        raise UserError(f"in use by a running process, and kept: {in_use}")


def _unused(found: list[PackedSet], days: str) -> list[PackedSet]:
    if not days.isdecimal():
        raise UserError(f"unused={days} must be a whole number of days, e.g. unused=30")
    return [one for one in found if one.used <= time.time() - 86400 * int(days)]


def _named(found: list[PackedSet], name: str) -> list[PackedSet]:
    """One set, or all of a known data set."""
    if known := about_sets().get(name):
        chosen = [one for one in found if one.path in known.packed_files()]
    else:
        chosen = [one for one in found if one.name == name]
    if not chosen:
        from metalearn_cli.errors import nearest

        raise UserError(f"there is no packed set {name}{nearest(name, [one.name for one in found])}")
    return chosen


def _remove(one: PackedSet) -> bool:
    """Whether nobody packed or used it, and it is gone, with what stands beside it."""
    with turn_of(one.name, waits=False) as alone:
        descriptor = os.open(one.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            beside = [
                one.path.with_name(f"{one.name}{suffix}") for suffix in (".json", ".broken.txt", ".decoded.jsonl")
            ]
            for part in (one.path, Path(f"{one.path}.known"), *beside) if alone else ():
                part.unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return alone


def in_bytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
