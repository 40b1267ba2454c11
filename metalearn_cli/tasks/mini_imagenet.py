"""miniImageNet: 100 classes of ImageNet with 600 images each (Vinyals et al. 2016, arXiv 1606.04080), in the split
64 / 16 / 20 of Ravi and Larochelle 2017 (openreview rJY0-Kcll).

ImageNet's licence does not let the images be passed on, and copies differ in size and compression. Hence there is no
list of hashes to hold them against: counts and overlaps are checked, each image is decoded when it is packed, and the
fingerprint of the pixels stands in a run's results. Four layouts are read, the first of those that are there:

    train/<class>/<image>  val/<class>/<image>  test/<class>/<image>
    train/<image>  ...     train.csv  val.csv  test.csv    (with the columns image_name and image_label, or Ravi's)
    images/<filename>      train.csv  val.csv  test.csv    (Ravi's, with the columns filename and label)
    mini-imagenet-cache-train.pkl  -val.pkl  -test.pkl     (read without running anything in them, see pickles.py)

The split is the source's own. Where its classes are not those of Ravi's lists (mini_imagenet_classes.csv) this is said
and not refused: Vinyals' own split has the same sizes, and classes may have other names than their WordNet numbers.

Images of another size become 84 x 84 without regard to their proportions, as in the papers' code (MAML's
proc_images.py). The name of a packed set carries a hash of the files' names and sizes: when the folder changes, the set
is packed anew.
"""

import contextlib
import csv
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from metalearn_cli.datasets.class_lists import read_list
from metalearn_cli.datasets.folders import entries, sizes
from metalearn_cli.datasets.image_set import Source, Unpacked
from metalearn_cli.datasets.paths import check_table, inside
from metalearn_cli.datasets.pictures import Resample, Resize, read_squares
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.datasets.safe_pickle import read_images
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

CLASSES = {"train": 64, "val": 16, "test": 20}  # in the packed set they stand in this order, by name in each split
IMAGES = 600  # of each class
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
        images=60000,
        licence="research only",
        instructions="its licence wants that you make it from your own copy of ImageNet (https://image-net.org); "
        "metalearn data prepare mini_imagenet archive=FILE takes an archive of the images in train/, val/ and test/, "
        "with train.csv, val.csv and test.csv (columns image_name and image_label) where they are in no folders of "
        "classes, of images/ with Ravi's three tables (columns filename and label), or of the three pickled caches",
    )
    fewest = IMAGES
    folders = 1  # that of the split
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
        """tieredImageNet tests on some that miniImageNet trains on. By the numbers of ImageNet; where the images have
        other names or are not here, by Ravi's lists."""
        names = list(ravis_split())
        with contextlib.suppress(UserError):  # the data of another run's task need not be here
            packed_names = [name.rpartition("/")[2] for name in self.images.names]
            names = packed_names if all(re.fullmatch(r"n\d{8}", name) for name in packed_names) else names
        return [f"ImageNet's {name}" for name in names]


def ravis_split() -> dict[str, str]:
    """The split of each class, which is called by its WordNet number."""
    return {listed.name: listed.split for listed in read_list("mini_imagenet")}


def source(root: str | None = None, resample: Resample = Resample.lanczos) -> Source:
    """The packed set, [60000, 3, 84, 84] with classes named split/class."""
    folder = MiniImageNet.about.source_folder(root)
    has_tables = all((folder / f"{split}.csv").exists() for split in CLASSES)
    has_splits = all((folder / split).is_dir() for split in CLASSES)
    if has_splits and has_tables and not any(path.is_dir() for split in CLASSES for path in entries(folder / split)):
        files = _checked(folder, {split: _list_csv(folder / f"{split}.csv", folder / split) for split in CLASSES})
    elif has_splits:
        files = _checked(folder, {split: _list_folder(folder / split) for split in CLASSES})
    elif has_tables and (folder / "images").exists():
        files = _checked(folder, {split: _list_csv(folder / f"{split}.csv", folder / "images") for split in CLASSES})
    else:
        listing = sizes([_cache(folder, split) for split in CLASSES])
        return Source(f"mini-imagenet-{SIZE}x{SIZE}-{_key(listing)}", lambda: _read_caches(folder))
    key = _key([[name, sizes(files[name])] for name in files])
    return Source(f"mini-imagenet-{SIZE}x{SIZE}-{resample.name}-{key}", lambda: _read_files(folder, files, resample))


def _key(listing: object) -> str:
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def _cache(folder: Path, split: str) -> Path:
    return folder / f"mini-imagenet-cache-{split}.pkl"


def _unpacked(folder: Path, names: list[str], blocks: Iterator[Tensor]) -> Unpacked:
    """Says where the split is not Ravi's."""
    differing = sorted(name for name in names if ravis_split().get(name.partition("/")[2]) != name.partition("/")[0])
    if differing:
        sentence = (
            f"{folder} does not split miniImageNet as Ravi and Larochelle did ({len(differing)} of {len(names)} "
            f"classes, e.g. {differing[0]}): results do not compare with those of papers that use their split"
        )
        with contextlib.suppress(OSError):  # a closed terminal
            tqdm.write(sentence, file=sys.stderr)
    return Unpacked(tuple(names), [IMAGES] * len(names), (3, SIZE, SIZE), blocks)


def _read_files(folder: Path, files: dict[str, list[Path]], resample: Resample) -> Unpacked:
    progress = follow(files.values(), "reading miniImageNet", len(files))
    return _unpacked(folder, list(files), (read_squares(paths, SIZE, resample) for paths in progress))


def _read_caches(folder: Path) -> Unpacked:
    """Each cache is in memory as a whole twice: once for its classes, and once for its images."""
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
    """The images of each class, e.g. of train/n01532829, in the order of the packed set, once the counts are right."""
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for name in sorted(classes):
            if name in seen:
                raise UserError(f"class {name} of {folder} is in {seen[name]} and in {split}: splits share no class")
            seen[name] = split
            if (count := len(classes[name])) != IMAGES:
                raise UserError(f"class {name} of {split} in {folder} has {count} images instead of {IMAGES}")
        if len(classes) != CLASSES[split]:
            raise UserError(f"{split} in {folder} has {len(classes)} classes instead of {CLASSES[split]}")
    return {f"{split}/{name}": splits[split][name] for split in CLASSES for name in sorted(splits[split])}


def _list_folder(folder: Path) -> dict[str, list[Path]]:
    """The images of each class of train/, val/ or test/."""
    classes = entries(folder)
    if others := [path for path in classes if not path.is_dir()]:
        raise UserError(f"{others[0]} is no folder of a class, and {folder} may hold nothing else")
    return {path.name: entries(path) for path in classes}


def _list_csv(path: Path, images: Path) -> dict[str, list[Path]]:
    """The images of each class that a table lists, in the folder `images`, sorted by name."""
    classes = defaultdict(list)
    try:
        check_table(path, str(path))
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: what spreadsheets write begins with a mark
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            name_column, label_column = next((both for both in COLUMNS if set(both) <= set(names)), COLUMNS[0])
            for line, row in enumerate(rows, 2):
                if not (row[label_column] and row[name_column]):
                    raise UserError(f"line {line} of {path} lacks a {name_column} or a {label_column}")
                classes[row[label_column]].append(inside(row[name_column], f"line {line} of {path}"))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        wanted = " or ".join(" and ".join(both) for both in COLUMNS)
        raise UserError(f"{path} cannot be read as a table with the columns {wanted} ({error})") from error
    times = Counter(name for listed in classes.values() for name in listed)
    if twice := [name for name, count in times.items() if count > 1]:
        raise UserError(f"{path} lists {twice[0]} {times[twice[0]]} times")
    return {label: [images / name for name in sorted(listed)] for label, listed in classes.items()}
