"""CUB-200-2011: 200 species of birds with 41 to 60 photographs each, 11,788 in all (Wah et al. 2011).

Split 100 / 50 / 50 as by Chen et al. 2019 (A Closer Look at Few-shot Classification, arXiv 1904.04232, filelists/CUB):
of the classes in the order of their names, counted from 0, the even ones are for training, those with a remainder of 1
by 4 for validation, and those with 3 for the test. Read from the published layout,

    CUB_200_2011/images/<class>/<image>  images.txt  bounding_boxes.txt

Numbers, names and boxes are checked; there is no list of hashes, but the fingerprint of the pixels stands in a run's
results. Images become 84 x 84 without regard to their proportions, by Pillow's bilinear resampling as in the authors'
code. The name of a packed set carries a hash of the files' names and sizes and of the boxes, if they are used.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.image_set import Source, Unpacked, key_of
from metalearn_cli.datasets.paths import inside, sizes
from metalearn_cli.datasets.pictures import Preparation, Resize, as_tensor, read_rgb
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

SIZE = 84
MARGIN = 6  # around the centre of an image of 115% of that

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Region(Enum):
    """The part of an image that becomes 84 x 84."""

    whole = auto()
    centre = auto()  # 84 x 84 in the middle of 96 x 96: what the authors' code tests on
    box = auto()  # the bird, by its bounding box


@dataclass(frozen=True)
class CUB(ImageTask):
    episodes: Episodes = Episodes()
    region: Region = Region.whole  # the part of an image that becomes 84 x 84
    root: str | None = None  # the folder that holds CUB_200_2011/; null: $METALEARN_DATA/cub

    about = About(
        title="CUB-200-2011",
        folder="cub",
        layouts=(("CUB_200_2011/images", "CUB_200_2011/images.txt", "CUB_200_2011/bounding_boxes.txt"),),
        classes=200,
        images=11_788,
        fewest=41,
        licence="research only",
        instructions="its licence asks you to fetch it yourself: take CUB_200_2011.tgz from "
        "https://data.caltech.edu/records/65de6-vp158, and give metalearn data prepare cub "
        "archive=CUB_200_2011.tgz",
    )
    groups = None
    shared_names = ()

    @property
    def preparation(self) -> Preparation:
        margin = MARGIN if self.region is Region.centre else 0
        cut_out = "the birds of training were cut out by their boxes: cut yours out"
        note = cut_out if self.region is Region.box else ""
        return Preparation(SIZE, 3, Resize.stretch, "bilinear", margin=margin, whole=True, note=note)

    @property
    def source(self) -> Source:
        return source(self.root, self.region)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        number = torch.arange(self.about.classes)
        return {"train": number[number % 2 == 0], "val": number[number % 4 == 1], "test": number[number % 4 == 3]}


def source(root: str | None = None, region: Region = Region.whole) -> Source:
    """Return where the packed set comes from, [11788, 3, 84, 84]."""
    folder = CUB.about.source_folder(root) / "CUB_200_2011"
    files = _list_files(folder)
    boxes = _read_boxes(folder) if region is Region.box else {}
    if region is Region.box and (lacking := {n for numbered in files.values() for n in numbered} - boxes.keys()):
        raise UserError(f"{folder}/bounding_boxes.txt has no box of image {min(lacking)} of images.txt")
    listing = [
        [name, sizes(list(numbered.values())), [boxes.get(n) for n in numbered]] for name, numbered in files.items()
    ]
    counts = [len(numbered) for numbered in files.values()]
    unpacked = Unpacked(tuple(files), counts, (3, SIZE, SIZE), _blocks(files, region, boxes))
    return Source(f"cub-{SIZE}x{SIZE}-{region.name}-{key_of(listing)}", lambda: unpacked)


def _blocks(files: dict[str, dict[str, Path]], region: Region, boxes: dict[str, Box]) -> Iterator[Tensor]:
    for numbered in follow(files.values(), "reading CUB-200-2011", len(files)):
        yield torch.stack([as_tensor(_cut(path, region, boxes.get(number))) for number, path in numbered.items()])


def _cut(path: Path, region: Region, box: Box | None) -> Image.Image:
    image = read_rgb(path)
    if region is Region.centre:
        side = SIZE + 2 * MARGIN
        large = image.resize((side, side), Image.Resampling.BILINEAR)
        return large.crop((MARGIN, MARGIN, MARGIN + SIZE, MARGIN + SIZE))
    if box is not None:
        left, top, right, bottom = max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height)
        if not (left < right and top < bottom):
            raise UserError(f"the box {list(box)} of {path} has nothing of its {image.width} x {image.height} pixels")
        image = image.crop((math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)))
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _list_files(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the images of each class by their number in images.txt, both sorted by name, once they are complete."""
    path, about = folder / "images.txt", CUB.about
    classes: dict[str, dict[str, Path]] = defaultdict(dict)
    rows = _rows(path, 2)
    if twice := [number for number, times in Counter(number for number, _ in rows).items() if times > 1]:
        raise UserError(f"{path} has two images of number {twice[0]}")
    for number, name in sorted(rows, key=lambda row: row[1]):
        classes[name.rpartition("/")[0]][number] = folder / "images" / inside(name, str(path))
    if len(classes) != about.classes:
        raise UserError(f"{path} lists {len(classes)} classes instead of {about.classes}")
    if len(rows) != about.images:
        raise UserError(f"{path} lists {len(rows)} images instead of {about.images}")
    if few := [name for name, numbered in classes.items() if len(numbered) < about.fewest]:
        raise UserError(f"{path} lists {len(classes[few[0]])} images of {few[0]} instead of {about.fewest} or more")
    return dict(sorted(classes.items()))


def _read_boxes(folder: Path) -> dict[str, Box]:
    """Return the bounding box of each image, by its number."""
    path = folder / "bounding_boxes.txt"
    try:
        boxes = {number: [float(edge) for edge in edges] for number, *edges in _rows(path, 5)}
    except ValueError as error:
        raise UserError(f"{path} holds something else than numbers ({error})") from error
    if len(boxes) != CUB.about.images:
        raise UserError(f"{path} holds {len(boxes)} boxes instead of {CUB.about.images}")
    return {number: (x, y, x + width, y + height) for number, (x, y, width, height) in boxes.items()}


def _rows(path: Path, columns: int) -> list[list[str]]:
    """Return the lines of a table with a space between its columns."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
    if odd := [number for number, row in enumerate(rows, 1) if len(row) != columns]:
        raise UserError(f"line {odd[0]} of {path} has {len(rows[odd[0] - 1])} columns instead of {columns}")
    return rows
