"""CIFAR-FS: the 100 classes of CIFAR-100, split 64 / 16 / 20 (Bertinetto et al. 2019, R2-D2, arXiv 1805.08136).

Read from the official layout, cifar100/data/<class>/*.png with 600 images of 32 x 32 pixels in each class.
`cifar_fs_classes.csv` lists every class with its part of the split, as in the official splits/bertinetto/*.txt, and the
first 16 hex digits of the sha256 of its 600 decoded images (32 x 32 x RGB bytes each, in the order of the file names).
The hashes are those of a lossless copy, whose means per channel are those in MetaOptNet's code to the last digit.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import ListedClass, Source, Unpacked, by_split, numbered, read_list
from metalearn_cli.datasets.paths import names_in
from metalearn_cli.datasets.pictures import Preparation, Resize, as_tensor, read_rgb
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
        images=60_000,
        fewest=600,
        licence="not stated",
        instructions="fetch cifar100.zip from https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view "
        "by hand, which a program cannot, and give metalearn data prepare cifar_fs archive=cifar100.zip",
    )
    preparation = Preparation(SIZE, 3, Resize.crop)

    @property
    def source(self) -> Source:
        return source(self.root)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        return by_split(classes())

    @property
    def groups(self) -> Tensor:
        """CIFAR-100's superclass of each class: 20 with five classes each."""
        return numbered(listed.group for listed in classes())

    @property
    def shared_names(self) -> Sequence[str]:
        """CIFAR-FS and FC100 have the same classes in different splits."""
        return [f"CIFAR-100's {listed.name}" for listed in classes()]


def classes() -> tuple[ListedClass, ...]:
    """Return all classes, sorted by name: in the packed set they stand in this order."""
    return read_list("cifar_fs")


def source(root: str | None = None) -> Source:
    """Return where the packed set comes from, [60000, 3, 32, 32]; its folder is needed only until it is packed."""
    names = tuple(listed.name for listed in classes())
    unpacked = Unpacked(names, [IMAGES] * len(names), (3, SIZE, SIZE), _blocks(root))
    return Source(f"cifar-fs-{SIZE}x{SIZE}", lambda: unpacked)


def _blocks(root: str | None) -> Iterator[Tensor]:
    """Yield the images of each class, [600, 3, 32, 32] uint8, once they are checked."""
    data = CifarFS.about.source_folder(root) / "cifar100" / "data"
    mend = "unpack cifar100.zip there again"
    names = {listed.name for listed in classes()}
    if unknown := sorted(set(names_in(data)) - names):
        raise UserError(f"{data} holds {unknown[0]}, which is not a class of CIFAR-FS: {mend}")
    if missing := sorted(names - set(names_in(data))):
        raise UserError(f"{data} has no class {missing[0]}: {mend}")
    for listed in follow(classes(), "reading CIFAR-FS", len(classes())):
        folder = data / listed.name
        paths = [folder / name for name in names_in(folder)]
        if len(paths) != IMAGES:
            raise UserError(f"{folder} holds {len(paths)} images instead of {IMAGES}: {mend}")
        images = [read_rgb(path) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image.size != (SIZE, SIZE):
                raise UserError(f"{path} is {image.width} x {image.height} pixels instead of {SIZE} x {SIZE}: {mend}")
        if hashlib.sha256(b"".join(image.tobytes() for image in images)).hexdigest()[:16] != listed.sha256:
            raise UserError(f"{folder} does not hold CIFAR-FS's {IMAGES} images under their names: {mend}")
        yield torch.stack([as_tensor(image) for image in images])
