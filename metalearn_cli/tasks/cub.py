"""Few-shot classification on CUB-200-2011 (Wah et al. 2011), in the split of Chen et al. 2019 (arXiv 1904.04232).

200 species of birds with 41 to 60 colour images each, 84 x 84 pixels, split 100 / 50 / 50. Pixels are in 0..1 and not
standardised.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import cub
from metalearn_cli.datasets.cub import Region
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.pictures import Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class CUB(TaskDistribution):
    episodes: Episodes = Episodes()
    region: Region = Region.whole  # what of an image becomes 84 x 84
    root: str | None = None  # the folder that holds CUB_200_2011/; null: $METALEARN_DATA/cub

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions = self._positions[split]
        self.episodes.check(split, Classes(positions, torch.full_like(positions, cub.FEWEST)))

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((3, cub.SIZE, cub.SIZE))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(
            *(cub.SIZE, 3, Resize.stretch, "bilinear"),
            margin=cub.MARGIN if self.region is Region.centre else 0,
            whole=True,
            note="the birds of training were cut out by their boxes: cut yours out"
            if self.region is Region.box
            else "",
        )

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        classes = Classes(self._images.start, self._images.count)
        return self.episodes.draw(tasks, split, classes.of(self._positions[split]), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device), device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._images)

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return self.episodes.pool(cub.split_classes())

    @cached_property
    def _images(self) -> ImageSet:
        return cub.load(self.region, self.root)
