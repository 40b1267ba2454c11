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

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from metalearn_cli.datasets.class_lists import ListedClass, by_split, numbered, read_list
from metalearn_cli.datasets.image_set import Source, Unpacked
from metalearn_cli.datasets.pictures import Resample, Resize, read_squares
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

IMAGES = {"train": 448_695, "val": 124_261, "test": 206_209}
FEWEST = 732  # images of a class; the most are 1,300
SIZE = 84


@dataclass(frozen=True)
class TieredImageNet(ImageTask):
    episodes: Episodes = Episodes()
    resample: Resample = Resample.lanczos  # how images of another size become 84 x 84
    root: str | None = None  # the folder of the data set; null: $METALEARN_DATA/tiered-imagenet

    about = About(
        title="tieredImageNet",
        folder="tiered-imagenet",
        layouts=(("train", "val", "test"),),
        classes=608,
        images=779165,
        licence="research only",
        instructions="its licence wants that you make it from your own copy of ImageNet (https://image-net.org); "
        "metalearn data prepare tiered_imagenet archive=FILE takes an archive of train/, val/ and test/ with a folder "
        "of images for each class",
    )
    fewest = FEWEST
    folders = 1  # that of the split

    @property
    def preparation(self) -> Preparation:
        return Preparation(SIZE, 3, Resize.stretch, self.resample.name, whole=True)

    @property
    def source(self) -> Source:
        return source(self.root, self.resample)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        return by_split(classes())

    @cached_property
    def groups(self) -> Tensor:
        """The category of each class."""
        return numbered(listed.group for listed in classes())

    @property
    def shared_names(self) -> Sequence[str]:
        """Some are miniImageNet's, in another split."""
        return [f"ImageNet's {listed.name}" for listed in classes()]


def classes() -> tuple[ListedClass, ...]:
    """All classes, by split and name: in the packed set they stand in this order."""
    return read_list("tiered_imagenet")


def source(root: str | None = None, resample: Resample = Resample.lanczos) -> Source:
    """The packed set, [779165, 3, 84, 84] with classes named split/class."""
    folder = TieredImageNet.about.source_folder(root)
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
