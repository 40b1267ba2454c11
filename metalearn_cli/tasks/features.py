"""Few-shot classification on vectors that another program has computed, e.g. of texts, sounds, spectra or pictures:
from a file that datasets/vector_file.py describes.

The split that the file tells, or lists, or shares at random (datasets/class_splits.py) say which classes are trained on
and which tested; the file's groups are for `within_group`. Numbers are as the file has them.

Shapes, as in tasks/base.py and tasks/episodes.py: F numbers of a vector.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets.class_splits import Parts, Shares, by_lists, by_words, divided, large_enough
from metalearn_cli.datasets.image_set import ImageSet, numbered
from metalearn_cli.datasets.listing import some
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.vector_file import Column, VectorFile, read_vectors
from metalearn_cli.datasets.vector_set import vector_set
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Share, Text, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations, gather_episodes
from metalearn_cli.tasks.images import label_names


@dataclass(frozen=True)
class Features(TaskDistribution):
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
        count = self._count.tolist()
        named = [(count[place], f"{self._words[place]} of the {split} split") for place in self._places[split].tolist()]
        for sentence in self.episodes.too_small(split, named, "vectors"):
            raise UserError(sentence)
        more = self._shares.more(self._parts, self.episodes.least_classes)
        about = f" ({self._parts.sizes()}): give fewer, or {more}"
        self.episodes.check(split, self._classes(split), about)

    def notes(self) -> list[str]:
        used, (vectors, numbers) = (
            sorted(name for part in self._parts.classes.values() for name in part),
            self._file.shape,
        )
        why, lists = self._file.why_in_memory, self._parts.left_out
        small = sorted({*self._words} - {*used} - {*lists})
        where = f"in memory ({why})" if why else "in the file"
        about = f"{vectors} vectors of {numbers} numbers, {where}"
        notes = [f"{self.root}: {len(used)} classes in use of {about}; {self._parts.sizes()}"]
        kinds = [(f"task.min_images={self.min_images} leaves out", small), ("in no list, and left out", lists)]
        return notes + [f"{what} ({len(names)}): {some(names)}" for what, names in kinds if names]

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((self._file.shape[1],), len(self._places["train"]))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._places)

    @property
    def fingerprint(self) -> str:
        return self.vectors[0].fingerprint

    def identities(self, split: Split) -> frozenset[str]:
        file = self._file.path.resolve()
        return frozenset(f"{file}/{name}" for name in self.class_names(split))

    def class_names(self, split: Split) -> list[str]:
        return sorted(self._words[place] for place in self._places[split].tolist())

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.episodes.draw(tasks, split, self._classes(split), rng)

    def draw_classes(self, tasks: int, images: int, rng: torch.Generator) -> Draw:
        return self.episodes.draw_classes(tasks, images, self._classes("train"), rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        vectors, rows = self.vectors
        in_file = {name: rows[draw[name]] for name in ("support_image", "query_image")}
        return gather_episodes(draw | in_file, vectors.on(device), device, self._file.numbers)

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return self.vectors[0].may_wait_for_disk(device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self.vectors[0])

    @cached_property
    def vectors(self) -> tuple[ImageSet, Tensor]:
        """The vectors class by class, and the row of the file in which each stands, [N]. They are read at first."""
        return vector_set(self._file, self._labels)

    @cached_property
    def _file(self) -> VectorFile:
        return read_vectors(expand(self.root), "task.root")

    @property
    def _labels(self) -> Column:
        assert self._file.labels is not None  # read_vectors
        return self._file.labels

    @property
    def _words(self) -> tuple[str, ...]:
        return self._labels.words

    @cached_property
    def _count(self) -> Tensor:
        """The vectors of each class of the file, [classes]."""
        return torch.from_numpy(self._labels.number).bincount()

    @property
    def _shares(self) -> Shares:
        return Shares(self.val_share, self.test_share, self.split_seed)

    @cached_property
    def _parts(self) -> Parts:
        """The classes of each split."""
        kept = large_enough(dict(zip(self._words, self._count.tolist(), strict=True)), self.min_images, self.root)
        told = None
        if self.split_lists is not None:
            told = by_lists(sorted(self._words), self.root, self.split_lists)
        elif self._file.split is not None:
            told = by_words(dict(zip(self._words, self._file.split, strict=True)), self.root)
        return divided(told, kept, self.root, self._shares, self.episodes.least_classes)

    @cached_property
    def _places(self) -> dict[Split, Tensor]:
        """The classes of each split, as places among those of the file, [classes]."""
        place = {name: number for number, name in enumerate(self._words)}
        parts = self._parts.classes.items()
        return self.episodes.pool({split: torch.tensor([place[name] for name in part]) for split, part in parts})

    def _classes(self, split: Split) -> Classes:
        count, group = self._count, self._file.group
        return Classes(count.cumsum(0) - count, count, None if group is None else numbered(group)).of(
            self._places[split]
        )
