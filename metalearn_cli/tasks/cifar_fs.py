"""CIFAR-FS: the 100 classes of CIFAR-100, split 64 / 16 / 20 (Bertinetto et al. 2019, R2-D2, arXiv 1805.08136).

Read from the official layout, cifar100/data/<class>/*.png with 600 images of 32 x 32 pixels in each class.
`cifar_fs_classes.csv` lists every class with its part of the split and the first 16 hex digits of the sha256 of its 600
decoded images (32 x 32 x RGB bytes each, in the order of the file names), so that the check does not depend on how the
PNGs were compressed. The split is that of the official splits/bertinetto/*.txt, which are not read. The hashes were
computed from a lossless copy of all 60,000 images, whose means per channel (129.37731888, 124.10583864, 112.47758569)
are those in MetaOptNet's code to the last digit; the official archive itself was not at hand. Because the list fixes
the content, a packed set needs the folder no more.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.datasets.class_lists import ListedClass, by_split, numbered, read_list
from metalearn_cli.datasets.folders import entries
from metalearn_cli.datasets.image_set import Source, Unpacked
from metalearn_cli.datasets.pictures import Resize, as_tensor, read_rgb
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

IMAGES = 600  # of each class
SIZE = 32


@dataclass(frozen=True)
class CifarFS(ImageTask):
    episodes: Episodes = Episodes()
    root: str | None = None  # the folder that holds cifar100/; null: $METALEARN_DATA/cifar-fs

    about = About(
        title="CIFAR-FS",
        folder="cifar-fs",
        layouts=(("cifar100/data",),),
        classes=100,
        images=60000,
        licence="not stated",
        instructions="fetch cifar100.zip from "
        "https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view by hand, which a program cannot, and "
        "give metalearn data prepare cifar_fs archive=cifar100.zip",
    )
    fewest = IMAGES
    preparation = Preparation(SIZE, 3, Resize.crop)

    @property
    def source(self) -> Source:
        return source(self.root)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        return by_split(classes())

    @property
    def groups(self) -> Tensor:
        return superclasses()

    @property
    def shared_names(self) -> Sequence[str]:
        return shared_names()


def classes() -> tuple[ListedClass, ...]:
    """All classes, sorted by name: in the packed set they stand in this order."""
    return read_list("cifar_fs")


def superclasses() -> Tensor:
    """CIFAR-100's superclass of each class, as a number, [classes] int64: 20 with five classes each."""
    return numbered(listed.group for listed in classes())


def shared_names() -> list[str]:
    """The name of each class, which CIFAR-FS and FC100 have in other splits."""
    return [f"CIFAR-100's {listed.name}" for listed in classes()]


def source(root: str | None = None) -> Source:
    """The packed set, [60000, 3, 32, 32]; it needs the folder only until it is packed."""
    return Source(f"cifar-fs-{SIZE}x{SIZE}", lambda: _read(root))


def _read(root: str | None) -> Unpacked:
    folder = CifarFS.about.source_folder(root) / "cifar100" / "data"
    mend = "unpack cifar100.zip there again"
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
