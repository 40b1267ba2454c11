"""Few-shot classification on vectors that another program has computed, e.g. of texts, sounds, spectra or pictures:
from a file that datasets/vector_file.py describes.

The split that the file tells, or lists, or shares at random (datasets/class_splits.py) say which classes are trained on
and which tested; the file's groups are for `within_group`. Numbers are as the file has them.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets.class_splits import Parts, Shares, by_lists, by_words, divided
from metalearn_cli.datasets.image_set import ImageSet, numbered
from metalearn_cli.datasets.listing import some
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.vector_file import VectorFile, read_vectors
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Share, Text, check_limits
from metalearn_cli.tasks.base import Draw, Spec, Split
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations
from metalearn_cli.tasks.images import SetTask, label_names


@dataclass(frozen=True)
class Features(SetTask):
    episodes: Episodes = Episodes()
    root: Text = field(kw_only=True)  # the file
    val_share: Share | None = None  # of the classes; null: 0.2, and at least five where there are 15 classes or more
    test_share: Share | None = None
    split_seed: int = 0  # of the split at random
    split_lists: str | None = None  # the folder of train.txt, val.txt and test.txt
    min_images: int = 1  # classes with fewer vectors are left out

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        if self.episodes.rotations is not Rotations.none or self.episodes.augment:
            raise UserError(
                "task.rotations and task.augment change images, and task=features has vectors: leave them out"
            )
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        classes, more = self.classes_of(split), self._shares.more(self._parts, self.episodes.least_classes)
        names = [f"{name} of the {split} split" for name in self.class_names(split)]
        named = list(zip(classes.count.tolist(), names, strict=True))
        if problems := self.episodes.too_small(split, named, "vectors"):
            raise UserError(problems[0])
        self.episodes.check(split, classes, f" ({self._parts.sizes()}): give fewer, or {more}")

    def notes(self) -> list[str]:
        (vectors, numbers), _, _, why = self._file.x
        lists, used = self._parts.left_out, {name for part in self._parts.classes.values() for name in part}
        small = sorted({*self._file.labels.words} - used - {*lists})
        where = f"in memory ({why})" if why else "in the file"
        notes = [
            f"{self.root}: {vectors} vectors of {numbers} numbers, {where}; {len(used)} classes, {self._parts.sizes()}"
        ]
        kinds = [(f"task.min_images={self.min_images} leaves out", small), ("in no list, and left out", lists)]
        return notes + [f"{what} ({len(names)}): {some(names)}" for what, names in kinds if names]

    @property
    def spec(self) -> Spec:
        return self.episodes.spec(self._file.x.shape[1:], len(self._places["train"]))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._places)

    def identities(self, split: Split) -> frozenset[str]:
        file = self._file.path.resolve()
        return frozenset(f"{file}/{name}" for name in self.class_names(split))

    def class_names(self, split: Split) -> list[str]:
        return [self._file.labels.words[place] for place in self._places[split].tolist()]

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self.images)

    @cached_property
    def images(self) -> ImageSet:
        return self._file.as_set()

    def classes_of(self, split: Split) -> Classes:
        count, group = torch.from_numpy(self._file.labels.number).bincount(), self._file.group
        groups = None if group is None else numbered(group)
        return Classes(count.cumsum(0) - count, count, groups).of(self._places[split])

    @cached_property
    def _file(self) -> VectorFile:
        return read_vectors(expand(self.root), "task.root")

    @property
    def _shares(self) -> Shares:
        return Shares(self.val_share, self.test_share, self.split_seed)

    @cached_property
    def _parts(self) -> Parts:
        """The classes of each split."""
        (words, number), split = self._file.labels, self._file.split
        sizes = dict(zip(words, torch.from_numpy(number).bincount().tolist(), strict=True))
        told = None
        if self.split_lists is not None:
            told = by_lists(list(words), self.root, self.split_lists)
        elif split is not None:
            told = by_words(dict(zip(words, split, strict=True)), self.root)
        return divided(told, sizes, self.min_images, self.root, self._shares, self.episodes.least_classes)

    @cached_property
    def _places(self) -> dict[Split, Tensor]:
        """The classes of each split, as places among those of the file, [classes]."""
        place = {name: number for number, name in enumerate(self._file.labels.words)}
        parts = self._parts.classes.items()
        return self.episodes.pool({split: torch.tensor([place[name] for name in part]) for split, part in parts})
