"""miniImageNet: 100 classes of ImageNet with 600 images each (Vinyals et al. 2016, arXiv 1606.04080), in the split 64 /
16 / 20 of Ravi and Larochelle 2017 (openreview rJY0-Kcll). Four layouts are read, the first of those that exist:

    train/<class>/<image>  val/<class>/<image>  test/<class>/<image>
    train/<image>  ...     train.csv  val.csv  test.csv    (with the columns image_name and image_label, or Ravi's)
    images/<filename>      train.csv  val.csv  test.csv    (Ravi's, with the columns filename and label)
    mini-imagenet-cache-train.pkl  -val.pkl  -test.pkl     (read without running anything in them)

ImageNet's licence does not let the images be passed on, and copies differ, so that no list of hashes can check them:
counts and overlaps are checked, each image is decoded when it is packed, and the fingerprint of the pixels stands in a
run's results. A split that is not Ravi's (mini_imagenet_classes.csv) is said and not refused: Vinyals' own has the same
sizes, and classes may have other names than their WordNet numbers.

Images of another size become 84 x 84 without regard to their proportions, as in the papers' code (MAML's
proc_images.py). The name of a packed set carries a hash of the files' names and sizes.
"""

import contextlib
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import Source, Unpacked, key_of, read_list
from metalearn_cli.datasets.paths import check_table, inside, names_in, sizes
from metalearn_cli.datasets.pictures import Preparation, Resample, Resize, read_squares
from metalearn_cli.datasets.safe_pickle import read_images
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow, tell
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

CLASSES = {"train": 64, "val": 16, "test": 20}  # in the packed set they stand in this order, by name in each split
SIZE = 84

T = TypeVar("T")  # an image: its file, or its number

COLUMNS = (("filename", "label"), ("image_name", "image_label"))  # of a table: either


@dataclass(frozen=True)
class MiniImageNet(ImageTask):
    episodes: Episodes = Episodes()
    resample: Resample = Resample.lanczos  # how images of another size become 84 x 84
    root: str | None = None  # the folder of the data set; null: $METALEARN_DATA/mini-imagenet

    about = About(
        title="miniImageNet",
        folder="mini-imagenet",
        layouts=(
            ("train", "val", "test"),
            ("images", "train.csv", "val.csv", "test.csv"),
            ("mini-imagenet-cache-train.pkl", "mini-imagenet-cache-val.pkl", "mini-imagenet-cache-test.pkl"),
        ),
        classes=100,
        images=60_000,
        fewest=600,
        licence="research only",
        instructions="its licence asks you to make it from your own copy of ImageNet (https://image-net.org); "
        "metalearn data prepare mini_imagenet archive=FILE takes an archive of the images in train/, val/ and test/, "
        "with train.csv, val.csv and test.csv (columns image_name and image_label) where they are in no "
        "folders of classes, of images/ with Ravi's three tables (columns filename and label), or of the "
        "three pickled caches",
    )
    depth = 1  # the folder of the split
    groups = None

    @property
    def preparation(self) -> Preparation:
        return Preparation(SIZE, 3, Resize.stretch, self.resample.name, whole=True)

    @property
    def source(self) -> Source:
        return source(self.root, self.resample)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        positions = torch.arange(sum(CLASSES.values()))
        return dict(zip(CLASSES, torch.split(positions, list(CLASSES.values())), strict=True))

    @property
    def shared_names(self) -> Sequence[str]:
        """Some are tieredImageNet's, in another split. Images without ImageNet's numbers are named by Ravi's lists."""
        names = list(ravis_split())
        with contextlib.suppress(UserError):  # the data of another run's task need not be here
            packed_names = [name.rpartition("/")[2] for name in self.images.names]
            names = packed_names if all(re.fullmatch(r"n\d{8}", name) for name in packed_names) else names
        return [f"ImageNet's {name}" for name in names]


def ravis_split() -> dict[str, str]:
    """Return the split of each class, which is named by its WordNet number."""
    return {listed.name: listed.split for listed in read_list("mini_imagenet")}


def source(root: str | None = None, resample: Resample = Resample.lanczos) -> Source:
    """Return where the packed set comes from, [60000, 3, 84, 84] with classes named split/class."""
    folder = MiniImageNet.about.source_folder(root)
    has_tables = all((folder / f"{split}.csv").exists() for split in CLASSES)
    has_splits = all((folder / split).is_dir() for split in CLASSES)
    entries = [folder / split / name for split in CLASSES if has_splits for name in names_in(folder / split)]
    is_flat = has_splits and has_tables and not any(entry.is_dir() for entry in entries)
    if is_flat or (has_tables and not has_splits and (folder / "images").exists()):
        images = {split: folder / (split if is_flat else "images") for split in CLASSES}
        files = _checked(folder, {split: _list_csv(folder / f"{split}.csv", images[split]) for split in CLASSES})
    elif has_splits:
        files = _checked(folder, {split: _list_folder(folder / split) for split in CLASSES})
    else:
        key = key_of(sizes([_cache(folder, split) for split in CLASSES]))
        return Source(f"mini-imagenet-{SIZE}x{SIZE}-{key}", lambda: _read_caches(folder))
    key = key_of([[name, sizes(files[name])] for name in files])
    progress = follow(files.values(), "reading miniImageNet", len(files))
    blocks = (read_squares(paths, SIZE, resample) for paths in progress)
    stem = f"mini-imagenet-{SIZE}x{SIZE}-{resample.name}-{key}"
    return Source(stem, lambda: _unpacked(folder, list(files), blocks))


def _cache(folder: Path, split: str) -> Path:
    return folder / f"mini-imagenet-cache-{split}.pkl"


def _unpacked(folder: Path, names: list[str], blocks: Iterator[Tensor]) -> Unpacked:
    """Say if the split is not Ravi's."""
    differing = sorted(name for name in names if ravis_split().get(name.partition("/")[2]) != name.partition("/")[0])
    if differing:
        tell(
            f"{folder} does not split miniImageNet as Ravi and Larochelle did ({len(differing)} of {len(names)} "
            f"classes, e.g. {differing[0]}): results do not compare with those of papers that use their split"
        )
    return Unpacked(tuple(names), [MiniImageNet.about.fewest] * len(names), (3, SIZE, SIZE), blocks)


def _read_caches(folder: Path) -> Unpacked:
    """Read each cache twice: once for its classes, and once for its images."""
    listed = {split: read_images(_cache(folder, split), (SIZE, SIZE, 3))[1] for split in CLASSES}
    numbers = _checked(folder, listed)

    def blocks() -> Iterator[Tensor]:
        for split in CLASSES:
            images, _ = read_images(_cache(folder, split), (SIZE, SIZE, 3))
            for name in numbers:
                if name.startswith(f"{split}/"):
                    yield torch.from_numpy(images[numbers[name]]).permute(0, 3, 1, 2)

    return _unpacked(folder, list(numbers), blocks())


def _checked(folder: Path, splits: dict[str, dict[str, list[T]]]) -> dict[str, list[T]]:
    """Return the images of each class (train/n01532829), in the packed set's order, if the counts are right."""
    images = MiniImageNet.about.fewest
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for name in sorted(classes):
            if name in seen:
                raise UserError(f"class {name} of {folder} is in {seen[name]} and in {split}: splits share no class")
            seen[name] = split
            if (count := len(classes[name])) != images:
                raise UserError(f"class {name} of {split} in {folder} has {count} images instead of {images}")
        if len(classes) != CLASSES[split]:
            raise UserError(f"{split} in {folder} has {len(classes)} classes instead of {CLASSES[split]}")
    return {f"{split}/{name}": splits[split][name] for split in CLASSES for name in sorted(splits[split])}


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class of train/, val/ or test/."""
    classes = {name: folder / name for name in names_in(folder)}
    if others := [path for path in classes.values() if not path.is_dir()]:
        raise UserError(f"{others[0]} is not a folder of a class, and {folder} may hold nothing else")
    return {name: [path / image for image in names_in(path)] for name, path in classes.items()}


def _list_csv(path: Path, images: Path) -> dict[str, list[Path]]:
    """Return the images of each class that a table lists, in the folder `images`, sorted by name."""
    classes = defaultdict(list)
    try:
        check_table(path)
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: what spreadsheets write begins with a mark
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            name_column, label_column = next((both for both in COLUMNS if set(both) <= set(names)), COLUMNS[0])
            for line, row in enumerate(rows, 2):
                if not (row[label_column] and row[name_column]):
                    raise UserError(f"line {line} of {path} lacks a {name_column} or a {label_column}")
                classes[row[label_column]].append(inside(row[name_column], f"line {line} of {path}"))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        columns = " or ".join(" and ".join(both) for both in COLUMNS)
        raise UserError(f"{path} cannot be read as a table with the columns {columns} ({error})") from error
    times = Counter(name for listed in classes.values() for name in listed)
    if twice := [name for name, count in times.items() if count > 1]:
        raise UserError(f"{path} lists {twice[0]} {times[twice[0]]} times")
    return {label: [images / name for name in sorted(listed)] for label, listed in classes.items()}
