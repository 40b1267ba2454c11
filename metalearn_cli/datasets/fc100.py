"""FC100: the images of CIFAR-100, split by superclass (Oreshkin et al. 2018, TADAM, arXiv 1805.10123).

12 superclasses are for training (60 classes), 4 for validation (20) and 4 for the test (20), so that classes of two
splits resemble each other less than in CIFAR-FS. The numbers of the superclasses, in the order of their names, are
those of the authors' code (datasets/create_dataset_cifar100.py). Images, checks and the packed set are CIFAR-FS's.
"""

import torch
from torch import Tensor

from metalearn_cli.datasets import cifar_fs
from metalearn_cli.datasets.image_set import ImageSet, Source

_SUPERCLASSES = {
    "train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19),
    "val": (8, 11, 13, 16),  # large carnivores, large herbivores, invertebrates but insects, small mammals
    "test": (0, 7, 12, 14),  # aquatic mammals, insects, medium mammals, people
}


def split_classes() -> dict[str, Tensor]:
    """The classes of each split, as positions in CIFAR-FS's list, [classes] int64. Reads no image."""
    superclass = cifar_fs.superclasses()
    return {
        split: torch.isin(superclass, torch.tensor(numbers)).nonzero().flatten()
        for split, numbers in _SUPERCLASSES.items()
    }


def load(root: str | None = None) -> ImageSet:
    return cifar_fs.load(root)


def source(root: str | None = None) -> Source:
    return cifar_fs.source(root)
