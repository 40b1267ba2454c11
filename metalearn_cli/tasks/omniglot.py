"""Few-shot classification on Omniglot (Lake et al. 2015, Science), in the settings of the papers.

1,623 characters with 20 images each. The split is by alphabet as in Vinyals et al. 2016 (arXiv 1606.04080; 1,028
training, 172 validation and 423 test characters), or random as in Reptile (1,200/423) and MAML's code (1,100/100/423),
which is easier. Rotations by quarter turns make four classes of each character (Vinyals et al., ProtoNet; Reptile's
code in training only), or turn each class of an episode at random, in training and test (MAML's code). Pixels are
inverted, ink = 1 and paper = 0, and are resized from 105 x 105 to 28 x 28 by nearest neighbour (the papers' code asks
for LANCZOS, but gets this) or by Lanczos.
"""

from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import omniglot
from metalearn_cli.datasets.base import ImageSet
from metalearn_cli.datasets.omniglot import CharacterSplit, Resample
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import (
    check_size,
    draw_classes,
    draw_episodes,
    episode_size,
    gather_episodes,
    pool_classes,
)


class Rotations(Enum):
    as_classes = auto()  # four classes per character
    train_as_classes = auto()  # the same in training, and upright characters at validation and test
    per_episode = auto()  # one class per character, which is turned at random in each episode
    none = auto()


@dataclass(frozen=True)
class Omniglot(TaskDistribution):
    way: int = 5  # classes of a validation or test task
    shot: int = 1  # support images of each
    query: int = 15  # query images of each
    train_way: int | None = None  # of a training task; null: the same as `way`
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = None  # of a training task; null: the same as `query`
    train_splits: tuple[str, ...] = ("train",)  # whose classes are trained on; those of test never
    split: CharacterSplit = CharacterSplit.vinyals
    split_seed: int = 0  # of the two random splits
    rotations: Rotations = Rotations.as_classes
    resample: Resample = Resample.nearest
    root: str | None = None  # the folder of the two archives; null: $METALEARN_DATA/omniglot

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        about = f" (split={self.split.name}, rotations={self.rotations.name})"
        check_size(self, split, self.train_splits, self._classes(split), omniglot.IMAGES, about)

    @property
    def spec(self) -> Spec:
        return Spec((1, omniglot.SIZE, omniglot.SIZE), self.way, self.train_way or self.way, kind="classes")

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._characters)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        way, shot, query = episode_size(self, split).values()
        choice = draw_classes(tasks, way, self._classes(split), rng)
        turn = None
        if self._turns_are_classes(split):
            choice, turn = choice // 4, choice % 4
        elif self.rotations is Rotations.per_episode:
            turn = torch.randint(4, choice.shape, generator=rng)
        # Every character has 20 images, in the order of the list, so that a draw needs no pixels.
        start = self._characters[split][choice] * omniglot.IMAGES
        return draw_episodes(start, torch.full_like(start, omniglot.IMAGES), turn, shot, query, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device))

    def classes(self, split: Split) -> frozenset[str]:
        return frozenset(omniglot.characters()[c].name for c in self._characters[split].tolist())

    def _classes(self, split: Split) -> int:
        return len(self._characters[split]) * (4 if self._turns_are_classes(split) else 1)

    def _turns_are_classes(self, split: Split) -> bool:
        return self.rotations is Rotations.as_classes or (
            self.rotations is Rotations.train_as_classes and split == "train"
        )

    @cached_property
    def _characters(self) -> dict[Split, Tensor]:
        """The characters of each split, [characters]."""
        return pool_classes(omniglot.split_characters(self.split, self.split_seed), self.train_splits)

    @cached_property
    def _images(self) -> ImageSet:
        return omniglot.load(self.resample, self.root)
