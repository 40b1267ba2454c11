"""Few-shot classification on a labelled set, and on a published image set: what all such sets share.

A published set is one file in this folder, found by its yaml in conf/task/. It says what is known of the set without
reading it (`about`), which keys it has, and where its classes and images come from, which are packed at their first use
(datasets/packed_set.py). Pixels are in 0..1 and not standardised.

Shapes, as in tasks/episodes.py: S support images of a task.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import ImageSet, Source
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.known_sets import About
from metalearn_cli.tasks.thumbnails import Thumbnails


class SetTask(TaskDistribution):
    """Episodes of one labelled set, of images or of vectors."""

    episodes: Episodes

    @property
    @abstractmethod
    def images(self) -> ImageSet:
        """The set, which is read at first."""

    @abstractmethod
    def classes_of(self, split: Split) -> Classes:
        """The classes that tasks of this split are made of."""

    @property
    def fingerprint(self) -> str:
        return self.images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.episodes.draw(tasks, split, self.classes_of(split), rng)

    def draw_classes(self, tasks: int, images: int, rng: torch.Generator) -> Draw:
        return self.episodes.draw_classes(tasks, images, self.classes_of("train"), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        rows, numbers = self.images.rows, self.images.numbers
        if rows is not None:
            draw = draw | {name: rows[draw[name]] for name in draw if name.endswith("_image")}
        return gather_episodes(draw, self.images.on(device), device, numbers)

    def thumbnails(self, draw: Draw, device: torch.device) -> Batch | None:
        return None if self.images.numbers is not None else self._thumbnails.gather(draw, device)

    @cached_property
    def _thumbnails(self) -> Thumbnails:
        return Thumbnails(self.images.pixels)

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return self.images.may_wait_for_disk(device)


class ImageTask(SetTask):
    """Episodes of one image set. A final class is a frozen dataclass with `episodes`, the set's own keys and `root`."""

    about: ClassVar[About]
    depth: ClassVar[int] = 0  # folders at the start of a class's name, which a reader is not shown
    root: str | None  # the folder of the source; null: the set's own in $METALEARN_DATA

    @property
    @abstractmethod
    def preparation(self) -> Preparation:
        """How a picture becomes an example: the set's own, and a user's."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """Where the images come from. Raises UserError if that is missing, unless only reading tells."""

    @property
    @abstractmethod
    def split_classes(self) -> dict[str, Tensor]:
        """The classes of each split, as positions in the packed set, [classes] int64, without reading an image."""

    @property
    @abstractmethod
    def groups(self) -> Tensor | None:
        """The superclass of each class, as a number, [classes] int64; None if classes are in no groups."""

    @property
    @abstractmethod
    def shared_names(self) -> Sequence[str]:
        """A name for each class, which other sets with the same class give it too; empty if no other set has one."""

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions, groups = self._positions[split], self.groups
        smallest = torch.full_like(positions, self.about.fewest)
        self.episodes.check(split, Classes(positions, smallest, None if groups is None else groups[positions]))

    @property
    def spec(self) -> Spec:
        return self.episodes.spec(self.preparation.shape, len(self._positions["train"]))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    def classes_of(self, split: Split) -> Classes:
        return self._classes[split]

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self.images, self.depth)

    def identities(self, split: Split) -> frozenset[str]:
        names = self.shared_names
        return frozenset(names[position] for position in self._positions[split].tolist()) if names else frozenset()

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes that tasks of each split are made of, as positions in the packed set, [classes]."""
        return self.episodes.pool(self.split_classes)

    @cached_property
    def _classes(self) -> dict[Split, Classes]:
        """The images of these classes in the packed set."""
        classes = Classes(self.images.start, self.images.count, self.groups)
        return {split: classes.of(positions) for split, positions in self._positions.items()}

    @cached_property
    def images(self) -> ImageSet:
        return packed(*self.source)


def label_names(draw: Draw, images: ImageSet, depth: int = 0) -> tuple[str, ...]:
    """Name the classes of the draw's first task, without the first `depth` folders, but with their turns."""
    image, label = draw["support_image"][0], draw["support_y"][0]  # [S] each
    is_real = draw["support_mask"][0] if "support_mask" in draw else torch.ones_like(label, dtype=torch.bool)
    names = []
    for number in range(int(label[is_real].max()) + 1):
        first = int(torch.nonzero(is_real & (label == number))[0])
        position = int(torch.searchsorted(images.start, image[first], right=True)) - 1
        turn = int(draw["support_turn"][0, first]) if "support_turn" in draw else 0
        name = "/".join(images.names[position].split("/")[depth:])
        names.append(f"{name}, turned by {90 * turn}°" if turn else name)
    return tuple(names)
