"""Few-shot classification on a folder of one's own: every innermost folder that holds images is a class; or a table, or
a pattern of file names, tells the class of each.

Images of any size and mode become squares as datasets/pictures.py says. The folder's own train/, val/ and test/, or
lists, or shares at random (datasets/class_splits.py) tell which classes are trained on and which tested; the folder
above a class is its group, for `within_group`. Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.datasets.class_splits import Parts, Shares, TooFewClasses, by_folders, by_lists, divided
from metalearn_cli.datasets.image_folder import Packed, find_classes, pack_folder
from metalearn_cli.datasets.image_set import ImageSet, numbered
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.listing import Contents, Layout, some
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Limit, Natural, Share, Side, Text, check_limits
from metalearn_cli.tasks.base import Draw, Spec, Split
from metalearn_cli.tasks.episodes import Classes, Episodes
from metalearn_cli.tasks.images import SetTask, label_names

Filter = Annotated[
    str,
    Limit(
        "one of nearest, lanczos, bilinear, bicubic, box, hamming",
        lambda name: name.lower() in ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"),
    ),
]
TwoColumns = Annotated[tuple[str, ...], Limit("two columns of task.labels", lambda names: len(names) == 2)]


@dataclass(frozen=True)
class ImageFolder(SetTask):
    episodes: Episodes = Episodes()
    root: Text = field(kw_only=True)  # the folder
    size: Side = 84  # pixels a side
    channels: Annotated[int, Limit("3 (colours) or 1 (grey)", lambda value: value in (1, 3))] = 3
    resize: Resize = Resize.crop
    resample: Filter = "lanczos"  # how sizes change, as Pillow names it
    by_way_of: Side | None = None  # pixels a side that an image gets first
    margin: Natural = 0  # pixels on each side that are cut off after the size is changed
    inverted: bool = False  # dark ink becomes bright
    whole: bool = False  # a large JPEG is decoded in its full size
    ink: Ink = Ink.as_is  # what becomes of photographed ink
    val_share: Share | None = None  # of the classes; null: 0.2, and at least five where there are 15 classes or more
    test_share: Share | None = None
    split_seed: int = 0  # of the split at random
    split_lists: str | None = None  # the folder of train.txt, val.txt and test.txt
    min_images: int = 1  # classes with fewer that can be used are left out
    skip_broken: bool = False  # files that cannot be used are left out
    skip_twice: bool = False  # of images with the same pixels all but the first are left out
    labels: str | None = None  # a table that tells the class of each image
    label_columns: TwoColumns = ("path", "label")  # of the table
    pattern: str | None = None  # of file names, which has {class} in it

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        if self.ink is Ink.evened and (self.channels == 3 or self.resize is Resize.pad):
            raise UserError(f"task.ink=evened needs task.channels=1, not {self.channels}, and not task.resize=pad")
        if self.labels is not None and self.pattern is not None:
            raise UserError(f"task.labels={self.labels} and task.pattern={self.pattern} both name classes: give one")
        _refuse(self._problems("test") + self._problems("train"))

    def check_split(self, split: Split) -> None:
        _refuse(self._problems(split))

    def notes(self) -> list[str]:
        noted, contents = self.packed.noted, self._contents
        images = dict(zip(self._names, self.packed.images.count.tolist(), strict=True))
        lacking = {name for name, number in images.items() if number < self.min_images}
        used = [number for name, number in images.items() if name not in lacking]
        files = {name: len(listed) for name, listed in contents.classes.items()}
        small = [name for name, number in files.items() if number < self.min_images]
        small += [f"{name} ({images[name]} of its {files[name]} files can be used)" for name in sorted(lacking)]
        by = f"in no row of {self.labels}" if self.labels is not None else f"not as task.pattern={self.pattern} says"
        kinds = [
            (f"task.min_images={self.min_images} leaves out", small),
            ("in no list, and left out", self._parts.left_out),
            (f"{by}, and left out", contents.rest),
            ("not images by their suffix, and not read", contents.others),
            ("empty folders, which are not classes", contents.empty),
            ("hidden folders, which are not read", contents.hidden),
        ]
        notes = [f"{self.root}: {len(used)} classes with {sum(used)} images; {self._parts.sizes(lacking)}"]
        notes += [f"{what} ({len(names)}): {some(names)}" for what, names in kinds if names]
        if noted.broken:
            skipped = some([f"{name} {why}" for name, why in noted.broken.items()], "; ")
            listed = f" ({self.packed.listed} lists all of them)" if self.packed.listed else ""
            notes.append(f"task.skip_broken=true leaves out ({len(noted.broken)}): {skipped}{listed}")
        if outdated := self.packed.outdated:
            notes.append(
                f"packed before {self.root} changed, and still there ({len(outdated)}): {some(outdated)}; "
                "metalearn data clean NAME removes one"
            )
        class_of = {file.name: name for name, listed in contents.classes.items() for file in listed}
        skips = ", left out by task.skip_twice=true" if self.skip_twice else ""
        for where, is_same in (("in different classes", False), ("in a class", True)):
            pairs = [pair for pair in noted.twice if (class_of.get(pair[0]) == class_of.get(pair[1])) == is_same]
            if pairs:
                named = some([f"{first} as {second}" for first, second in pairs])
                notes.append(f"warning: the same image twice {where}{skips} ({len(pairs)}): {named}")
        return notes

    @property
    def spec(self) -> Spec:
        return self.episodes.spec((self.channels, self.size, self.size), len(self._positions["train"]))

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._positions)

    @property
    def preparation(self) -> Preparation:
        return Preparation(**{key: getattr(self, key) for key in Preparation.KEYS})

    @property
    def images(self) -> ImageSet:
        return self.packed.images

    def classes_of(self, split: Split) -> Classes:
        return self._classes(self._usable[split], self.images.count)

    def identities(self, split: Split) -> frozenset[str]:
        folder = expand(self.root).resolve()
        return frozenset(f"{folder}/{self._names[position]}" for position in self._positions[split].tolist())

    def class_names(self, split: Split) -> list[str]:
        return [self._names[position] for position in sorted(self._usable[split].tolist())]

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(draw, self.images, self._parts.depth)

    def _problems(self, split: Split) -> list[str]:
        """Return all that is wrong with tasks of this split, as far as the list of the files tells."""
        try:
            positions = self._positions[split]
        except TooFewClasses as error:  # no split exists, but whether the classes have enough images is known
            sizes = [(len(files), name) for name, files in self._contents.classes.items() if files]
            return [str(error), *self.episodes.too_small(split, sizes, "images")]
        small = self.episodes.too_small(
            split, self._sizes_and_names(split, self._positions, self._file_count), "images"
        )
        return [*small, *self._too_few(split, positions, self._file_count)]

    def _too_few(self, split: Split, positions: Tensor, count: Tensor) -> list[str]:
        """Return what is wrong with the number of classes of this split."""
        more = self._shares.more(self._parts, self.episodes.least_classes)
        unused = set(self._positions[split].tolist()) - set(positions.tolist())
        sizes = self._parts.sizes({self._names[position] for position in unused})
        try:
            # Whether each has enough images is said elsewhere.
            classes = self._classes(positions, count.clamp(min=self.episodes.least_examples(split)))
            self.episodes.check(split, classes, f" ({sizes}): give fewer, or {more}")
        except UserError as error:
            return [str(error)]
        return []

    def _classes(self, positions: Tensor, count: Tensor) -> Classes:
        return Classes(count.cumsum(0) - count, count, self._groups).of(positions)

    def _sizes_and_names(self, split: Split, parts: dict[Split, Tensor], count: Tensor) -> list[tuple[int, str]]:
        """Return the size and name of each class of this split, or of training and test, if these need the same
        size."""
        both: tuple[Split, ...] = ("test", "train")
        sizes = [list(self.episodes.size(part).items()) for part in both]
        return [
            (int(count[position]), f"{self._names[position]} of the {part} split")
            for part in (both if split in both and sizes[0] == sizes[1] else (split,))
            for position in parts[part].tolist()
        ]

    @cached_property
    def _contents(self) -> Contents:
        labels = None if self.labels is None else str(expand(self.labels).resolve())
        return find_classes(self.root, layout=Layout(labels, self.label_columns, self.pattern))

    @property
    def _shares(self) -> Shares:
        return Shares(self.val_share, self.test_share, self.split_seed)

    @cached_property
    def _parts(self) -> Parts:
        """The classes of each split."""
        sizes = {name: len(files) for name, files in self._contents.classes.items()}
        names, lists = sorted(sizes), self.split_lists
        told = by_folders(names, self.root) if lists is None else by_lists(names, self.root, lists)
        return divided(told, sizes, self.min_images, self.root, self._shares, self.episodes.least_classes)

    @cached_property
    def _names(self) -> list[str]:
        """The classes that are used, in the order of the packed set."""
        return sorted(name for part in self._parts.classes.values() for name in part)

    @cached_property
    def _file_count(self) -> Tensor:
        """The files of each, [classes]."""
        return torch.tensor([len(self._contents.classes[name]) for name in self._names])

    @cached_property
    def _groups(self) -> Tensor | None:
        """The folder above each, as a number, [classes]; None if no class is in a group."""
        above = ["/".join(name.split("/")[self._parts.depth : -1]) for name in self._names]
        return numbered(above) if any(above) else None

    @cached_property
    def _positions(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        position = {name: number for number, name in enumerate(self._names)}
        parts = self._parts.classes.items()
        return self.episodes.pool(
            {split: torch.tensor([position[name] for name in part], dtype=torch.int64) for split, part in parts}
        )

    @cached_property
    def packed(self) -> Packed:
        how = self.preparation, self.skip_broken, self.skip_twice
        packed = pack_folder(self.root, self._contents, self._names, *how)
        problems: list[str] = []
        count, parts = packed.images.count, self._with_enough(packed.images.count)
        copies = " and those that are there twice" if self.skip_twice else ""
        for split, positions in parts.items():
            had_enough = {
                of: part[self._file_count[part] >= self.episodes.least_examples(of)] for of, part in parts.items()
            }
            named = self._sizes_and_names(split, had_enough, count)
            has = f"has, without its broken files{copies},"
            problems += self.episodes.too_small(split, named, "images", has)
            listed = self._positions[split]
            if len(positions) < len(listed) and not self._too_few(
                split, listed, self._file_count
            ):  # else it is not used
                problems += self._too_few(split, positions, count)
        _refuse(problems)
        return packed

    def _with_enough(self, count: Tensor) -> dict[Split, Tensor]:
        """Return the classes of each split that have min_images which can be used, as positions in the packed set."""
        return {split: part[count[part] >= self.min_images] for split, part in self._positions.items()}

    @cached_property
    def _usable(self) -> dict[Split, Tensor]:
        """The classes that tasks are made of."""
        return self._with_enough(self.packed.images.count)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise UserError("; ".join(dict.fromkeys(problems)))
