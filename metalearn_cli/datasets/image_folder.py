"""A folder of one's own: every folder in it that holds images is a class, and is named by its path; or a table, or a
pattern of file names, tells which classes there are (datasets/listing.py).

The folder is listed without opening a file. All images are opened when the set is packed; then all that is wrong is
said at once, and what is decoded is kept for another try (datasets/decoded.py). The name of a packed set carries a hash
of the files' names, sizes and times of change, and of what was asked for: a change of one of these is noticed.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.datasets.decoded import Decoded, opened, stem_of
from metalearn_cli.datasets.formats import SUFFIXES, Broken
from metalearn_cli.datasets.image_set import ImageSet, Unpacked, key_of
from metalearn_cli.datasets.listing import BY_FOLDERS, MOST_NAMED, Contents, File, Layout, classify, list_images, some
from metalearn_cli.datasets.packed_set import find, packed
from metalearn_cli.datasets.paths import cache_root, expand
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import printable
from metalearn_cli.system.typed_json import from_json, to_json


class Noted(NamedTuple):
    """The record beside a packed set: what was found when the images were opened, and in which folder."""

    broken: dict[str, str]  # files and folders, and what is wrong with them
    twice: tuple[tuple[str, str], ...]  # images with the same pixels, the first of its kind before each
    folder: str = ""  # an older version did not note it
    classes: tuple[str, ...] = ()
    layout: Layout = BY_FOLDERS


class Packed(NamedTuple):
    images: ImageSet
    path: Path
    noted: Noted
    listed: Path | None  # all files that cannot be used, if they are more than a sentence names
    outdated: list[str]  # the names of sets that were packed of this folder before it changed


def find_classes(root: str, key: str = "task.root", layout: Layout = BY_FOLDERS) -> Contents:
    """List the folder, which `key` names, and read the table, if there is one; open no other file."""
    folder = expand(root)
    if not folder.is_dir():
        raise UserError(f"{key}={root} is not a folder: give the one whose folders are the classes")
    contents = list_images(folder)
    classes = contents.classes
    if not classes:
        odd = [f"{name} {why}" for name, why in contents.closed.items()] + [f"only {name}" for name in contents.others]
        raise UserError(
            f"{key}={root} holds no images in folders ({some(odd[:1]) or 'it is empty'}): give the folder whose "
            f"folders are the classes, with images that end in {', '.join(SUFFIXES)}"
        )
    if layout.labels is not None or layout.pattern is not None:
        return classify(contents, root, layout)
    if "" in classes:
        or_table = ""
        if key == "task.root":
            or_table = ", unless task.labels=FILE.csv or task.pattern='{class}_*' tells the class of each image"
        raise UserError(
            f"{key}={root} holds images itself, e.g. {classes[''][0].name}: each class is a folder of its own in it"
            f"{or_table}"
        )
    for inner in classes:
        if above := next((name for name in _above(inner) if name in classes), None):
            upper, example = folder / above, classes[above][0].name
            raise UserError(
                f"{upper} holds images, e.g. {example}, and the class {inner} too: give the images a folder"
            )
    return contents


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path of a folder leads through, the outermost first."""
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def pack_folder(
    root: str, contents: Contents, names: list[str], preparation: Preparation, skip_broken: bool, skip_twice: bool
) -> Packed:
    """Pack [N, channels, size, size] of these classes, in this order, unless that is done. Broken files, unless they
    are to be skipped, raise UserError before anything is packed. `skip_twice` leaves out all but the first, by path, of
    images with the same pixels."""
    folder = str(expand(root).resolve())
    once = "once-" if skip_twice else ""
    stem = f"image-folder-{preparation.word}-{once}{key_of(_of_classes(contents, names))}"
    path, list_path = cache_root() / f"{stem}.json", cache_root() / f"{stem}.broken.txt"
    decoded_stem = stem_of(folder, preparation.word)
    decoded_list = cache_root() / f"{decoded_stem}.broken.txt"

    with contextlib.ExitStack() as until_packed:

        def read() -> Unpacked:
            decoded = until_packed.enter_context(opened(decoded_stem, folder, preparation.shape))
            classes, closed = _of_classes(contents, names)
            places, broken, twice = _read(expand(root), classes, preparation, skip_twice, decoded)
            noted = Noted(closed | broken, tuple(twice), folder, tuple(names), contents.layout)
            if not skip_broken:
                _refuse(root, noted.broken, decoded_list)
            _list(root, noted.broken, list_path)
            decoded_list.unlink(missing_ok=True)
            write_durably(path, json.dumps(to_json(noted), indent=1).encode())
            in_order = [place for of_class in places for place in of_class]
            blocks = decoded.blocks(in_order, f"packing {Path(folder).name}")
            return Unpacked(tuple(classes), [len(of_class) for of_class in places], preparation.shape, blocks)

        images = packed(stem, read)
    if (noted := _noted(stem)) is None:
        raise UserError(
            f"{path}, which says what was found when the images were packed, cannot be read: delete the packed set "
            "beside it, and the folder is packed again"
        )
    if not skip_broken:
        _refuse(root, noted.broken, list_path)  # it was packed for somebody who skips
    outdated = []
    for other in sorted(path.stem for path in cache_root().glob("image-folder-*.json")):
        # A note without a set is of a process that was killed while it packed.
        note = _noted(other) if other != stem and find(other) else None
        if note and (note.folder, note.layout) == (folder, contents.layout) and not _is_current(other, note, contents):
            outdated.append(other)
    return Packed(images, find(stem)[0], noted, list_path if list_path.exists() else None, outdated)


def describe_origin(stem: str) -> str:
    """Say which folder a packed set is of, and what has become of the folder."""
    noted = _noted(stem)
    if noted is None or not noted.folder:
        return "a folder that was not noted"
    if not Path(noted.folder).is_dir():
        return f"{printable(noted.folder)}, which is gone"
    contents = list_images(Path(noted.folder))
    try:
        contents = classify(contents, noted.folder, noted.layout)
    except UserError:  # its table is gone
        contents = Contents()
    return printable(noted.folder) + ("" if _is_current(stem, noted, contents) else ", which has changed since")


def _noted(stem: str) -> Noted | None:
    path = cache_root() / f"{stem}.json"
    try:
        return from_json(Noted, json.loads(path.read_text()), path)
    except (OSError, ValueError, UserError):
        return None


def _is_current(stem: str, noted: Noted, contents: Contents) -> bool:
    """Whether a packed set is what a folder still holds."""
    names = list(noted.classes)
    return contents.classes.keys() >= set(names) and stem.endswith(key_of(_of_classes(contents, names)))


def _of_classes(contents: Contents, names: list[str]) -> tuple[dict[str, list[File]], dict[str, str]]:
    """Return the images of these classes, and the paths of them, or of no known class, that cannot be followed."""
    others = contents.classes.keys() - set(names) if contents.layout == BY_FOLDERS else set()
    closed = {path: why for path, why in contents.closed.items() if others.isdisjoint(_above(path))}
    classes = {name: contents.classes[name] for name in names}
    absent = [file.name for files in classes.values() for file in files if file.size < 0]
    return classes, closed | {name: contents.absent[name] for name in absent}


def _refuse(root: str, broken: dict[str, str], path: Path) -> None:
    """Raises UserError if files cannot be used; if they are more than it names, all of them stand at `path`."""
    if broken:
        listed = f" ({path} lists all of them)" if _list(root, broken, path) else ""
        sentences = some([f"{name} {why}" for name, why in broken.items()], "; ")
        raise UserError(
            f"{len(broken)} of the files in {root} cannot be used: {sentences}{listed}: mend or remove them, or give "
            "task.skip_broken=true, which leaves them out"
        )


def _list(root: str, broken: dict[str, str], path: Path) -> bool:
    """Whether the files that cannot be used are more than a sentence names, and are listed by folder and cause."""
    if len(broken) <= MOST_NAMED:
        return False
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for file, why in broken.items():
        folder, _, name = file.rpartition("/")
        groups[folder, why].append(name)
    lines = [f"{len(broken)} of the files in {printable(root)} cannot be used, by folder and cause:"]
    for (folder, why), files in sorted(groups.items()):
        lines += ["", f"{printable(folder) or '.'}: {len(files)} {why}", *(f"    {printable(name)}" for name in files)]
    write_durably(path, ("\n".join(lines) + "\n").encode())
    return True


def _read(
    folder: Path, classes: dict[str, list[File]], preparation: Preparation, skip_twice: bool, decoded: Decoded
) -> tuple[list[list[int]], dict[str, str], list[tuple[str, str]]]:
    """Decode the images that are not decoded yet -> where the pixels of each class are, which files are broken and why,
    and which images have the pixels of an earlier one."""
    places: dict[str, list[int]] = {name: [] for name in classes}
    broken: dict[str, str] = {}
    twice: list[tuple[str, str]] = []
    seen: dict[str, str] = {}
    files = [(name, file) for name, listed in classes.items() for file in listed if file.size >= 0]
    for name, file in follow(files, f"reading {printable(folder.name)}", len(files)):
        if (pixels := decoded.find(file)) is None:
            try:
                pixels = decoded.add(file, preparation.read(folder / file.name))
            except Broken as error:
                pixels = decoded.add(file, str(error))
        if isinstance(pixels, str):
            broken[file.name] = pixels
            continue
        if (first := seen.setdefault(pixels.sha256, file.name)) != file.name:
            twice.append((first, file.name))
            if skip_twice:
                continue
        places[name].append(pixels.place)
    return list(places.values()), broken, twice
