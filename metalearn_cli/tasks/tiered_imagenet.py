"""tieredImageNet: 608 classes of ImageNet in 34 categories of WordNet (Ren et al. 2018, arXiv 1803.00676).

351 classes (20 categories) are for training, 97 (6) for validation and 160 (8) for the test, so that classes of two
splits share no category. `tiered_imagenet_classes.csv` lists each class with its split and category, by their WordNet
numbers, as the authors' lists do. Read from folders of images,

    train/<class>/<image>  val/<class>/<image>  test/<class>/<image>

whose classes must be those of the list, with 448,695, 124,261 and 206,209 images: all that ImageNet has of them. The
authors' own archive (train_images_png.pkl and so on) is not read: to unpickle it would take 8 GB of memory.

Images of another size become 84 x 84 without regard to their proportions. The name of a packed set carries a hash of
the files' names, which are listed at every start; only `metalearn data verify tiered_imagenet` finds out that one of
them was changed in its place. Copies differ: the fingerprint of the pixels stands in a run's results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from metalearn_cli.datasets.image_set import ListedClass, Source, Unpacked, by_split, key_of, numbered, read_list
from metalearn_cli.datasets.paths import names_in
from metalearn_cli.datasets.pictures import Preparation, Resample, Resize, read_squares
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

IMAGES = {"train": 448_695, "val": 124_261, "test": 206_209}
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
        images=779_165,
        fewest=732,
        licence="research only",
        instructions="its licence asks you to make it from your own copy of ImageNet (https://image-net.org); "
        "metalearn data prepare tiered_imagenet archive=FILE takes an archive of train/, val/ and test/ with a folder "
        "of images for each class",
    )
    depth = 1  # the folder of the split

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
        """Some classes are miniImageNet's, in another split."""
        return [f"ImageNet's {listed.name}" for listed in classes()]


def classes() -> tuple[ListedClass, ...]:
    """Return all classes, by split and name: in the packed set they stand in this order."""
    return read_list("tiered_imagenet")


def source(root: str | None = None, resample: Resample = Resample.lanczos) -> Source:
    """Return where the packed set comes from, [779165, 3, 84, 84] with classes named split/class."""
    folder = TieredImageNet.about.source_folder(root)
    files = _list_files(folder)
    progress = follow(files.items(), "reading tieredImageNet", len(files))
    blocks = (read_squares([folder / name / file for file in listed], SIZE, resample) for name, listed in progress)
    unpacked = Unpacked(tuple(files), [len(listed) for listed in files.values()], (3, SIZE, SIZE), blocks)
    key = key_of(list(files.items()))
    return Source(f"tiered-imagenet-{SIZE}x{SIZE}-{resample.name}-{key}", lambda: unpacked)


def _list_files(folder: Path) -> dict[str, list[str]]:
    """Return the names of each class's images, in the packed set's order, once they are complete."""
    files: dict[str, list[str]] = {}
    fewest = TieredImageNet.about.fewest
    for split, images in IMAGES.items():
        expected = {listed.name for listed in classes() if listed.split == split}
        names = set(names_in(folder / split))
        if unknown := sorted(names - expected):
            raise UserError(f"{folder / split} holds {unknown[0]}, not a class of tieredImageNet's {split} split")
        if lacking := sorted(expected - names):
            raise UserError(f"{folder / split} has no {lacking[0]} ({len(lacking)} of {len(expected)} are missing)")
        listed = {f"{split}/{name}": names_in(folder / split / name) for name in sorted(expected)}
        if few := [name for name, files_of in listed.items() if len(files_of) < fewest]:
            raise UserError(f"{folder / few[0]} holds {len(listed[few[0]])} images instead of {fewest} or more")
        if (count := sum(map(len, listed.values()))) != images:
            raise UserError(f"{folder / split} holds {count} images instead of {images}")
        files |= listed
    return files
