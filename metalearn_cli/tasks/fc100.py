"""Few-shot classification on FC100 (Oreshkin et al. 2018, TADAM, arXiv 1805.10123).

The 100 classes of CIFAR-100 with 600 colour images of 32 x 32 pixels each, split 60 / 20 / 20 by superclass, so that
the test is further from the training than in CIFAR-FS. Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import cifar_fs, fc100
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.pictures import Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class FC100(TaskDistribution):
    episodes: Episodes = Episodes()
    root: str | None = None  # the folder that holds cifar100/; null: $METALEARN_DATA/cifar-fs

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions = self._positions[split]
        count = torch.full_like(positions, cifar_fs.IMAGES)
        self.episodes.check(split, Classes(positions, count, cifar_fs.superclasses()[positions]))

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((3, cifar_fs.SIZE, cifar_fs.SIZE))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(cifar_fs.SIZE, 3, Resize.crop)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        classes = Classes(self._images.start, self._images.count, cifar_fs.superclasses())
        return self.episodes.draw(tasks, split, classes.of(self._positions[split]), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device), device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._images)

    def classes(self, split: Split) -> frozenset[str]:
        """CIFAR-FS and FC100 have the same classes, in other splits."""
        return frozenset(f"CIFAR-100's {cifar_fs.classes()[c].name}" for c in self._positions[split].tolist())

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return self.episodes.pool(fc100.split_classes())

    @cached_property
    def _images(self) -> ImageSet:
        return fc100.load(self.root)
