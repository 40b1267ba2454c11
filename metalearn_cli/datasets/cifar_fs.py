"""CIFAR-FS: the 100 classes of CIFAR-100, split 64 / 16 / 20 (Bertinetto et al. 2019, R2-D2, arXiv 1805.08136).

Read from the official layout, cifar100/data/<class>/*.png with 600 images of 32 x 32 pixels in each class.
`cifar_fs_classes.csv` lists every class with its part of the split and the first 16 hex digits of the sha256 of its 600
decoded images (32 x 32 x RGB bytes each, in the order of the file names), so that the check does not depend on how the
PNGs were compressed. The split is that of the official splits/bertinetto/*.txt, which are not read. The hashes were
computed from a lossless copy of all 60,000 images, whose means per channel (129.37731888, 124.10583864, 112.47758569)
are those in MetaOptNet's code to the last digit; the official archive itself was not at hand. Because the list fixes
the content, a packed set needs the folder no more.
"""

import csv
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.datasets.folders import entries
from metalearn_cli.datasets.image_set import ImageSet, Source, Unpacked
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.datasets.paths import data_root, expand
from metalearn_cli.datasets.pictures import as_tensor, read_rgb
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow

IMAGES = 600  # of each class
SIZE = 32

ADDRESS = (
    "https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view"  # github.com/bertinetto/r2d2 names it
)


class Listed(NamedTuple):
    """A row of the list."""

    name: str  # of the class, e.g. apple
    split: str  # train, val or test
    sha256: str
    superclass: str = ""  # CIFAR-100's, e.g. fruit_and_vegetables: 20 with five classes each


@cache
def classes() -> tuple[Listed, ...]:
    """All classes, sorted by name: in the packed set they stand in this order."""
    with Path(__file__).with_name("cifar_fs_classes.csv").open(newline="") as file:
        return tuple(Listed(*row) for row in list(csv.reader(file))[1:])


def split_classes() -> dict[str, Tensor]:
    """The classes of each split, as positions in the list, [classes] int64. Reads no image."""
    return {
        name: torch.tensor([c for c, listed in enumerate(classes()) if listed.split == name])
        for name in ("train", "val", "test")
    }


def superclasses() -> Tensor:
    """The superclass of each class, as a number, [classes] int64."""
    names = sorted({listed.superclass for listed in classes()})
    return torch.tensor([names.index(listed.superclass) for listed in classes()])


def load(root: str | None = None) -> ImageSet:
    """The packed set, [60000, 3, 32, 32]; on first use packed from cifar100/data in `root`."""
    return packed(*source(root))


def source(root: str | None = None) -> Source:
    return Source(f"cifar-fs-{SIZE}x{SIZE}", lambda: _read(root))


def _read(root: str | None) -> Unpacked:
    folder = (expand(root) if root is not None else data_root() / "cifar-fs") / "cifar100" / "data"
    mend = f"unpack cifar100.zip from {ADDRESS} again"
    if not folder.is_dir():
        raise UserError(
            f"CIFAR-100's images are not there (no folder {folder}): fetch cifar100.zip from {ADDRESS}, and metalearn "
            f"data prepare cifar_fs archive=cifar100.zip puts it in {folder.parents[1]}; or set METALEARN_DATA to the "
            "folder whose subfolder cifar-fs holds cifar100/, or task.root to the folder that holds cifar100/"
        )
    names = tuple(listed.name for listed in classes())
    found = {path.name for path in entries(folder)}
    if unknown := sorted(found - set(names)):
        raise UserError(f"{folder} holds {unknown[0]}, which is no class of CIFAR-FS: {mend}")
    if missing := sorted(set(names) - found):
        raise UserError(f"{folder} has no class {missing[0]}: {mend}")
    return Unpacked(names, [IMAGES] * len(names), (3, SIZE, SIZE), _blocks(folder, mend))


def _blocks(folder: Path, mend: str) -> Iterator[Tensor]:
    """The images of each class, [600, 3, 32, 32] uint8, once they were checked."""
    for listed in follow(classes(), "reading CIFAR-FS", len(classes())):
        paths = entries(folder / listed.name)
        if len(paths) != IMAGES:
            raise UserError(f"{folder / listed.name} holds {len(paths)} images instead of {IMAGES}: {mend}")
        block = torch.empty(IMAGES, 3, SIZE, SIZE, dtype=torch.uint8)
        digest = hashlib.sha256()
        for path, part in zip(paths, block, strict=True):
            image = read_rgb(path)
            if image.size != (SIZE, SIZE):
                raise UserError(f"{path} is {image.width} x {image.height} pixels instead of {SIZE} x {SIZE}: {mend}")
            digest.update(image.tobytes())
            part.copy_(as_tensor(image))
        if digest.hexdigest()[:16] != listed.sha256:
            raise UserError(
                f"{folder / listed.name} does not hold CIFAR-FS's {IMAGES} images under their names: {mend}"
            )
        yield block
