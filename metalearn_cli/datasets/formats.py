"""The formats of pictures that are read, and how a file in one of them is opened. Whoever opens a picture does it here:
Pillow left to itself takes formats that start other programs (EPS) or hold no pixels (WMF).
"""

import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

import PIL
from PIL import Image, ImageFile, UnidentifiedImageError

# By Pillow's name, with the suffixes of its files in any case. A JPEG may be a camera's MPO, which Pillow tells apart.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "AVIF": (".avif",),  # by Pillow 11.3 and later
    "HEIF": (".heic", ".heif", ".hif"),  # by pillow-heif
    "DIB": (".dib",),
    "TGA": (".tga",),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Nothing in these files says what they are, and nearly any bytes pass for one: here the suffix must say it.
_WITHOUT_MARK = ("DIB", "TGA")

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}  # of what telephones write, coded by HEVC

# What is no picture for us, though it is taken for one: its first bytes, and its name.
_OTHERS = {b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "PDF", b"8BPS": "a Photoshop document"}


class Broken(Exception):
    """A file without a picture for us; says why, as in "is empty (0 bytes)"."""


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture where a folder is listed, by its name alone."""
    return name.lower().endswith(SUFFIXES)


def open_picture(source: Path | BinaryIO) -> ImageFile.ImageFile:
    """The picture in a file by its content, whatever its suffix, not decoded yet.

    Raises Broken, and what Pillow raises: UnidentifiedImageError where it is in none of the formats.
    """
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    start = _start(source)
    if other := next((name for mark, name in _OTHERS.items() if start.startswith(mark)), ""):
        raise Broken(f"is {other}, and no picture that is read: save it as PNG or TIFF")
    brands = _brands(start)
    if brands & _HEIF_BRANDS:
        return _open_heif(source)
    if b"avif" in brands and "AVIF" not in _readable():
        raise Broken(f"is AVIF, which Pillow {PIL.__version__} here does not read: pip install 'Pillow>=11.3'")
    names = [name for name in _readable() if name not in _WITHOUT_MARK or suffix in FORMATS[name]]
    try:
        return Image.open(source, formats=names)
    except UnidentifiedImageError as error:
        if start.startswith((b"II*", b"MM\0*", b"II+", b"MM\0+")):
            raise Broken("is a TIFF with pixels of a kind that Pillow does not read: save it with 8 bits") from error
        raise


@cache
def _readable() -> tuple[str, ...]:
    """The formats that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _start(source: Path | BinaryIO) -> bytes:
    """The first bytes. Raises Broken for what is no plain file, such as a pipe, which may never end."""
    if not isinstance(source, Path):
        start = source.read(64)
        source.seek(0)
        return start
    about = source.stat()
    if not stat.S_ISREG(about.st_mode):
        raise Broken("is no plain file")
    if about.st_size == 0:
        raise Broken("is empty (0 bytes)")
    with source.open("rb") as file:
        return file.read(64)


def _brands(start: bytes) -> set[bytes]:
    """What a file of the ISO base media format says that it is; nothing of another file."""
    if start[4:8] != b"ftyp":
        return set()
    inside = start[8 : int.from_bytes(start[:4], "big")]
    return {inside[at : at + 4] for at in range(0, len(inside), 4) if at != 4}  # there stands a version


def _open_heif(source: Path | BinaryIO) -> ImageFile.ImageFile:
    """Open HEIC without registering it with Pillow, whose formats are the whole process's."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise Broken("is HEIC, which is read by pillow-heif: pip install 'metalearn-cli[heic]'") from None
    opener: Callable[[Path | BinaryIO], ImageFile.ImageFile] = HeifImageFile
    return opener(source)
