"""Few-shot classification on Omniglot (Lake et al. 2015, Science), in the settings of the papers.

1,623 characters with 20 images each. The split is by alphabet as in Vinyals et al. 2016 (arXiv 1606.04080; 1,028
training, 172 validation and 423 test characters), or random as in Reptile (1,200/423) and MAML's code (1,100/100/423),
which is easier. Rotations by quarter turns make four classes of each character (Vinyals et al., ProtoNet; Reptile's
code in training only), or turn each class of an episode at random, in training and test (MAML's code). Pixels are
inverted, ink = 1 and paper = 0, and are resized from 105 x 105 to 28 x 28 by nearest neighbour (the papers' code asks
for LANCZOS, but gets this) or by Lanczos.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import omniglot
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.omniglot import CharacterSplit, Resample
from metalearn_cli.datasets.pictures import Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class Omniglot(TaskDistribution):
    episodes: Episodes = Episodes(rotations=Rotations.as_classes)
    split: CharacterSplit = CharacterSplit.vinyals
    split_seed: int = 0  # of the two random splits
    resample: Resample = Resample.nearest
    root: str | None = None  # the folder of the two archives; null: $METALEARN_DATA/omniglot

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        about = f" (split={self.split.name}, rotations={self.episodes.rotations.name})"
        self.episodes.check(split, self._classes(split), about)

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((1, omniglot.SIZE, omniglot.SIZE))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._characters)

    @property
    def preparation(self) -> Preparation:
        return Preparation(
            *(omniglot.SIZE, 1, Resize.crop, self.resample.name),
            by_way_of=omniglot.OWN_SIZE,
            inverted=True,
            ink=Ink.evened,
        )

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.episodes.draw(tasks, split, self._classes(split), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device), device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._images, 1)

    def classes(self, split: Split) -> frozenset[str]:
        return frozenset(omniglot.characters()[c].name for c in self._characters[split].tolist())

    def _classes(self, split: Split) -> Classes:
        """Every character has 20 images, in the order of the list, so that a draw needs no pixels."""
        characters = self._characters[split]
        count = torch.full_like(characters, omniglot.IMAGES)
        return Classes(characters * omniglot.IMAGES, count, omniglot.alphabets()[characters])

    @cached_property
    def _characters(self) -> dict[Split, Tensor]:
        """The characters of each split, [characters]."""
        return self.episodes.pool(omniglot.split_characters(self.split, self.split_seed))

    @cached_property
    def _images(self) -> ImageSet:
        return omniglot.load(self.resample, self.root)
