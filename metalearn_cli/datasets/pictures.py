"""A picture in a file as an example of an image task, whatever its format, mode and proportions; or why it cannot be.

The content tells the format, whatever the suffix (datasets/formats.py); EXIF data turn the picture; what is
transparent, or added by `pad`, is white. 16 bits become 8; CMYK, L*a*b* and palettes become RGB (datasets/modes.py);
colour becomes grey by the luminance of ITU-R BT.601, and grey becomes colour by repeating. Colour profiles are not
read.
"""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from metalearn_cli.datasets.formats import Broken, open_picture
from metalearn_cli.datasets.ink import SIDE, Ink, evened
from metalearn_cli.datasets.modes import check_mode, plain
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import MIN_SIDE
from metalearn_cli.system.typed_json import to_json

MAX_PIXELS = 100_000_000  # 300 MB once decoded; a small file can claim any size
_TOO_LARGE = f"has more than {MAX_PIXELS // 1_000_000} million pixels"


class Resize(Enum):
    """How a picture becomes square."""

    crop = auto()  # the middle of it, with its shorter side whole
    stretch = auto()  # without regard to its proportions
    pad = auto()  # all of it, with its longer side whole


class Resample(Enum):
    """How an image of another size becomes one of this size."""

    lanczos = auto()  # what the papers' code does
    box = auto()  # the mean of the pixels that become one


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a picture becomes an example: what a task's own images have gone through."""

    size: int  # pixels a side
    channels: int  # 3: colours, 1: grey
    resize: Resize
    resample: str = "lanczos"  # as Pillow names it
    by_way_of: int | None = None  # the side of the data set's own images: the picture becomes one of these first
    margin: int = 0  # pixels on each side that are cut off after the size is changed
    inverted: bool = False  # ink is bright
    whole: bool = False  # a large JPEG is decoded in its full size
    ink: Ink = Ink.as_is  # what becomes of paper and ink in a photograph
    note: str = ""  # what cannot be done to a picture of the user's

    KEYS: ClassVar[tuple[str, ...]]  # the fields that are keys of a task of the user's own images

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @property
    def word(self) -> str:
        """The part of a file's name that tells pixels which were prepared so from others."""
        plain_word = f"{self.size}x{self.size}x{self.channels}-{self.resize.name}"
        if self == Preparation(self.size, self.channels, self.resize):
            return plain_word
        return f"{plain_word}-{hashlib.sha256(repr(sorted(to_json(self).items())).encode()).hexdigest()[:8]}"

    def read(self, source: Path | Image.Image) -> Tensor:
        """Return the picture as [channels, size, size] uint8. Raises Broken."""
        first = self.by_way_of or (max(SIDE, self.size) if self.ink is Ink.evened else None)
        picture = read_picture(source, self.channels, MAX_PIXELS if self.whole else 3 * (first or self.size))
        if first:
            picture = self._square(picture, first, Image.Resampling.LANCZOS)
        if self.ink is Ink.evened:
            picture = evened(picture)
        large = self.size + 2 * self.margin
        picture = self._square(picture, large, Image.Resampling[self.resample.upper()])
        if self.margin:
            picture = picture.crop((self.margin, self.margin, large - self.margin, large - self.margin))
        pixels = as_tensor(picture)
        return 255 - pixels if self.inverted else pixels

    def _square(self, picture: Image.Image, side: int, method: Image.Resampling) -> Image.Image:
        if self.resize is Resize.crop:
            return ImageOps.fit(picture, (side, side), method)
        if self.resize is Resize.pad:
            return ImageOps.pad(picture, (side, side), method, color="white")
        return picture.resize((side, side), method)

    def __str__(self) -> str:
        how = {
            Resize.crop: "the largest square in its middle is cut out",
            Resize.stretch: "it is stretched to a square",
            Resize.pad: "it is padded with white to a square",
        }[self.resize]
        large = self.size + 2 * self.margin
        first = f"to {self.by_way_of} x {self.by_way_of} pixels and then " if self.by_way_of else ""
        steps = [how, "turned grey" if self.channels == 1 else "turned into RGB"]
        steps += [f"scaled {first}to {large} x {large} pixels ({self.resample})"]
        steps += [f"cut to the inner {self.size} x {self.size}"] if self.margin else []
        if self.ink is Ink.evened:
            steps += ["evened out, so that paper in any light is white and faint ink black (ink=as_is leaves them)"]
        steps += ["inverted, so that dark ink is bright"] if self.inverted else []
        note = f"; {self.note}" if self.note else ""
        if self.inverted and self.ink is Ink.as_is:
            note += "; grey paper, shadows and faint ink stay as they are (ink=evened evens them out)"
        return f"each picture is prepared as in training: {', '.join(steps[:-1])} and {steps[-1]}{note}"


Preparation.KEYS = tuple(field.name for field in dataclasses.fields(Preparation) if field.name != "note")


def read_picture(source: Path | Image.Image, channels: int, enough: int) -> Image.Image:
    """Return the picture in a file, or one of Pillow's, with 8 bits in each of `channels` (1: grey, 3: RGB); of a JPEG
    in a file at least `enough` pixels a side. Raises Broken if the file cannot be decoded to its last byte, for several
    pictures (but for a camera's MPO and for HEIC, which tell the photograph), and for one that is too small or
    large."""
    with _decoding():
        return _read_plain(source, enough).convert("L" if channels == 1 else "RGB")


def read_rgb(path: Path) -> Image.Image:
    """Return the picture in a file of a published set as it is stored: RGB, or grey or CMYK that become RGB."""
    try:
        with _decoding(), open_picture(path) as image:
            if image.mode not in ("RGB", "L", "CMYK"):
                raise Broken(f"is of mode {image.mode}: RGB, grey (L) or CMYK is expected, without transparency")
            _check(image)
            picture: Image.Image = image.convert("RGB")
            return picture
    except Broken as error:
        raise UserError(f"{path} {error}: put the image there again") from error


def read_squares(paths: Sequence[Path], size: int, resample: Resample) -> Tensor:
    """Return the pictures in these files, without regard to their proportions: [n, 3, size, size] uint8."""
    method = Image.Resampling[resample.name.upper()]
    return torch.stack([as_tensor(read_rgb(path).resize((size, size), method)) for path in paths])


def as_tensor(picture: Image.Image) -> Tensor:
    """[C, H, W] uint8."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, -1).permute(2, 0, 1)


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Raise Broken for whatever Pillow and the libraries below it raise when they meet damaged bytes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and metadata, which are not used
            yield
    except Broken:
        raise
    except UnidentifiedImageError as error:
        raise Broken("is not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise Broken(_TOO_LARGE) from error
    except Exception as error:
        verb = "read" if isinstance(error, OSError) else "decoded"
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise Broken(f"cannot be {verb} ({reason})") from error


def _read_plain(source: Path | Image.Image, enough: int) -> Image.Image:
    """Return the picture in 8 bits; a large JPEG at a half, quarter or eighth of its size, which is fast."""
    if isinstance(source, ImageFile.ImageFile) and source.tile and source.filename:  # opened, and not decoded yet
        source = Path(os.fsdecode(source.filename))
    if isinstance(source, Image.Image):
        _check(source)
        return plain(source)
    with open_picture(source) as image:
        _check(image)
        if image.format in ("JPEG", "MPO"):  # a draft of HEIC is its thumbnail
            image.draft(None, (enough, enough))
        return plain(image)


def _check(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise Broken(f"is {width} x {height} pixels, and at least {MIN_SIDE} a side are expected")
    if width * height > MAX_PIXELS:
        raise Broken(_TOO_LARGE)
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "HEIF"):
        raise Broken(f"holds {frames} pictures, and one is expected")
    check_mode(image)
