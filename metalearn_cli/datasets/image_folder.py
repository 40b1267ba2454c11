"""A folder of one's own: every folder in it that holds images is a class, and is named by its path.

What is in the folder, and how large each file is, is known without opening one. All images are opened when the set is
packed, and what is wrong with any of them is said then, of all of them at once; meanwhile their pixels wait in a file
without a name in the cache, since how many are whole must be known before the first is packed. The name of a packed set
carries a hash of the files' names, sizes and times of change, and of what was asked for: whatever changes one of these
is noticed. (A file that another program replaces by one of the same size, and gives the old time of change, is not.)
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from metalearn_cli.datasets.base import ImageSet, Unpacked
from metalearn_cli.datasets.cache import find, packed, read_blocks, writing
from metalearn_cli.datasets.decode import Broken
from metalearn_cli.datasets.places import cache_root, expand
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.files import write_all, write_durably

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # in any case

_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # they do not count, nor does what is hidden


class File(NamedTuple):
    name: str  # its path in the folder
    size: int  # bytes
    changed: int  # when, in ns


class Contents(NamedTuple):
    """What is in a folder."""

    classes: dict[str, list[File]]  # the images of each class, by the path of its folder; all sorted
    others: list[str]  # files that are no images by their suffix
    closed: dict[str, str]  # folders and links that cannot be followed, and why


class Report(NamedTuple):
    """What was found when the images were opened."""

    broken: dict[str, str]  # files and folders, and what is wrong with them
    twice: list[tuple[str, str]]  # images with the same pixels, the first of its kind before each


class Packed(NamedTuple):
    images: ImageSet
    report: Report
    outdated: list[str]  # the names of sets that were packed of this folder before it changed


def find_classes(root: str, key: str = "task.root") -> Contents:
    """Lists the folder, which `key` names; opens no file."""
    folder = expand(root)
    if not folder.is_dir():
        raise UserError(f"{key}={root} is no folder: give the one whose folders are the classes")
    found = list_images(folder)
    if not found.classes:
        odd = [f"{name} {why}" for name, why in found.closed.items()] + [f"only {name}" for name in found.others]
        raise UserError(
            f"{key}={root} holds no images in folders ({some(odd[:1]) or 'it is empty'}): give the folder whose "
            f"folders are the classes, with images that end in {', '.join(SUFFIXES)}"
        )
    if "" in found.classes:
        raise UserError(
            f"{key}={root} holds images itself, e.g. {found.classes[''][0].name}: each class is a folder of its "
            "own in it"
        )
    for name in found.classes:
        if inner := [other for other in found.classes if other.startswith(f"{name}/")]:
            raise UserError(
                f"{folder / name} holds images, e.g. {found.classes[name][0].name}, and the class {inner[0]} too: put "
                "its own images in a folder beside that one"
            )
    return found


def list_images(folder: Path) -> Contents:
    """The images in a folder and in those inside it, by their folders."""
    found = Contents({}, [], {})
    _walk(folder, "", (), found)
    return found


def _walk(folder: Path, name: str, above: tuple[Path, ...], found: Contents) -> None:
    """Adds what is in the folder `name`; links are followed."""
    if (real := (folder / name).resolve()) in above:
        found.closed[name] = "is a link to a folder that holds it"
        return
    try:
        inside = sorted(os.scandir(real), key=lambda entry: entry.name)
    except OSError as error:
        found.closed[name or "."] = f"cannot be read ({error.strerror})"
        return
    for entry in inside:
        path = f"{name}/{entry.name}".lstrip("/")
        if entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS:
            continue
        is_image = entry.name.lower().endswith(SUFFIXES)
        try:
            if entry.is_dir():
                _walk(folder, path, (*above, real), found)
            elif is_image:
                about = entry.stat()
                found.classes.setdefault(name, []).append(File(path, about.st_size, about.st_mtime_ns))
            else:
                found.others.append(path)
        except OSError as error:  # a link to nothing or to itself
            found.closed[path] = f"cannot be read ({error.strerror})"


def load(root: str, found: Contents, names: list[str], preparation: Preparation, skip_broken: bool) -> Packed:
    """The packed set [N, channels, size, size] of these classes, in this order, and what was found in their files.

    Raises UserError, before anything is packed, where a file is broken, unless those are to be skipped.
    """
    classes, closed = _of_classes(found, names)
    stem = f"image-folder-{preparation.word}-{_key(found, names)}"
    path = cache_root() / f"{stem}.json"
    folder = str(expand(root).resolve())

    with contextlib.ExitStack() as until_packed:

        def read() -> Unpacked:
            with writing(cache_root()):
                pixels = until_packed.enter_context(tempfile.TemporaryFile(dir=cache_root(), buffering=0))
            counts, report = _read(expand(root), classes, closed, preparation, pixels)
            if not skip_broken:
                _refuse(root, report)
            noted = {"folder": folder, "classes": names, **report._asdict()}
            write_durably(path, json.dumps(noted, indent=1).encode())
            pixels.seek(0)
            shape = preparation.channels, preparation.size, preparation.size
            return Unpacked(tuple(classes), counts, shape, read_blocks(pixels, (sum(counts), *shape)))

        images = packed(stem, read)
    try:
        noted: dict[str, Any] = json.loads(path.read_text())
        report = Report(noted["broken"], [(first, second) for first, second in noted["twice"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} says what was found when the images were packed, and cannot be read ({error}): delete the packed "
            "set beside it, and the folder is packed anew"
        ) from error
    if not skip_broken:
        _refuse(root, report)  # it was packed for somebody who skips
    others = [other.stem for other in sorted(cache_root().glob("image-folder-*.json")) if other != path]
    # A note without a set is of a process that was killed while it packed.
    outdated = [o for o in others if find(o) and _noted(o)[0] == folder and not _is_current(o, found)]
    return Packed(images, report, outdated)


def whence(stem: str) -> str:
    """Of which folder a packed set is, and what has become of the folder."""
    folder, _ = _noted(stem)
    if not folder:
        return "a folder that nobody has noted"
    if not Path(folder).is_dir():
        return f"{printable(folder)}, which is gone"
    return printable(folder) + ("" if _is_current(stem, list_images(Path(folder))) else ", which has changed since")


def _noted(stem: str) -> tuple[str, list[str]]:
    """The folder and the classes of a packed set; nothing where it was packed by an older version."""
    try:
        noted: dict[str, Any] = json.loads((cache_root() / f"{stem}.json").read_text())
        return noted["folder"], noted["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []


def _is_current(stem: str, found: Contents) -> bool:
    """Whether this is what a folder holds still."""
    _, names = _noted(stem)
    return set(names) <= found.classes.keys() and stem.endswith(f"-{_key(found, names)}")


def _of_classes(found: Contents, names: list[str]) -> tuple[dict[str, list[File]], dict[str, str]]:
    """The images of these classes, and the paths that cannot be followed and are of one of them, or of none that is
    known."""
    others = [f"{name}/" for name in found.classes.keys() - set(names)]
    closed = {path: why for path, why in found.closed.items() if not path.startswith(tuple(others))}
    return {name: found.classes[name] for name in names}, closed


def _key(found: Contents, names: list[str]) -> str:
    """What tells these classes of a folder from what they were before a change."""
    return hashlib.sha256(json.dumps(_of_classes(found, names)).encode()).hexdigest()[:16]


def _refuse(root: str, report: Report) -> None:
    if broken := [f"{name} {why}" for name, why in report.broken.items()]:
        raise UserError(
            f"{len(broken)} of the files in {root} cannot be used: {some(broken, '; ')}: mend or remove them, or give "
            "task.skip_broken=true, which leaves them out"
        )


def _read(
    folder: Path,
    classes: dict[str, list[File]],
    closed: dict[str, str],
    preparation: Preparation,
    pixels: io.FileIO,
) -> tuple[list[int], Report]:
    """Write the images that can be used to `pixels`, one after another -> how many there are of each class."""
    broken, counts = dict(closed), []
    seen: dict[bytes, str] = {}
    twice: list[tuple[str, str]] = []
    total = sum(map(len, classes.values()))
    with tqdm(total=total, desc=f"packing {folder.name}", disable=None) as progress:  # None: on a terminal only
        for files in classes.values():
            counts.append(0)
            for file in files:
                progress.update()
                try:
                    picture = preparation.read(folder / file.name).contiguous().numpy().data
                except Broken as error:
                    broken[file.name] = str(error)
                    continue
                digest = hashlib.sha256(picture).digest()
                if (before := seen.setdefault(digest, file.name)) != file.name:
                    twice.append((before, file.name))
                with writing(cache_root()):
                    write_all(pixels, picture)
                counts[-1] += 1
    return counts, Report(broken, twice)


def some(items: list[str], separator: str = ", ", most: int = 10) -> str:
    """The first of them, and how many more there are."""
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([printable(item) for item in items[:most]] + rest)


def printable(name: str) -> str:
    """Names may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()
