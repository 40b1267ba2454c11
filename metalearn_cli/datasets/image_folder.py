"""A folder of one's own: every folder in it that holds images is a class, and is named by its path; or a table, or a
pattern of file names, says which classes there are (datasets/labels.py).

What is in the folder, and how large each file is, is known without opening one. All images are opened when the set is
packed, and what is wrong with any of them is said then, of all of them at once; what is decoded meanwhile is kept for
another try (datasets/decoded.py). The name of a packed set carries a hash of the files' names, sizes and times of
change, and of what was asked for: whatever changes one of these is noticed. (A file that another program replaces by
one of the same size, and gives the old time of change, is not.)
"""

import contextlib
import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.datasets.decoded import Decoded, File, opened, stem_of
from metalearn_cli.datasets.formats import SUFFIXES, is_picture
from metalearn_cli.datasets.image_set import ImageSet, Unpacked
from metalearn_cli.datasets.labels import Layout, by_pattern, by_table
from metalearn_cli.datasets.packed_set import find, packed
from metalearn_cli.datasets.paths import cache_root, expand
from metalearn_cli.datasets.pictures import Broken
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import printable

MOST_NAMED = 10  # in a sentence
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "__macosx")  # they do not count, nor does what is hidden


BY_FOLDERS = Layout()


@dataclass(frozen=True)
class Contents:
    """What is in a folder."""

    classes: dict[str, list[File]] = field(default_factory=dict)  # the images of each class, e.g. by the path of its
    # folder; all sorted
    others: list[str] = field(default_factory=list)  # files that are no images by their suffix
    closed: dict[str, str] = field(default_factory=dict)  # folders and links that cannot be followed, and why
    empty: list[str] = field(default_factory=list)  # folders in which nothing is
    hidden: list[str] = field(default_factory=list)  # folders whose names begin with a dot
    absent: dict[str, str] = field(default_factory=dict)  # of a class, of size -1, and no images by the list; and why
    rest: list[str] = field(default_factory=list)  # images of no class by the table or the pattern
    layout: Layout = BY_FOLDERS


class Report(NamedTuple):
    """What was found when the images were opened."""

    broken: dict[str, str]  # files and folders, and what is wrong with them
    twice: list[tuple[str, str]]  # images with the same pixels, the first of its kind before each


class How(NamedTuple):
    """What the images of a folder become, and which of them are left out."""

    preparation: Preparation
    skip_broken: bool = False
    skip_twice: bool = False  # of images with the same pixels all but the first, by path, are left out


class Packed(NamedTuple):
    images: ImageSet
    path: Path
    report: Report
    listed: Path | None  # all files that cannot be used, where they are more than a sentence names
    outdated: list[str]  # the names of sets that were packed of this folder before it changed


def find_classes(root: str, key: str = "task.root", layout: Layout = BY_FOLDERS) -> Contents:
    """Lists the folder, which `key` names, and reads the table, if there is one; opens no other file."""
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
    if not layout.is_by_folders:
        return _labelled(root, found, layout)
    if "" in found.classes:
        or_table = ""
        if key == "task.root":
            or_table = ", unless task.labels=FILE.csv or task.pattern='{class}_*' tells of which class each image is"
        raise UserError(
            f"{key}={root} holds images itself, e.g. {found.classes[''][0].name}: each class is a folder of its "
            f"own in it{or_table}"
        )
    for inner in found.classes:
        if above := next((name for name in _above(inner) if name in found.classes), None):
            raise UserError(
                f"{folder / above} holds images, e.g. {found.classes[above][0].name}, and the class {inner} too: put "
                "its own images in a folder beside that one"
            )
    return found


def _labelled(root: str, found: Contents, layout: Layout) -> Contents:
    """Sort the images that were found into the classes that a table or a pattern gives them."""
    files = [file for listed in found.classes.values() for file in listed]
    if layout.labels is None:
        labelled = by_pattern(layout, root, files, found.closed)
        closed = {path: why for path, why in found.closed.items() if path not in labelled.absent}
        return replace(found, **labelled._asdict(), closed=closed, layout=layout)
    table, folder = expand(layout.labels), expand(root)
    odd = dict.fromkeys(found.others, "is no image by its suffix") | found.closed
    labelled = by_table(layout, root, files, odd)
    is_table = {name for name in found.others if Path(name).name == table.name and (folder / name).samefile(table)}
    others = [name for name in found.others if name not in is_table]
    return replace(found, **labelled._asdict(), others=others, closed={}, layout=layout)


def _above(path: str) -> Iterator[str]:
    """The folders that a path of a folder leads through, the outermost first."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def list_images(folder: Path) -> Contents:
    """The images in a folder and in those inside it, by their folders."""
    found = Contents()
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
    if name and all(map(_does_not_count, inside)):
        found.empty.append(name)
    for entry in inside:
        path = f"{name}/{entry.name}".lstrip("/")
        if entry.name.startswith(".") and entry.is_dir():
            found.hidden.append(path)
        if _does_not_count(entry):
            continue
        is_image = is_picture(entry.name)
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


def _does_not_count(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(".") or entry.name.lower() in _LEFT_BY_SYSTEMS


def load(root: str, found: Contents, names: list[str], how: How) -> Packed:
    """The packed set [N, channels, size, size] of these classes, in this order, and what was found in their files.

    Raises UserError, before anything is packed, where a file is broken, unless those are to be skipped.
    """
    folder = str(expand(root).resolve())
    preparation, once = how.preparation, "once-" if how.skip_twice else ""
    stem = f"image-folder-{preparation.word}-{once}{_key(found, names)}"
    path, list_path = cache_root() / f"{stem}.json", cache_root() / f"{stem}.broken.txt"
    kept = stem_of(folder, preparation.word)
    of_kept = cache_root() / f"{kept}.broken.txt"

    with contextlib.ExitStack() as until_packed:

        def read() -> Unpacked:
            decoded = until_packed.enter_context(opened(kept, folder, shape := preparation.shape))
            classes, closed = _of_classes(found, names)
            counts, report, places = _read(expand(root), classes, closed, how, decoded)
            if not how.skip_broken:
                _refuse(root, report, of_kept)
            _list(root, report, list_path)
            of_kept.unlink(missing_ok=True)
            noted = {"folder": folder, "classes": names, "layout": found.layout._asdict(), **report._asdict()}
            write_durably(path, json.dumps(noted, indent=1).encode())
            return Unpacked(tuple(classes), counts, shape, decoded.blocks(places, f"packing {Path(folder).name}"))

        images = packed(stem, read)
    try:
        noted: dict[str, Any] = json.loads(path.read_text())
        report = Report(noted["broken"], [(first, second) for first, second in noted["twice"]])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} says what was found when the images were packed, and cannot be read ({error}): delete the packed "
            "set beside it, and the folder is packed anew"
        ) from error
    if not how.skip_broken:
        _refuse(root, report, list_path)  # it was packed for somebody who skips
    others = [other.stem for other in sorted(cache_root().glob("image-folder-*.json")) if other != path]
    # A note without a set is of a process that was killed while it packed.
    outdated = [o for o in others if find(o) and _noted(o).is_of(folder, found.layout) and not _is_current(o, found)]
    return Packed(images, find(stem)[0], report, list_path if list_path.exists() else None, outdated)


class Noted(NamedTuple):
    """What is known of a packed set; nothing where it was packed by an older version."""

    folder: str = ""
    classes: tuple[str, ...] = ()
    layout: Layout = BY_FOLDERS

    def is_of(self, folder: str, layout: Layout) -> bool:
        return (self.folder, self.layout) == (folder, layout)


def whence(stem: str) -> str:
    """Of which folder a packed set is, and what has become of the folder."""
    folder, _, layout = _noted(stem)
    if not folder:
        return "a folder that nobody has noted"
    if not Path(folder).is_dir():
        return f"{printable(folder)}, which is gone"
    try:
        found = list_images(Path(folder))
        found = found if layout.is_by_folders else _labelled(folder, found, layout)
    except UserError:  # its table is gone
        found = Contents()
    return printable(folder) + ("" if _is_current(stem, found) else ", which has changed since")


def _noted(stem: str) -> Noted:
    try:
        noted: dict[str, Any] = json.loads((cache_root() / f"{stem}.json").read_text())
        layout = noted.get("layout", {})
        layout = Layout(layout.get("labels"), tuple(layout.get("columns", BY_FOLDERS.columns)), layout.get("pattern"))
        return Noted(str(noted["folder"]), tuple(noted["classes"]), layout)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Noted()


def _is_current(stem: str, found: Contents) -> bool:
    """Whether this is what a folder holds still."""
    names = _noted(stem).classes
    return set(names) <= found.classes.keys() and stem.endswith(f"-{_key(found, list(names))}")


def _of_classes(found: Contents, names: list[str]) -> tuple[dict[str, list[File]], dict[str, str]]:
    """The images of these classes, and the paths that cannot be followed and are of one of them, or of none that is
    known."""
    others = found.classes.keys() - set(names) if found.layout.is_by_folders else set()
    closed = {path: why for path, why in found.closed.items() if others.isdisjoint(_above(path))}
    classes = {name: found.classes[name] for name in names}
    return classes, closed | {
        file.name: found.absent[file.name] for of in classes.values() for file in of if file.size < 0
    }


def _key(found: Contents, names: list[str]) -> str:
    """What tells these classes of a folder from what they were before a change."""
    return hashlib.sha256(json.dumps(_of_classes(found, names)).encode()).hexdigest()[:16]


def _refuse(root: str, report: Report, path: Path) -> None:
    """Raises UserError where files cannot be used; where they are more than it names, all of them stand at `path`."""
    if broken := [f"{name} {why}" for name, why in report.broken.items()]:
        listed = f" ({path} lists all of them)" if _list(root, report, path) else ""
        raise UserError(
            f"{len(broken)} of the files in {root} cannot be used: {some(broken, '; ')}{listed}: mend or remove them, "
            "or give task.skip_broken=true, which leaves them out"
        )


def _list(root: str, report: Report, path: Path) -> bool:
    """Whether the files that cannot be used are more than a sentence names, and are listed by folder and cause."""
    if len(report.broken) <= MOST_NAMED:
        return False
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file, why in report.broken.items():
        folder, _, name = file.rpartition("/")
        groups[folder, why].append(name)
    lines = [f"{len(report.broken)} of the files in {printable(root)} cannot be used, by folder and cause:"]
    for (folder, why), files in sorted(groups.items()):
        lines += ["", f"{printable(folder) or '.'}: {len(files)} {why}", *(f"    {printable(name)}" for name in files)]
    write_durably(path, ("\n".join(lines) + "\n").encode())
    return True


def _read(
    folder: Path, classes: dict[str, list[File]], closed: dict[str, str], how: How, decoded: Decoded
) -> tuple[list[int], Report, list[int]]:
    """Decode the images that are not decoded yet -> how many of each class can be used, what was found, and where the
    pixels of those are."""
    broken, counts, places = dict(closed), dict.fromkeys(classes, 0), []
    seen: dict[str, str] = {}
    twice: list[tuple[str, str]] = []
    files = [(name, file) for name, listed in classes.items() for file in listed if file.size >= 0]
    for name, file in follow(files, f"reading {printable(folder.name)}", len(files)):
        if (pixels := decoded.find(file)) is None:
            try:
                pixels = decoded.add(file, how.preparation.read(folder / file.name))
            except Broken as error:
                pixels = decoded.add(file, str(error))
        if isinstance(pixels, str):
            broken[file.name] = pixels
            continue
        if (before := seen.setdefault(pixels.sha256, file.name)) != file.name:
            twice.append((before, file.name))
            if how.skip_twice:
                continue
        places.append(pixels.place)
        counts[name] += 1
    return list(counts.values()), Report(broken, twice), places


def some(items: list[str], separator: str = ", ", most: int = MOST_NAMED) -> str:
    """The first of them, and how many more there are."""
    rest = [f"and {len(items) - most} more"] if len(items) > most else []
    return separator.join([printable(item) for item in items[:most]] + rest)
