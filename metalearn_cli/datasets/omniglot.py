"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by the same 20 people (Lake et al. 2015, Science).

Read from the two official archives, without unpacking them. `omniglot_characters.csv` lists every character with its
part of the split of Vinyals et al. 2016 and the first 16 hex digits of the sha256 of its 20 decoded images (105 x 105
bytes each, 255 = paper, in the order of the file names), so that the check does not depend on how an archive was
compressed. Because the list fixes the content, a packed set needs the archives no more: every archive that passes gives
the same pixels, and one that is damaged later can change nothing.
"""

import csv
import hashlib
import io
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from enum import Enum, auto
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from metalearn_cli import seeding
from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.image_set import ImageSet, Source, Unpacked
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.datasets.paths import data_root, expand
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow

IMAGES = 20  # of each character
SIZE = 28  # the side of a packed image
OWN_SIZE = 105  # of those in the archives

ARCHIVES = ("images_background", "images_evaluation")
ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python"


class Resample(Enum):
    """How 105 x 105 becomes 28 x 28."""

    nearest = auto()  # what the papers' code does: it asks for LANCZOS, which Pillow ignores for 1-bit images
    lanczos = auto()  # what torchvision's users get, who make the image grey first


class CharacterSplit(Enum):
    vinyals = auto()  # by alphabet: 1,028 / 172 / 423 characters
    random1200 = auto()  # 1,200 / 423, no validation
    random1100 = auto()  # 1,100 / 100 / 423, with the test characters of random1200


class Character(NamedTuple):
    """A row of the list."""

    name: str  # e.g. images_background/Alphabet_of_the_Magi/character01
    vinyals: str  # train, val or test
    sha256: str


@cache
def characters() -> tuple[Character, ...]:
    """All characters, sorted by name: character c's images are 20 c to 20 c + 19 of the packed set."""
    with Path(__file__).with_name("omniglot_characters.csv").open(newline="") as file:
        return tuple(Character(*row) for row in list(csv.reader(file))[1:])


def split_characters(split: CharacterSplit, split_seed: int) -> dict[str, Tensor]:
    """The characters of each split, as positions in the list, [characters] int64. Reads no image."""
    listed = characters()
    if split is CharacterSplit.vinyals:
        return {
            name: torch.tensor([c for c, character in enumerate(listed) if character.vinyals == name])
            for name in ("train", "val", "test")
        }
    order = torch.randperm(len(listed), generator=seeding.generator("omniglot", split_seed))
    test, rest = order[:423], order[423:]
    if split is CharacterSplit.random1200:
        return {"train": rest, "test": test}
    return {"train": rest[100:], "val": rest[:100], "test": test}


@cache
def alphabets() -> Tensor:
    """The alphabet of each character, as a number, [characters] int64."""
    names = [character.name.rpartition("/")[0] for character in characters()]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return torch.tensor([numbers[name] for name in names])


def load(resample: Resample, root: str | None = None) -> ImageSet:
    """The packed set, [32460, 1, 28, 28] with ink = 255; on first use packed from the archives in `root`."""
    return packed(*source(resample, root))


def source(resample: Resample = Resample.nearest, root: str | None = None) -> Source:
    """A `root` that is given must hold the archives also later: otherwise it is not what its giver thinks it is."""
    if root is not None:
        _archives(root)
    return Source(f"omniglot-{SIZE}x{SIZE}-{resample.name}", lambda: _read(resample, root))


def _archives(root: str | None) -> list[Path]:
    """Where the two archives stand. Raises UserError where they do not."""
    folder = expand(root) if root is not None else data_root() / "omniglot"
    paths = [folder / f"{name}.zip" for name in ARCHIVES]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(
            f"Omniglot is not in {folder} (no {' and no '.join(missing)} there): metalearn data prepare omniglot "
            f"fetches {' and '.join(f'{ADDRESS}/{path.name}' for path in paths)}; or set METALEARN_DATA to "
            "the folder whose subfolder omniglot holds them, or task.root to the folder itself"
        )
    return paths


def _read(resample: Resample, root: str | None) -> Unpacked:
    paths = _archives(root)
    names = tuple(character.name for character in characters())
    return Unpacked(names, [IMAGES] * len(names), (1, SIZE, SIZE), _blocks(paths, resample))


def _blocks(paths: list[Path], resample: Resample) -> Iterator[Tensor]:
    blocks = chain.from_iterable(_read_archive(path, resample) for path in paths)
    yield from follow(blocks, "reading Omniglot", len(characters()))


def _read_archive(path: Path, resample: Resample) -> Iterator[Tensor]:
    """The images of each character of one archive, [20, 1, 28, 28] uint8, once they were checked."""
    mend = f"delete it, and metalearn data prepare omniglot fetches it again from {ADDRESS}/{path.name}"
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
            raise UserError(f"{path} has images in {unknown[0]}, which is no character of Omniglot: {mend}")
        drawers = [f"{drawer:02}" for drawer in range(1, IMAGES + 1)]
        for character, sha256 in listed.items():
            found = [name[-6:-4] for name in members[character]]  # the 07 of 0709_07.png
            if found != drawers:
                raise UserError(
                    f"{path} has images {', '.join(found) or 'none'} of {character} instead of 01 to {IMAGES}: {mend}"
                )
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
