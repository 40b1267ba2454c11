"""Few-shot classification on tieredImageNet (Ren et al. 2018, arXiv 1803.00676).

608 classes of ImageNet with 732 to 1,300 colour images each, 84 x 84 pixels, split 351 / 97 / 160 so that no category
of WordNet is in two splits. Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import tiered_imagenet
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.pictures import Resample, Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class TieredImageNet(TaskDistribution):
    episodes: Episodes = Episodes()
    resample: Resample = Resample.lanczos  # how images of another size become 84 x 84
    root: str | None = None  # the folder of the data set; null: $METALEARN_DATA/tiered-imagenet

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions = self._positions[split]
        fewest = torch.full_like(positions, tiered_imagenet.FEWEST)
        self.episodes.check(split, Classes(positions, fewest, tiered_imagenet.categories()[positions]))

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((3, tiered_imagenet.SIZE, tiered_imagenet.SIZE))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(tiered_imagenet.SIZE, 3, Resize.stretch, self.resample.name, whole=True)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        classes = Classes(self._images.start, self._images.count, tiered_imagenet.categories())
        return self.episodes.draw(tasks, split, classes.of(self._positions[split]), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device), device)

    def is_far(self, device: torch.device) -> bool:
        return self._images.is_far(device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._images, 1)

    def classes(self, split: Split) -> frozenset[str]:
        """Some are miniImageNet's, in another split."""
        return frozenset(f"ImageNet's {tiered_imagenet.classes()[c].name}" for c in self._positions[split].tolist())

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return self.episodes.pool(tiered_imagenet.split_classes())

    @cached_property
    def _images(self) -> ImageSet:
        return tiered_imagenet.load(self.resample, self.root)
