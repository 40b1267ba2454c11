"""Folders of image files: what is in them, and the picture in a file. Whatever is odd is named, never passed over."""

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from metalearn_cli.errors import UserError


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name; hidden entries (.DS_Store and the like) do not count."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error


def read_rgb(path: Path) -> Image.Image:
    """The picture in a file, by its content whatever its suffix; grey and CMYK become RGB as Pillow has it.

    Refused: what cannot be decoded to the last byte, what holds several pictures, and modes that RGB cannot hold.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes): put the image there again")
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise UserError(f"{path} holds {frames} pictures: one is wanted")
            if image.mode not in ("RGB", "L", "CMYK"):
                raise UserError(
                    f"{path} is of mode {image.mode}: RGB, grey (L) or CMYK is wanted, without transparency"
                )
            picture: Image.Image = image.convert("RGB")
            return picture
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image that Pillow can read: put the image there again") from error
    except UserError:
        raise
    except Exception as error:  # whatever the system, zlib or Pillow raise when they meet damaged bytes
        raise UserError(f"{path} is damaged ({error}): put the image there again") from error


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as [3, H, W] uint8."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1)
