"""miniImageNet: 100 classes of ImageNet with 600 images each (Vinyals et al. 2016, arXiv 1606.04080), in the split
64 / 16 / 20 of Ravi and Larochelle 2017 (openreview rJY0-Kcll).

ImageNet's licence does not let the images be passed on, and copies differ in size and compression. Hence there is no
list of hashes to hold them against: the classes and their split are the folder's own, counts and overlaps are checked,
each image is decoded when it is packed, and the fingerprint of the pixels stands in a run's results. Two layouts are
read, the first where both are there:

    train/<class>/<image>  val/<class>/<image>  test/<class>/<image>
    images/<filename>      train.csv  val.csv  test.csv    (Ravi's, with the columns filename and label)

Images of another size become 84 x 84 without regard to their proportions, as in the papers' code (MAML's
proc_images.py). The name of a packed set carries a hash of the files' names and sizes: when the folder changes, the set
is packed anew.
"""

import csv
import hashlib
import json
from collections import Counter, defaultdict
from enum import Enum, auto
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from metalearn_cli.datasets.base import ImageSet, data_root, packed
from metalearn_cli.datasets.folders import as_tensor, entries, read_rgb
from metalearn_cli.errors import UserError

CLASSES = {"train": 64, "val": 16, "test": 20}  # in the packed set they stand in this order, by name in each split
IMAGES = 600  # of each class
SIZE = 84

_LAYOUTS = (
    "train/, val/ and test/ with a folder of images for each class, or images/ with train.csv, val.csv and test.csv "
    "(columns filename and label)"
)


class Resample(Enum):
    """How an image of another size becomes 84 x 84."""

    lanczos = auto()  # what the papers' code does
    box = auto()  # the mean of the pixels that become one


def split_classes() -> dict[str, Tensor]:
    """The classes of each split, as positions in the packed set, [classes] int64. Reads nothing."""
    first = {"train": 0, "val": CLASSES["train"], "test": CLASSES["train"] + CLASSES["val"]}
    return {split: torch.arange(first[split], first[split] + count) for split, count in CLASSES.items()}


def load(resample: Resample, root: str | None = None) -> ImageSet:
    """The packed set, [60000, 3, 84, 84] with classes named split/class; on first use packed from the folder `root`."""
    folder = Path(root).expanduser() if root is not None else data_root() / "mini-imagenet"
    files = _list_files(folder)
    listing = json.dumps([[name, [[path.name, size] for path, size in _sizes(files[name])]] for name in files])
    key = hashlib.sha256(listing.encode()).hexdigest()[:16]
    return packed(f"mini-imagenet-{SIZE}x{SIZE}-{resample.name}-{key}", lambda: _read(files, resample))


def _read(files: dict[str, list[Path]], resample: Resample) -> ImageSet:
    pixels = torch.empty(len(files), IMAGES, 3, SIZE, SIZE, dtype=torch.uint8)
    with tqdm(total=len(files), desc="packing miniImageNet", disable=None) as progress:  # None: on a terminal only
        for paths, part in zip(files.values(), pixels, strict=True):
            for i, path in enumerate(paths):
                image = read_rgb(path).resize((SIZE, SIZE), Image.Resampling[resample.name.upper()])
                part[i] = as_tensor(image)
            progress.update()
    return ImageSet.of(pixels.flatten(0, 1), tuple(files), torch.full((len(files),), IMAGES))


def _list_files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, e.g. of train/n01532829, in the order of the packed set, once the counts are right."""
    if all((folder / split).is_dir() for split in CLASSES):
        splits = {split: _list_folder(folder / split) for split in CLASSES}
    elif all((folder / name).exists() for name in ("images", *(f"{split}.csv" for split in CLASSES))):
        splits = {split: _list_csv(folder, split) for split in CLASSES}
    else:
        raise UserError(_missing(folder))
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for name in sorted(classes):
            if name in seen:
                raise UserError(f"class {name} of {folder} is in {seen[name]} and in {split}: splits share no class")
            seen[name] = split
            if (count := len(classes[name])) != IMAGES:
                raise UserError(f"class {name} of {split} in {folder} has {count} images instead of {IMAGES}")
        if len(classes) != CLASSES[split]:
            raise UserError(f"{split} in {folder} has {len(classes)} classes instead of {CLASSES[split]}")
    return {f"{split}/{name}": splits[split][name] for split in CLASSES for name in sorted(splits[split])}


def _missing(folder: Path) -> str:
    """The sentence for a folder in neither layout."""
    pickles = [path.name for path in entries(folder) if path.suffix in (".pkl", ".pickle")] if folder.is_dir() else []
    if pickles:
        return (
            f"{folder} holds {pickles[0]}, and pickled caches are not read, since loading one can run any code: "
            f"take the images as {_LAYOUTS}"
        )
    return (
        f"miniImageNet is not in {folder}: put there {_LAYOUTS}, from your own copy of ImageNet, or set METALEARN_DATA "
        "to the folder whose subfolder mini-imagenet holds them, or task.root to the folder itself"
    )


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """The images of each class of train/, val/ or test/."""
    classes = entries(folder)
    if others := [path for path in classes if not path.is_dir()]:
        raise UserError(f"{others[0]} is no folder of a class, and {folder} may hold nothing else")
    return {path.name: entries(path) for path in classes}


def _list_csv(folder: Path, split: str) -> dict[str, list[Path]]:
    """The images of each class that train.csv, val.csv or test.csv lists, sorted by name."""
    path = folder / f"{split}.csv"
    classes = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: what spreadsheets write begins with a mark
            for line, row in enumerate(csv.DictReader(file), 2):
                if not (row["label"] and row["filename"]):
                    raise UserError(f"line {line} of {path} lacks a filename or a label")
                classes[row["label"]].append(row["filename"])
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise UserError(f"{path} cannot be read as a table with the columns filename and label ({error})") from error
    names = Counter(name for listed in classes.values() for name in listed)
    if twice := [name for name, count in names.items() if count > 1]:
        raise UserError(f"{path} lists {twice[0]} {names[twice[0]]} times")
    return {label: [folder / "images" / name for name in sorted(listed)] for label, listed in classes.items()}


def _sizes(paths: list[Path]) -> list[tuple[Path, int]]:
    """Each file with its size in bytes."""
    try:
        return [(path, path.stat().st_size) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
