"""Few-shot classification on a folder of one's own: every innermost folder that holds images is a class.

Images of any size and mode become squares as datasets/decode.py says. Classes are trained on or tested by the folder's
own train/, val/ and test/, by lists, or by shares of them at random (datasets/class_splits.py); the folder above a
class is its group, for `within_group`. Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.datasets import class_splits, image_folder
from metalearn_cli.datasets.class_splits import Parts
from metalearn_cli.datasets.decode import MIN_SIDE, Resize
from metalearn_cli.datasets.image_folder import Contents, Packed, some
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.places import expand
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Classes, Episodes, gather_episodes
from metalearn_cli.tasks.label_names import label_names


@dataclass(frozen=True)
class ImageFolder(TaskDistribution):
    episodes: Episodes = Episodes()
    root: str = field(kw_only=True)  # the folder
    size: int = 84  # pixels a side
    channels: int = 3  # 3: colours, 1: grey
    resize: Resize = Resize.crop
    resample: str = "lanczos"  # how sizes change, as Pillow names it
    by_way_of: int | None = None  # pixels a side that an image gets first
    margin: int = 0  # pixels on each side that are cut off after the size is changed
    inverted: bool = False  # dark ink becomes bright
    whole: bool = False  # a large JPEG is decoded in its full size
    ink: Ink = Ink.as_is  # what becomes of photographed ink
    val_share: float | None = None  # of the classes; null: 0.2, and at least five where there are 15 classes or more
    test_share: float | None = None
    split_seed: int = 0  # of the split at random
    split_lists: str | None = None  # the folder of train.txt, val.txt and test.txt
    min_images: int = 1  # classes with fewer are left out
    skip_broken: bool = False  # files that cannot be used are left out

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise UserError("task.root= is empty: give the folder whose folders are the classes")
        if self.size < MIN_SIDE:
            raise UserError(f"task.size={self.size} must be at least {MIN_SIDE}")
        if self.channels not in (1, 3):
            raise UserError(f"task.channels={self.channels} must be 3 (colours) or 1 (grey)")
        if self.resample.upper() not in Image.Resampling.__members__:
            known = ", ".join(name.lower() for name in Image.Resampling.__members__)
            raise UserError(f"task.resample={self.resample} must be one of {known}")
        if self.margin < 0 or (self.by_way_of is not None and self.by_way_of < MIN_SIDE):
            raise UserError(
                f"task.margin={self.margin} must be 0 or above, and task.by_way_of={self.by_way_of} at least {MIN_SIDE}"
            )
        if self.ink is Ink.evened and (self.channels, self.resize) in ((3, self.resize), (1, Resize.pad)):
            raise UserError(
                f"task.ink=evened wants grey pictures that are whole: task.channels=1, not {self.channels}, and "
                "task.resize=crop or stretch"
            )
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        positions = self._positions[split]
        self._check_images(split, positions, self._count, "has")
        more = "more classes, or another task.test_share or task.val_share" if self._parts.by_shares else "more classes"
        self.episodes.check(split, self._classes(positions, self._count), f" ({self._counts}): give fewer, or {more}")

    def notes(self) -> list[str]:
        count, broken = self._packed.images.count, self._packed.report.broken
        notes = [f"{self.root}: {len(self._names)} classes with {int(count.sum())} images; {self._counts}"]
        if small := [name for name, files in self._found.classes.items() if len(files) < self.min_images]:
            notes.append(f"task.min_images={self.min_images} leaves out ({len(small)}): {some(small)}")
        if self._parts.left_out:
            left_out = self._parts.left_out
            notes.append(f"in no list, and left out ({len(left_out)}): {some(left_out)}")
        if others := self._found.others:
            notes.append(f"no images by their suffix, and not read ({len(others)}): {some(others)}")
        if broken:
            skipped = some([f"{name} {why}" for name, why in broken.items()], "; ")
            notes.append(f"task.skip_broken=true leaves out ({len(broken)}): {skipped}")
        if outdated := self._packed.outdated:
            notes.append(
                f"packed before {self.root} changed, and still there ({len(outdated)}): {some(outdated)}; "
                "metalearn data clean NAME removes one"
            )
        for where, pairs in self._twice().items():
            if pairs:
                notes.append(f"warning: the same image twice {where} ({len(pairs)}): {some(pairs)}")
        return notes

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((self.channels, self.size, self.size))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(**{key: getattr(self, key) for key in Preparation.KEYS})

    @property
    def fingerprint(self) -> str:
        return self._packed.images.fingerprint

    def classes(self, split: Split) -> frozenset[str]:
        folder = expand(self.root).resolve()
        return frozenset(str(folder / self._names[position]) for position in self._positions[split].tolist())

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        classes = self._classes(self._positions[split], self._packed.images.count)
        return self.episodes.draw(tasks, split, classes, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._packed.images.on(device), device)

    def is_far(self, device: torch.device) -> bool:
        return self._packed.images.is_far(device)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self._packed.images, self._parts.inside)

    def _classes(self, positions: Tensor, count: Tensor) -> Classes:
        return Classes(count.cumsum(0) - count, count, self._groups).of(positions)

    def _check_images(self, split: Split, positions: Tensor, count: Tensor, has: str) -> None:
        """Raises UserError where one of these classes, of so many images, has too few for a task of this split."""
        _, (shot_key, shot), (query_key, query) = self.episodes.size(split).items()
        wanted = self._wanted(split)
        if not (few := [position for position in positions.tolist() if count[position] < wanted]):
            return
        fewest = min(few, key=lambda position: int(count[position]))
        images = int(count[fewest])
        asks, fewer = "a task", ""
        if not self.episodes.variable:
            asks = f"task.{shot_key}={shot} with task.{query_key}={query}"
            fewer = f"task.{query_key}={images - shot}, or " if images > shot else ""
        enough = max(wanted, int(self._count[fewest]) + 1)
        raise UserError(
            f"class {self._names[fewest]} of the {split} split {has} {images} images, and {asks} asks for {wanted}: "
            f"give {fewer}task.min_images={enough}, which leaves out all classes with fewer files, or more images "
            f"({len(few)} of the classes of this split have too few)"
        )

    def _wanted(self, split: Split) -> int:
        """Images of a class at least."""
        _, shot, query = self.episodes.size(split).values()
        return 2 if self.episodes.variable else shot + query

    def _twice(self) -> dict[str, list[str]]:
        """Images with the same pixels, by where they stand."""
        twice: dict[str, list[str]] = {"in different classes": [], "in a class": []}
        for first, second in self._packed.report.twice:
            same = first.rpartition("/")[0] == second.rpartition("/")[0]
            twice["in a class" if same else "in different classes"].append(f"{first} as {second}")
        return twice

    @property
    def _counts(self) -> str:
        """How many classes there are in each split, and why."""
        return (
            ", ".join(f"{len(part)} {split}" for split, part in self._parts.classes.items()) + f", {self._parts.rule}"
        )

    @cached_property
    def _found(self) -> Contents:
        return image_folder.find_classes(self.root)

    @cached_property
    def _parts(self) -> Parts:
        """The classes of each split."""
        names = sorted(self._found.classes)
        kept = [name for name in names if len(self._found.classes[name]) >= self.min_images]
        if not kept:
            most = max(map(len, self._found.classes.values()))
            raise UserError(
                f"task.min_images={self.min_images} leaves no class of task.root={self.root}: give {most} at most"
            )
        if self.split_lists is not None:
            parts = class_splits.by_lists(names, self.root, self.split_lists)
        elif (own := class_splits.own_split(names, self.root)) is not None:
            parts = own
        else:
            return class_splits.by_shares(kept, self.root, self.val_share, self.test_share, self.split_seed)
        for key, default in (("val_share", None), ("test_share", None), ("split_seed", 0)):
            if (value := getattr(self, key)) != default:
                raise UserError(f"task.{key}={value} is of a split at random, and here the split is {parts.rule}")
        in_use = {split: [name for name in part if name in kept] for split, part in parts.classes.items()}
        return parts._replace(classes=in_use)

    @cached_property
    def _names(self) -> list[str]:
        """The classes that are used, in the order of the packed set."""
        return sorted(name for part in self._parts.classes.values() for name in part)

    @cached_property
    def _count(self) -> Tensor:
        """The files of each, [classes]."""
        return torch.tensor([len(self._found.classes[name]) for name in self._names])

    @cached_property
    def _groups(self) -> Tensor | None:
        """The folder above each, as a number, [classes]; None where no class is in a group."""
        above = ["/".join(name.split("/")[self._parts.inside : -1]) for name in self._names]
        numbers = {group: number for number, group in enumerate(sorted(set(above)))}
        return torch.tensor([numbers[group] for group in above]) if set(above) != {""} else None

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        place = {name: position for position, name in enumerate(self._names)}
        return self.episodes.pool(
            {
                split: torch.tensor([place[name] for name in part], dtype=torch.int64)
                for split, part in self._parts.classes.items()
            }
        )

    @cached_property
    def _packed(self) -> Packed:
        found = image_folder.load(self.root, self._found, self._names, self.preparation, self.skip_broken)
        for split in self.splits:
            positions = self._positions[split]
            had_enough = positions[self._count[positions] >= self._wanted(split)]
            self._check_images(split, had_enough, found.images.count, "has, without its broken files,")
        return found
