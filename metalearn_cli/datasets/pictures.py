"""The picture in a file as a square of a given side, whatever its format, mode and proportions; or why there is none.

By content, whatever the suffix (datasets/formats.py). A picture is turned as its EXIF data say. What is transparent, or
added by `pad`, is white. What its numbers mean stands in datasets/modes.py: 16 bits become 8, CMYK, L*a*b* and palettes
become RGB; colour becomes grey by the luminance of ITU-R BT.601, and grey becomes colour by repeating. Colour profiles
are not read. Sizes change by Lanczos, which is antialiased.
"""

import os
import warnings
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from metalearn_cli.datasets.formats import Broken as Broken  # for whoever decodes
from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.modes import check, plain
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import MIN_SIDE

MAX_PIXELS = 100_000_000  # 300 MB once decoded; a small file can claim any size


class Resize(Enum):
    """How a picture becomes square."""

    crop = auto()  # the middle of it, with its shorter side whole
    stretch = auto()  # without regard to its proportions
    pad = auto()  # all of it, with its longer side whole


def read_picture(source: Path | Image.Image, channels: int, enough: int) -> Image.Image:
    """The picture in a file, or one of Pillow's, 8 bits in each of `channels` (1: grey, 3: RGB) and turned as its EXIF
    data say; of a JPEG in a file at least `enough` pixels a side, where it has so many.

    Raises Broken where the file cannot be decoded to its last byte, where it holds several pictures (but for a camera's
    MPO, whose first is the photograph, and for HEIC, which says which one is), and for a picture that is too small or
    too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of metadata that are not used
            return _read(source, enough).convert("L" if channels == 1 else "RGB")
    except Broken:
        raise
    except UnidentifiedImageError as error:
        raise Broken("is no image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise Broken(_TOO_LARGE) from error
    except OSError as error:
        raise Broken(f"cannot be read ({_one_line(error.strerror or error)})") from error
    except Exception as error:  # whatever Pillow and the libraries below it raise when they meet damaged bytes
        raise Broken(f"cannot be decoded ({_one_line(error)})") from error


def as_tensor(picture: Image.Image) -> Tensor:
    """[C, H, W] uint8."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, -1).permute(2, 0, 1)


_TOO_LARGE = f"has more than {MAX_PIXELS // 1_000_000} million pixels"


def _read(source: Path | Image.Image, enough: int) -> Image.Image:
    """The picture in 8 bits; a JPEG of more than twice as many pixels a side as are enough at half, a quarter or
    an eighth of its size, which is quickly decoded."""
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
        raise Broken(f"is {width} x {height} pixels, and at least {MIN_SIDE} a side are wanted")
    if width * height > MAX_PIXELS:
        raise Broken(_TOO_LARGE)
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "HEIF"):
        raise Broken(f"holds {frames} pictures, and one is wanted")
    check(image)


def square(
    picture: Image.Image, size: int, resize: Resize, method: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    shape = size, size
    if resize is Resize.crop:
        return ImageOps.fit(picture, shape, method)
    if resize is Resize.pad:
        return ImageOps.pad(picture, shape, method, color="white")
    return picture.resize(shape, method)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class Resample(Enum):
    """How an image of another size becomes one of this size."""

    lanczos = auto()  # what the papers' code does
    box = auto()  # the mean of the pixels that become one


def read_squares(paths: Sequence[Path], size: int, resample: Resample) -> Tensor:
    """The pictures in these files, without regard to their proportions: [n, 3, size, size] uint8."""
    pixels = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    for path, part in zip(paths, pixels, strict=True):
        part.copy_(as_tensor(read_rgb(path).resize((size, size), Image.Resampling[resample.name.upper()])))
    return pixels


def read_rgb(path: Path) -> Image.Image:
    """The picture in a file, by its content whatever its suffix; grey and CMYK become RGB as Pillow has it.

    Refused: what cannot be decoded to the last byte, what holds several pictures, and modes that RGB cannot hold.
    """
    try:
        with open_picture(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{path} holds {frames} pictures: one is wanted")
            if image.mode not in ("RGB", "L", "CMYK"):
                raise UserError(
                    f"{path} is of mode {image.mode}: RGB, grey (L) or CMYK is wanted, without transparency"
                )
            check(image)
            picture: Image.Image = image.convert("RGB")
            return picture
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image that Pillow can read: put the image there again") from error
    except Broken as error:
        raise UserError(f"{path} {error}: put the image there again") from error
    except UserError:
        raise
    except Exception as error:  # whatever the system, zlib or Pillow raise when they meet damaged bytes
        raise UserError(f"{path} is damaged ({error}): put the image there again") from error
