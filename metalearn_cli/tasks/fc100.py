"""FC100: the images of CIFAR-100, split by superclass (Oreshkin et al. 2018, TADAM, arXiv 1805.10123).

12 superclasses are for training (60 classes), 4 for validation (20) and 4 for the test (20), so that classes of two
splits resemble each other less than in CIFAR-FS. The numbers of the superclasses, in the order of their names, are
those of the authors' code (datasets/create_dataset_cifar100.py). Images, checks and the packed set are CIFAR-FS's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import numbered
from metalearn_cli.tasks import cifar_fs
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

source = cifar_fs.source
_SUPERCLASSES = {
    "train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19),
    "val": (8, 11, 13, 16),  # large carnivores, large herbivores, invertebrates but insects, small mammals
    "test": (0, 7, 12, 14),  # aquatic mammals, insects, medium mammals, people
}


@dataclass(frozen=True)
class FC100(ImageTask):
    episodes: Episodes = Episodes()
    root: str | None = None  # the folder that holds cifar100/; null: $METALEARN_DATA/cifar-fs

    about = About(
        title="FC100",
        folder="cifar-fs",
        layouts=(("cifar100/data",),),
        classes=100,
        images=60_000,
        fewest=600,
        licence="not stated",
        instructions="its images are those of CIFAR-FS: fetch cifar100.zip from "
        "https://drive.google.com/file/d/1pTsCCMDj45kzFYgrnO67BWVbKs48Q3NI/view by hand, which a program "
        "cannot, and give metalearn data prepare fc100 archive=cifar100.zip",
    )
    preparation, source = CifarFS.preparation, CifarFS.source  # the properties themselves, which read `root` only
    groups, shared_names = CifarFS.groups, CifarFS.shared_names

    @property
    def split_classes(self) -> dict[str, Tensor]:
        groups = numbered(listed.group for listed in cifar_fs.classes())
        splits = {split: torch.isin(groups, torch.tensor(numbers)) for split, numbers in _SUPERCLASSES.items()}
        return {split: is_in.nonzero().flatten() for split, is_in in splits.items()}
