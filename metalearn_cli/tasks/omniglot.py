"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by the same 20 people (Lake et al. 2015, Science).

The split is by alphabet as in Vinyals et al. 2016 (arXiv 1606.04080; 1,028 training, 172 validation and 423 test
characters), or random as in Reptile (1,200/423) and MAML's code (1,100/100/423), which is easier. Rotations by quarter
turns make four classes of each character (Vinyals et al., ProtoNet; Reptile's code in training only), or turn each
class of an episode at random, in training and test (MAML's code). Pixels are inverted, ink = 1 and paper = 0, and are
resized from 105 x 105 to 28 x 28 by nearest neighbour (the papers' code asks for LANCZOS, but gets this) or by Lanczos.

Read from the two official archives, without unpacking them. `omniglot_classes.csv` lists every character with its part
of the split of Vinyals et al. and the first 16 hex digits of the sha256 of its 20 decoded images (105 x 105 bytes each,
255 = paper, in the order of the file names): the check does not depend on the compression.
"""

import hashlib
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.image_set import ListedClass, Source, Unpacked, by_split, numbered, read_list
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.system.console import follow
from metalearn_cli.tasks.episodes import Episodes, Rotations
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.known_sets import About

IMAGES = 20  # of each character
SIZE = 28  # the side of a packed image
OWN_SIZE = 105  # of those in the archives


class CharacterResample(Enum):
    """How 105 x 105 becomes 28 x 28."""

    nearest = auto()  # what the papers' code does: it asks for LANCZOS, which Pillow ignores for 1-bit images
    lanczos = auto()  # what torchvision's users get, who make the image grey first


class CharacterSplit(Enum):
    vinyals = auto()  # by alphabet: 1,028 / 172 / 423 characters
    random1200 = auto()  # 1,200 / 423, no validation
    random1100 = auto()  # 1,100 / 100 / 423, with the test characters of random1200


@dataclass(frozen=True)
class Omniglot(ImageTask):
    episodes: Episodes = Episodes(rotations=Rotations.as_classes)
    split: CharacterSplit = CharacterSplit.vinyals
    split_seed: int = 0  # of the two random splits
    resample: CharacterResample = CharacterResample.nearest
    root: str | None = None  # the folder of the two archives; null: $METALEARN_DATA/omniglot

    about = About(
        title="Omniglot",
        folder="omniglot",
        layouts=(("images_background.zip", "images_evaluation.zip"),),
        classes=1623,
        images=32_460,
        fewest=20,
        licence="MIT",
        instructions="metalearn data prepare omniglot fetches it",
        downloads=(
            (
                "images_background.zip",
                "https://github.com/brendenlake/omniglot/raw/master/python/images_background.zip",
                "68d2efa1b9178cc56df9314c21c6e718",
            ),
            (
                "images_evaluation.zip",
                "https://github.com/brendenlake/omniglot/raw/master/python/images_evaluation.zip",
                "6b91aef0f799c5bb55b94e3f2daec811",
            ),
        ),
    )
    depth = 1  # the folder of the archive

    @property
    def preparation(self) -> Preparation:
        return Preparation(SIZE, 1, Resize.crop, self.resample.name, OWN_SIZE, inverted=True, ink=Ink.evened)

    @property
    def source(self) -> Source:
        return source(self.root, self.resample)

    @property
    def split_classes(self) -> dict[str, Tensor]:
        if self.split is CharacterSplit.vinyals:
            return by_split(characters())
        order = torch.randperm(len(characters()), generator=generator("omniglot", self.split_seed))
        test, rest = order[:423], order[423:]
        if self.split is CharacterSplit.random1200:
            return {"train": rest, "test": test}
        return {"train": rest[100:], "val": rest[:100], "test": test}

    @cached_property
    def groups(self) -> Tensor:
        """The alphabet of each character."""
        return numbered(character.name.rpartition("/")[0] for character in characters())

    @property
    def shared_names(self) -> Sequence[str]:
        return [character.name for character in characters()]


def characters() -> tuple[ListedClass, ...]:
    """Return all characters, sorted by name: those of character c are images 20 c to 20 c + 19 of the packed set."""
    return read_list("omniglot")


def source(root: str | None = None, resample: CharacterResample = CharacterResample.nearest) -> Source:
    """Return where the packed set comes from, [32460, 1, 28, 28] with ink = 255. The archives are needed until it is
    packed; in a `root` that is given they must always be: otherwise it is not what its giver thinks it is."""
    if root is not None:
        Omniglot.about.source_folder(root)

    def read() -> Unpacked:
        folder = Omniglot.about.source_folder(root)
        names = tuple(character.name for character in characters())
        paths = [folder / name for name, _, _ in Omniglot.about.downloads]
        blocks = chain.from_iterable(_read_archive(path, resample) for path in paths)
        progress = follow(blocks, "reading Omniglot", len(names))
        return Unpacked(names, [IMAGES] * len(names), (1, SIZE, SIZE), progress)

    return Source(f"omniglot-{SIZE}x{SIZE}-{resample.name}", read)


def _read_archive(path: Path, resample: CharacterResample) -> Iterator[Tensor]:
    """Yield the images of each character of one archive, [20, 1, 28, 28] uint8, once they are checked."""
    mend = "delete it, and metalearn data prepare omniglot fetches it again"
    listed = {character.name: character.sha256 for character in characters() if character.name.startswith(path.stem)}
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} cannot be read as a zip archive ({error}): {mend}") from error
    with archive:
        members = defaultdict(list)
        for name in sorted(archive.namelist()):
            if name.startswith(f"{path.stem}/") and name.endswith(".png"):  # not __MACOSX/, .DS_Store and the like
                members[name.rpartition("/")[0]].append(name)
        if unknown := sorted(members.keys() - listed.keys()):
            raise UserError(f"{path} has images in {unknown[0]}, which is not a character of Omniglot: {mend}")
        expected = [f"{drawer:02}" for drawer in range(1, IMAGES + 1)]
        for character, sha256 in listed.items():
            drawers = [name[-6:-4] for name in members[character]]  # the 07 of 0709_07.png
            if drawers != expected:
                drawn = ", ".join(drawers) or "none"
                raise UserError(f"{path} has images {drawn} of {character} instead of 01 to {IMAGES}: {mend}")
            digest = hashlib.sha256()
            small = bytearray()
            for name in members[character]:
                try:
                    image = open_picture(io.BytesIO(archive.read(name))).convert("L")
                except Exception as error:  # whatever zipfile, zlib or Pillow raise when they meet damaged bytes
                    raise UserError(f"{name} in {path} is damaged ({error}): {mend}") from error
                if image.size != (OWN_SIZE, OWN_SIZE):
                    width, height = image.size
                    raise UserError(f"{name} in {path} is {width} x {height} pixels instead of 105 x 105: {mend}")
                digest.update(image.tobytes())
                small += image.resize((SIZE, SIZE), Image.Resampling[resample.name.upper()]).tobytes()
            if digest.hexdigest()[:16] != sha256:
                raise UserError(f"{character} in {path} does not hold Omniglot's 20 images: {mend}")
            yield 255 - torch.frombuffer(small, dtype=torch.uint8).view(IMAGES, 1, SIZE, SIZE)
