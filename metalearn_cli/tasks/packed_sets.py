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
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.system.console import show
from metalearn_cli.system.files import turn
from metalearn_cli.tasks.known_sets import about_sets

FEATURES = ".features"  # ends the name of the features that a network with weights makes of a set


class PackedSet(NamedTuple):
    path: Path
    size: int  # bytes
    used: float  # when it was used last, in seconds

    @property
    def name(self) -> str:
        return self.path.name.rsplit(".", 2)[0]  # without the hash of its pixels

    @property
    def is_half(self) -> bool:
        """Whether its pictures are decoded, and not packed yet."""
        return self.path.suffix == ".decoded"

    @property
    def is_of_features(self) -> bool:
        return self.path.suffix == FEATURES

    @property
    def origin(self) -> str:
        if self.is_half:
            from metalearn_cli.datasets.decoded import decoded_folder  # imports torch

            return f"{decoded_folder(self.path) or 'a folder that was not noted'}, decoded and not packed yet"
        if self.is_of_features:
            from metalearn_cli.backbones.feature_cache import describe_features  # imports torch

            return describe_features(self.path)
        if self.name.startswith("image-folder-"):
            from metalearn_cli.datasets.image_folder import describe_origin  # imports torch

            return describe_origin(self.name)
        return ", ".join(known.title for known in about_sets().values() if self.path in known.packed_files())


def packed_sets() -> list[PackedSet]:
    """List the packed sets, the features of some, and what is decoded of folders and not packed yet."""
    paths = [(path, path.stat()) for path in sorted(cache_root().glob(f"*.{'[0-9a-f]' * 16}.safetensors"))]
    half = [(path, path.stat()) for path in sorted(cache_root().glob("decoded-*.decoded"))]
    made = [(path, path.stat()) for path in sorted(cache_root().glob(f"features-*{FEATURES}"))]
    sets = [PackedSet(path, status.st_size, status.st_atime) for path, status in paths]
    sets += [PackedSet(path, 512 * status.st_blocks, status.st_atime) for path, status in made]  # it has holes
    return sets + [PackedSet(path, status.st_size, status.st_mtime) for path, status in half]


def list_packed() -> None:
    """Print a line for each set: its name, its size, when it was used last, and where it is from."""
    sets = packed_sets()
    width = max((len(each.name) for each in sets), default=0)
    for each in sets:
        used = datetime.date.fromtimestamp(each.used)
        show(f"{each.name:<{width}}  {in_bytes(each.size):>7}  used {used}  {each.origin}")
    total = in_bytes(sum(each.size for each in sets))
    show(f"{sum(not (each.is_half or each.is_of_features) for each in sets)} packed set(s), {total}, in {cache_root()}")


def clean(words: list[str]) -> None:
    """Remove the sets of these names, or those that were not used for so many days (unused=30)."""
    days = [word.removeprefix("unused=") for word in words if word.startswith("unused=")]
    names = [word for word in words if not word.startswith("unused=")]
    if bool(days) == bool(names) or len(days) > 1:
        raise UserError("data clean needs the names of packed sets, or unused=DAYS: see metalearn data list")
    sets = packed_sets()
    if days and not days[0].isdecimal():
        raise UserError(f"unused={days[0]} must be a whole number of days, e.g. unused=30")
    oldest = time.time() - 86400 * int(days[0]) if days else -1.0
    chosen = [each for each in sets if each.used <= oldest] + [each for name in names for each in _named(sets, name)]
    if not cache_root().is_dir():
        show(f"nothing is packed in {cache_root()}")
        return
    with turn(cache_root(), f"waiting for another process that cleans {cache_root()}") as can_lock:
        if not can_lock:
            raise UserError(f"{cache_root()} cannot lock files, which would tell what is in use: remove them yourself")
        removed = [each for each in dict.fromkeys(chosen) if _remove(each)]
        freed = sum(each.size for each in removed)
        removed_names = [each.name for each in removed]
        for path in sorted(cache_root().glob("*.part-*")):  # what killed processes have not packed to the end
            with turn_of(path.name.rpartition(".part-")[0], waits=False) as alone:
                if alone:  # else it is being packed
                    freed += path.stat().st_size
                    path.unlink()
                    removed_names.append(path.name)
    listed = f": {', '.join(removed_names)}" if removed_names else ""
    show(f"removed {len(removed_names)} packed set(s), {in_bytes(freed)}{listed}")
    if in_use := ", ".join(each.name for each in chosen if each not in removed):
        raise UserError(f"in use by a running process, and kept: {in_use}")


def _named(sets: list[PackedSet], name: str) -> list[PackedSet]:
    """Return the set of this name, or all of a known data set."""
    files = known.packed_files() if (known := about_sets().get(name)) else []
    chosen = [each for each in sets if each.path in files or (not known and each.name == name)]
    if not chosen:
        raise UserError(f"there is no packed set {name}{nearest(name, [each.name for each in sets])}")
    return chosen


def _remove(chosen: PackedSet) -> bool:
    """Remove a set with what stands beside it -> whether it is gone: another process may pack or use it."""
    with turn_of(chosen.name, waits=False) as alone:
        descriptor = os.open(chosen.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            beside = [f"{chosen.name}{suffix}" for suffix in (".json", ".jsonl", ".broken.txt", ".decoded.jsonl")]
            for file in (chosen.path.name, f"{chosen.path.name}.known", *beside) if alone else ():
                chosen.path.with_name(file).unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return alone


def in_bytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
