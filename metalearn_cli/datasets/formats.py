"""The formats of pictures that are read, and how a file in one of them is opened. Every picture is opened here: Pillow
by itself also takes formats that start other programs (EPS) or hold no pixels (WMF).
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

# The first bytes and the name of what is taken for a picture, and is not one here.
_OTHERS = {b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"%PDF": "PDF", b"8BPS": "a Photoshop document"}


class Broken(Exception):
    """A file without a picture that can be read; says why, as in "is empty (0 bytes)"."""


def is_picture(name: str) -> bool:
    """Whether a file that a folder lists is taken for a picture, by its name alone."""
    return name.lower().endswith(SUFFIXES)


def open_picture(source: Path | BinaryIO) -> ImageFile.ImageFile:
    """Open a picture by its content, undecoded. Raises Broken, and UnidentifiedImageError for other formats."""
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    start = _start(source)
    if other := next((name for mark, name in _OTHERS.items() if start.startswith(mark)), ""):
        raise Broken(f"is {other}, which is not read as a picture: save it as PNG or TIFF")
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
    """Return the formats that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _start(source: Path | BinaryIO) -> bytes:
    """Return the first bytes. Raises Broken for what is not a plain file, such as a pipe, which may never end."""
    if not isinstance(source, Path):
        start = source.read(64)
        source.seek(0)
        return start
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Broken("is not a plain file")
    if status.st_size == 0:
        raise Broken("is empty (0 bytes)")
    with source.open("rb") as file:
        return file.read(64)


def _brands(start: bytes) -> set[bytes]:
    """Return what a file of the ISO base media format says that it is; nothing for another file."""
    if start[4:8] != b"ftyp":
        return set()
    names = start[8 : int.from_bytes(start[:4], "big")]
    return {names[at : at + 4] for at in range(0, len(names), 4) if at != 4}  # 4 to 8 is a version


def _open_heif(source: Path | BinaryIO) -> ImageFile.ImageFile:
    """Open HEIC without registering it with Pillow, whose formats the whole process shares."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise Broken("is HEIC, which is read by pillow-heif: pip install 'metalearn-cli[heic]'") from None
    opener: Callable[[Path | BinaryIO], ImageFile.ImageFile] = HeifImageFile
    return opener(source)
