"""Few-shot classification on CIFAR-FS (Bertinetto et al. 2019, R2-D2, arXiv 1805.08136).

The 100 classes of CIFAR-100 with 600 colour images of 32 x 32 pixels each, split 64 / 16 / 20 at random by the authors.
Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import cifar_fs
from metalearn_cli.datasets.base import ImageSet
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import check_size, draw_images, episode_size, gather_episodes, pool_classes


@dataclass(frozen=True)
class CifarFS(TaskDistribution):
    way: int = 5  # classes of a validation or test task
    shot: int = 1  # support images of each
    query: int = 15  # query images of each
    train_way: int | None = None  # of a training task; null: the same as `way`
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = None  # of a training task; null: the same as `query`
    train_splits: tuple[str, ...] = ("train",)  # whose classes are trained on; those of test never
    root: str | None = None  # the folder that holds cifar100/; null: $METALEARN_DATA/cifar-fs

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        check_size(self, split, self.train_splits, len(self._classes[split]), cifar_fs.IMAGES)

    @property
    def spec(self) -> Spec:
        return Spec((3, cifar_fs.SIZE, cifar_fs.SIZE), self.way, self.train_way or self.way, kind="classes")

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._classes)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return draw_images(tasks, episode_size(self, split), self._classes[split], self._images, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device))

    @cached_property
    def _classes(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return pool_classes(cifar_fs.split_classes(), self.train_splits)

    @cached_property
    def _images(self) -> ImageSet:
        return cifar_fs.load(self.root)
