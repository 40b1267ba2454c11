"""Few-shot classification on miniImageNet (Vinyals et al. 2016, arXiv 1606.04080; Ravi and Larochelle 2017).

100 classes of ImageNet with 600 colour images each, 84 x 84 pixels, in Ravi and Larochelle's split of 64 / 16 / 20
classes as the source of the data has it. Pixels are in 0..1 and not standardised.
"""

import contextlib
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import mini_imagenet
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.pictures import Resample, Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class MiniImageNet(TaskDistribution):
    episodes: Episodes = Episodes()
    resample: Resample = Resample.lanczos  # how images of another size become 84 x 84
    root: str | None = None  # the folder of the data set; null: $METALEARN_DATA/mini-imagenet

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions = self._positions[split]
        self.episodes.check(split, Classes(positions, torch.full_like(positions, mini_imagenet.IMAGES)))

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((3, mini_imagenet.SIZE, mini_imagenet.SIZE))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(mini_imagenet.SIZE, 3, Resize.stretch, self.resample.name, whole=True)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        classes = Classes(self._images.start, self._images.count)
        return self.episodes.draw(tasks, split, classes.of(self._positions[split]), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device), device)

    def is_far(self, device: torch.device) -> bool:
        return self._images.is_far(device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._images, 1)

    def classes(self, split: Split) -> frozenset[str]:
        """tieredImageNet tests on some that miniImageNet trains on. By the numbers of ImageNet; where the images have
        other names or are not here, by Ravi's lists."""
        names = list(mini_imagenet.ravis_split())
        with contextlib.suppress(UserError):  # the data of another run's task need not be here
            own = [name.rpartition("/")[2] for name in self._images.names]
            names = own if all(re.fullmatch(r"n\d{8}", name) for name in own) else names
        return frozenset(f"ImageNet's {names[c]}" for c in self._positions[split].tolist())

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return self.episodes.pool(mini_imagenet.split_classes())

    @cached_property
    def _images(self) -> ImageSet:
        return mini_imagenet.load(self.resample, self.root)
