"""tieredImageNet: 608 classes of ImageNet in 34 categories of WordNet (Ren et al. 2018, arXiv 1803.00676).

351 classes (20 categories) are for training, 97 (6) for validation and 160 (8) for the test, so that classes of two
splits share no category. `tiered_imagenet_classes.csv` lists each class with its split and category, by their WordNet
numbers, as the authors' lists do. Read from folders of images,

    train/<class>/<image>  val/<class>/<image>  test/<class>/<image>

whose classes must be those of the list, with 448,695, 124,261 and 206,209 images: all that ImageNet has of them. The
authors' own archive (train_images_png.pkl and so on) is not read: a pickle of it would take 8 GB of memory.

Images of another size become 84 x 84 without regard to their proportions. The name of a packed set carries a hash of
the files' names, which are listed at every start; that one of them was changed in its place is found out by
`metalearn data verify tiered_imagenet` alone. ImageNet's licence does not let the images be passed on, and copies
differ: the fingerprint of the pixels stands in a run's results.
"""

import csv
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import ImageSet, Source, Unpacked
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.datasets.paths import data_root, expand
from metalearn_cli.datasets.pictures import Resample, read_squares
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow

IMAGES = {"train": 448_695, "val": 124_261, "test": 206_209}
FEWEST = 732  # images of a class; the most are 1,300
SIZE = 84


class Listed(NamedTuple):
    """A row of the list."""

    name: str  # of the class, e.g. n01530575
    split: str  # train, val or test
    category: str


@cache
def classes() -> tuple[Listed, ...]:
    """All classes, by split and name: in the packed set they stand in this order."""
    with Path(__file__).with_name("tiered_imagenet_classes.csv").open(newline="") as file:
        return tuple(Listed(*row) for row in list(csv.reader(file))[1:])


def split_classes() -> dict[str, Tensor]:
    """The classes of each split, as positions in the list, [classes] int64. Reads no image."""
    return {split: torch.tensor([c for c, listed in enumerate(classes()) if listed.split == split]) for split in IMAGES}


def categories() -> Tensor:
    """The category of each class, as a number, [classes] int64."""
    names = sorted({listed.category for listed in classes()})
    return torch.tensor([names.index(listed.category) for listed in classes()])


def load(resample: Resample, root: str | None = None) -> ImageSet:
    """The packed set, [779165, 3, 84, 84] with classes named split/class; on first use packed from `root`."""
    return packed(*source(resample, root))


def source(resample: Resample = Resample.lanczos, root: str | None = None) -> Source:
    folder = expand(root) if root is not None else data_root() / "tiered-imagenet"
    files = _list_files(folder)
    key = hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()[:16]
    return Source(f"tiered-imagenet-{SIZE}x{SIZE}-{resample.name}-{key}", lambda: _read(folder, files, resample))


def _read(folder: Path, files: dict[str, list[str]], resample: Resample) -> Unpacked:
    progress = follow(files.items(), "reading tieredImageNet", len(files))
    blocks = (read_squares([folder / name / file for file in listed], SIZE, resample) for name, listed in progress)
    return Unpacked(tuple(files), [len(listed) for listed in files.values()], (3, SIZE, SIZE), blocks)


def _list_files(folder: Path) -> dict[str, list[str]]:
    """The names of each class's images, e.g. of train/n01530575, in the order of the packed set, once they are
    complete."""
    if missing := [split for split in IMAGES if not (folder / split).is_dir()]:
        raise UserError(
            f"tieredImageNet is not in {folder} (no {missing[0]}/ there): put there train/, val/ and test/ with a "
            "folder of images for each class, from your own copy of ImageNet, or set METALEARN_DATA to the folder "
            "whose subfolder tiered-imagenet holds them, or task.root to the folder itself"
        )
    files: dict[str, list[str]] = {}
    for split, images in IMAGES.items():
        wanted = {listed.name for listed in classes() if listed.split == split}
        found = set(_names(folder / split))
        if unknown := sorted(found - wanted):
            raise UserError(f"{folder / split} holds {unknown[0]}, which is no class of tieredImageNet's {split} split")
        if lacking := sorted(wanted - found):
            raise UserError(f"{folder / split} has no class {lacking[0]} ({len(lacking)} of {len(wanted)} are missing)")
        listed = {f"{split}/{name}": _names(folder / split / name) for name in sorted(wanted)}
        if few := [name for name, names in listed.items() if len(names) < FEWEST]:
            raise UserError(
                f"{folder / few[0]} holds {len(listed[few[0]])} images, and every class has {FEWEST} or more"
            )
        if (count := sum(map(len, listed.values()))) != images:
            raise UserError(f"{folder / split} holds {count} images instead of {images}")
        files |= listed
    return files


def _names(folder: Path) -> list[str]:
    """What is in a folder, sorted; hidden entries do not count."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208 - 779,165 Paths
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error
