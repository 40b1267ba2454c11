"""`metalearn data`: getting a data set ready, checking it, saying where it is, and what is packed."""

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from metalearn_cli.config.conf_folder import keys_in_yaml
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.sources import fetch, follow_bytes, unpack
from metalearn_cli.errors import UsageError, UserError, nearest
from metalearn_cli.system.console import show, tell, tell_each
from metalearn_cli.system.files import sync_folder, turn
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.tasks.packed_sets import clean, list_packed, packed_sets

if TYPE_CHECKING:
    from metalearn_cli.datasets.image_set import Source

# Heavy imports stand where they are needed, so that `path` is quick.

PLACE = 10
HELP = """\
Prepare, check, find or remove data sets.

metalearn data prepare|verify|path NAME [archive=FILE] [root=FOLDER]
metalearn data list
metalearn data clean NAME ... | unused=DAYS

  metalearn data prepare omniglot                             fetch it, check it and pack it; a second time does nothing
  metalearn data prepare cub archive=CUB_200_2011.tgz         the same from an archive (zip, tar, tar.gz) that you have
  metalearn data prepare image_folder task.root=DIR           packs a folder of your own, with any key of the task
  metalearn data verify omniglot                              read its source and its packed sets to the last byte
  metalearn data path omniglot                                where it is, and where it is packed, a line each
  metalearn data list                                         the packed sets: name, size, last use, and source
  metalearn data clean unused=30                              removes packed sets that were not used for 30 days
  metalearn data clean omniglot                               removes its packed sets, or one that list names
  metalearn list task                                         all data sets, and which are found here

NAME is a task's name. A data set is in $METALEARN_DATA/<its folder>, or in root=FOLDER (in a run task.root=FOLDER).
If a licence asks you to fetch it yourself, prepare says how. An interrupted download goes on where it stopped.
Packed sets are in $METALEARN_CACHE (~/.cache/metalearn): a removed set is packed again from its source when it is
needed, and a set that a running process uses is kept. A folder of your own that has changed leaves its old set there.
"""

OWN = "image_folder"  # a folder of one's own, which `prepare` takes with the keys of the task
KEYS = {"prepare": ("archive", "root"), "verify": ("root",), "path": ("root",)}  # of the actions with a NAME


def complete(words: list[str]) -> list[str]:
    match words[:-1]:
        case []:
            return [f"{action} " for action in (*KEYS, "list", "clean")]
        case ["clean", *names]:
            return [f"{each.name} " for each in packed_sets() if each.name not in names] + ["unused="] * (not names)
        case [action] if action in KEYS:
            return [f"{name} " for name in (*about_sets(), *([OWN] if action == "prepare" else []))]
        case ["prepare", name, *_] if name == OWN:
            return [f"{key}=" for key in keys_in_yaml("task", OWN)]
        case _:
            return [f"{key}=" for key in KEYS.get(words[0], ())]


def run(arguments: list[str]) -> int:
    match arguments:
        case ["list"]:
            list_packed()
        case ["clean", *words] if words:
            clean(words)
        case ["prepare", name, *options] if name == OWN:
            prepare_own(options)
        case [action, name, *options] if action in KEYS:
            values = _read_options(action, name, options)
            root, archive = values.get("root"), values.get("archive")
            if action == "prepare":
                prepare_known(name, root, None if archive is None else expand(archive))
            else:
                {"verify": verify, "path": show_paths}[action](name, root)
        case _:
            raise UsageError(
                f"data needs one of {', '.join(KEYS)} and a data set, or list, or clean; see metalearn data --help"
            )
    return 0


def _read_options(action: str, name: str, options: list[str]) -> dict[str, str]:
    """Return the values of options key=value."""
    if name == OWN:
        raise UserError(f"data {action} takes no folder of your own: data prepare {OWN} task.root=DIR packs one")
    if name not in about_sets():
        raise UserError(f"there is no data set {name}{nearest(name, about_sets())}")
    values = {}
    for option in options:
        key, equals, value = option.removeprefix("task.").partition("=")
        if not equals or key not in KEYS[action]:
            keys = " and ".join(f"{key}=..." for key in KEYS[action])
            raise UserError(f"data {action} does not know {option}: give {keys}")
        values[key] = value
    return values


def prepare_known(name: str, root: str | None, archive: Path | None) -> None:
    """Get the source if it is missing, and pack it unless it is packed."""
    from metalearn_cli.datasets.packed_set import find, packed

    known = about_sets()[name]
    try:
        is_packed = bool(find(_source(name, root).stem))
    except UserError:  # the source is missing, and is needed
        is_packed = False
    if not is_packed and not known.is_in(known.folder_of(root)):
        _get(name, known.folder_of(root), archive)
    elif archive is not None:
        tell(f"{archive} is not read, as {known.title} is there already")
    source = _source(name, root)
    images = packed(*source)
    show(
        f"{known.title} is ready{', and there was nothing to do' if is_packed else ''}: {images}, in "
        f"{find(source.stem)[0]}"
    )


def prepare_own(options: list[str]) -> None:
    """Pack a folder of one's own as a run with these keys of the task would."""
    from metalearn_cli.config.overrides import compose_run

    known = keys_in_yaml("task", OWN)
    keys = [option if option.startswith("task.") else f"task.{option}" for option in options]
    for option, key in zip(options, keys, strict=True):
        if (name := key.partition("=")[0]) not in known or "=" not in key:
            raise UserError(f"data prepare {OWN} takes the keys of the task, not {option}{nearest(name, known)}")
    overrides = [f"task={OWN}", "select=last", "eval_every=0", *keys]  # only a run needs classes to validate with
    composed, choices = compose_run(overrides)

    from metalearn_cli.config.job import train_job
    from metalearn_cli.tasks.image_folder import ImageFolder

    task = train_job(composed, choices, overrides).task
    assert isinstance(task, ImageFolder)
    tell_each(task.notes())
    show(f"{task.root} is ready: {task.packed.images}, in {task.packed.path}")


def verify(name: str, root: str | None) -> None:
    """Read the source as if to pack it again, and every packed file whole. Raises UserError for damage."""
    from metalearn_cli.datasets.image_set import describe, fingerprint_of
    from metalearn_cli.datasets.packed_set import open_packed

    known, folder = about_sets()[name], _folder(name, root)
    paths = known.packed_files()
    stem = fingerprint = None
    if folder is None:
        show("source: METALEARN_DATA is not set")
    elif known.is_in(folder):
        stem, read = _source(name, root)
        unpacked = read()
        fingerprint = fingerprint_of(unpacked)
        show(f"source {folder}: {describe(len(unpacked.names), unpacked.images, fingerprint)}")
    elif root is not None:
        raise UserError(f"{known.title} is not in root={root}")
    elif paths:
        show(f"source {folder}: missing")
    else:
        raise UserError(f"{known.title} is not in {folder}, and not packed: {known.instructions}")
    for path in paths:
        images = open_packed(path, whole=True)
        show(f"packed {path}: {images}")
        if path.name.partition(".")[0] == stem and images.fingerprint != fingerprint:
            raise UserError(f"{path} holds other images than {folder}: delete it, and they are packed again")
    if not paths:
        show("packed: not yet")


def show_paths(name: str, root: str | None) -> None:
    """Print the folder of the source, and the packed files, a line each."""
    known, folder = about_sets()[name], _folder(name, root)
    paths = known.packed_files()
    for path in ([] if folder is None else [folder]) + paths:
        show(str(path))
    if folder is None:
        tell(f"METALEARN_DATA is not set, so that the source of {known.title} is not looked for")
    elif not known.is_in(folder):
        tell(f"{known.title} is not in {folder}: {known.instructions}")
    if not paths:
        tell(f"{known.title} is not packed yet")


def _folder(name: str, root: str | None) -> Path | None:
    """Return where the source is looked for; None if nothing tells that, and the set is packed."""
    known = about_sets()[name]
    if root is None and not os.environ.get("METALEARN_DATA") and known.packed_files():
        return None
    return known.folder_of(root)


def _source(name: str, root: str | None) -> "Source":
    source: Source = importlib.import_module(f"metalearn_cli.tasks.{name}").source(root=root)
    return source


def _get(name: str, folder: Path, archive: Path | None) -> None:
    """Put the source in its folder. Raises UserError if only the user can."""
    known = about_sets()[name]
    if archive is None and not known.downloads:
        raise UserError(f"{known.title} is not in {folder}: {known.instructions}")
    if archive is not None and known.downloads:
        names = " and ".join(file for file, _, _ in known.downloads)
        raise UserError(f"archive={archive}: {known.title} is read from its archives: put {names} in {folder}")
    if archive is not None and not archive.is_file():
        raise UserError(f"archive={archive} is not a file")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with turn(folder.parent, f"waiting for another process that prepares a data set in {folder.parent}") as alone:
        if not alone:
            raise UserError(f"{folder.parent} cannot lock files: put the data set in {folder} yourself")
        if known.is_in(folder):  # another process was faster
            return
        if archive is not None:
            _unpack(name, archive, folder)
            return
        folder.mkdir(exist_ok=True)
        for file, address, md5 in known.downloads:
            if not (folder / file).exists():
                follow_bytes(f"fetching {file}", fetch(address, folder / file, md5))


def _unpack(name: str, archive: Path, folder: Path) -> None:
    """Unpack beside the folder, and rename what is needed into the folder."""
    known, temporary = about_sets()[name], folder.resolve().parent / f".{folder.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process's
    try:
        follow_bytes(f"unpacking {archive.name}", unpack(archive, temporary))
        folders = [temporary, *sorted(temporary.glob("*/")), *sorted(temporary.glob("*/*/"))]  # it may be a folder down
        if (holding := next((path for path in folders if known.is_in(path)), None)) is None:
            raise UserError(f"{archive} does not hold {known.title}, which would be {known.parts}")
        try:
            _source(name, str(holding))  # counts and names
        except UserError as sentence:
            raise UserError(f"{archive} was not put in {folder}: {sentence}") from sentence
        if not folder.exists():  # all of it at once
            holding.rename(folder)
            sync_folder(folder.parent)
            return
        parts = sorted(holding.iterdir())
        if taken := [part.name for part in parts if (folder / part.name).exists()]:
            raise UserError(f"{folder} holds another {taken[0]}: move it away, so that {archive} can be unpacked there")
        for part in parts:
            part.rename(folder / part.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
