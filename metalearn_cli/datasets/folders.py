"""Folders of image files: what is in them, and the picture in a file. Whatever is odd is named, never passed over."""

from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from metalearn_cli.datasets.decode import as_tensor
from metalearn_cli.datasets.formats import Broken, open_picture
from metalearn_cli.datasets.modes import check
from metalearn_cli.errors import UserError


class Resample(Enum):
    """How an image of another size becomes one of this size."""

    lanczos = auto()  # what the papers' code does
    box = auto()  # the mean of the pixels that become one


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name; hidden entries (.DS_Store and the like) do not count."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error


def sizes(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """The name of each file with its size in bytes."""
    try:
        return [(path.name, path.stat().st_size) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error


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
