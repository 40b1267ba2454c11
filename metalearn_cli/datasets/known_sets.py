"""What is known of each data set without reading it. Imports nothing heavy, so that lists are quick."""

from pathlib import Path
from typing import NamedTuple

from metalearn_cli.datasets.paths import cache_root, data_root, expand


class DataSet(NamedTuple):
    title: str
    folder: str  # in the folder of all data sets; with a hyphen, what the names of its packed files begin with
    layouts: tuple[tuple[str, ...], ...]  # what must be in it: all of one of these
    classes: int
    images: int
    licence: str
    instructions: str  # how to get it


_SPLIT = ("train", "val", "test")
_IMAGENET = "its licence wants that you make it from your own copy of ImageNet (https://image-net.org)"

# By the name of the task, and of the module in this folder that reads it.
SETS = {
    "omniglot": DataSet(
        *("Omniglot", "omniglot", (("images_background.zip", "images_evaluation.zip"),), 1623, 32460, "MIT"),
        "metalearn data prepare omniglot fetches it",
    ),
    "cifar_fs": DataSet(
        *("CIFAR-FS", "cifar-fs", (("cifar100/data",),), 100, 60000, "not stated"),
        "fetch cifar100.zip from https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view by hand, which "
        "a program cannot, and give metalearn data prepare cifar_fs archive=cifar100.zip",
    ),
    "fc100": DataSet(
        *("FC100", "cifar-fs", (("cifar100/data",),), 100, 60000, "not stated"),
        "its images are those of CIFAR-FS: fetch cifar100.zip from "
        "https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view by hand, which a program cannot, and "
        "give metalearn data prepare fc100 archive=cifar100.zip",
    ),
    "mini_imagenet": DataSet(
        "miniImageNet",
        "mini-imagenet",
        (
            _SPLIT,
            ("images", *(f"{split}.csv" for split in _SPLIT)),
            tuple(f"mini-imagenet-cache-{split}.pkl" for split in _SPLIT),
        ),
        *(100, 60000, "research only"),
        f"{_IMAGENET}; metalearn data prepare mini_imagenet archive=FILE takes an archive of the images in train/, "
        "val/ and test/, with train.csv, val.csv and test.csv where they are in no folders of classes, of images/ with "
        "Ravi's three tables, or of the three pickled caches",
    ),
    "tiered_imagenet": DataSet(
        *("tieredImageNet", "tiered-imagenet", (_SPLIT,), 608, 779165, "research only"),
        f"{_IMAGENET}; metalearn data prepare tiered_imagenet archive=FILE takes an archive of the images in train/, "
        "val/ and test/",
    ),
    "cub": DataSet(
        "CUB-200-2011",
        "cub",
        (tuple(f"CUB_200_2011/{name}" for name in ("images", "images.txt", "bounding_boxes.txt")),),
        *(200, 11788, "research only"),
        "its licence wants that you fetch it yourself: take CUB_200_2011.tgz from "
        "https://data.caltech.edu/records/65de6-vp158, and give metalearn data prepare cub archive=CUB_200_2011.tgz",
    ),
}


def folder_of(name: str, root: str | None = None) -> Path:
    """Where the source of this data set is looked for."""
    return expand(root) if root is not None else data_root() / SETS[name].folder


def is_in(name: str, folder: Path) -> bool:
    return any(all((folder / part).exists() for part in layout) for layout in SETS[name].layouts)


def packed_files(name: str) -> list[Path]:
    """The packed files of this data set: one for each way in which its images were made small."""
    return sorted(cache_root().glob(f"{SETS[name].folder}-[0-9]*.{'[0-9a-f]' * 16}.safetensors"))
