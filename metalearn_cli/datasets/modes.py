"""What the numbers in a picture's file mean: as 8 bits in each of one or three channels, without transparency; or why
that is not known. tests/datasets/test_modes.py compares it with ImageMagick, libtiff, OpenJPEG and libavif.

Where formats leave a choice, a channel that a TIFF does not name is ignored, as is the fourth byte of a BMP without
masks; so are colour profiles, gamma, and the values that a file calls its least and its largest.
"""

import struct

import numpy as np
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from metalearn_cli.datasets.formats import Broken

_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16L", "I;16B"}

# Values of a TIFF's tags.
_IS_PREVIEW, _UNCOMPRESSED, _WHITE_IS_ZERO, _YCBCR, _APART, _CMYK = 1, 1, 0, 6, 2, 1


def check_mode(image: Image.Image) -> None:
    """Raises Broken if Pillow would read something else than was meant, or if what was meant is not known."""
    mode, name = image.mode, image.format
    if mode not in _MODES and not (mode == "I" and name in ("PNG", "PPM")):  # Pillow's name for their 16 bits
        raise Broken(f"is of mode {mode}, whose black and white are unknown: 8 or 16 bits are expected")
    if name == "TIFF":
        _check_tiff(image)
    elif name == "PNG" and _raw_mode(image).startswith("RGB;16") and "transparency" in image.info:
        raise Broken("is a PNG of 16 bits a channel with one transparent colour, of which Pillow keeps 8 bits")
    elif name == "GIF" and "transparency" not in image.info and not _fills_its_frame(image):
        raise Broken("is a GIF that does not fill its frame, and says nothing of what is around it")
    elif name == "JPEG2000":
        _check_jpeg2000(image)
    elif name == "TGA":
        _check_tga(image)


def plain(image: Image.Image) -> Image.Image:
    """Decode the picture as grey or colours in 8 bits a channel on white, turned as its EXIF data say."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    raw_mode = _raw_mode(image)
    picture = ImageOps.exif_transpose(image)
    if picture.mode.startswith("I"):
        largest = 4095 if tags.get(Base.BitsPerSample) == (12,) else 65535
        return _of_16_bits(picture, largest, tags.get(Base.PhotometricInterpretation) == _WHITE_IS_ZERO)
    if picture.mode in ("P", "PA") and tags and max(tags[Base.ColorMap]) < 256:  # 8 bits where 16 should be
        picture.putpalette(bytes(tags[Base.ColorMap]), "RGB;L")
    if picture.mode == "LAB":
        return picture.convert("RGB")
    if image.format == "PNG" and "transparency" in picture.info and picture.mode in ("L", "RGB"):
        picture.info["transparency"] = _in_8_bits(picture.info["transparency"], raw_mode)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if not picture.has_transparency_data:
        return picture
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


def _of_16_bits(picture: Image.Image, largest: int, is_negative: bool) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    grey = (values * 255 + largest // 2) // largest
    if is_negative:  # which Pillow sees to with 1, 2, 4 and 8 bits, and not with 16
        grey = 255 - grey
    if (transparent := picture.info.get("transparency")) is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def _in_8_bits(transparent: int | tuple[int, ...], raw_mode: str) -> int | tuple[int, ...]:
    """Return the transparent colour of a PNG, which the file has in its own bits: 2 of 0 to 3, for instance."""
    if isinstance(transparent, tuple):
        return tuple(value & 255 for value in transparent)
    bits = {"L;2": 2, "L;4": 4}.get(raw_mode, 8)
    largest = (1 << bits) - 1
    return (transparent & largest) * (255 // largest)


def _check_tiff(image: Image.Image) -> None:
    tags = getattr(image, "tag_v2", {})
    if Base.PhotometricInterpretation not in tags:
        raise Broken("is a TIFF that does not say whether 0 is black or white")
    if tags.get(Base.NewSubfileType, 0) & _IS_PREVIEW:
        raise Broken("is a TIFF whose first picture is a preview of another one, as in the raw files of cameras")
    if image.mode == "CMYK" and tags.get(Base.InkSet, _CMYK) != _CMYK:
        raise Broken("is a TIFF of other inks than cyan, magenta, yellow and black")
    is_compressed = tags.get(Base.Compression, _UNCOMPRESSED) != _UNCOMPRESSED
    is_ycbcr = tags[Base.PhotometricInterpretation] == _YCBCR
    if is_ycbcr and not is_compressed and tags.get(Base.YCbCrSubSampling) != (1, 1):
        raise Broken("is an uncompressed TIFF with one colour for several pixels")
    is_apart = tags.get(Base.PlanarConfiguration) == _APART and image.mode not in ("1", "L", "P", "I;16", "I;16B")
    is_read = image.mode in ("RGB", "RGBA", "CMYK") and (is_compressed or max(tags[Base.BitsPerSample]) == 8)
    if is_apart and not is_read:
        raise Broken("is a TIFF with each channel by itself, of a kind that Pillow takes for another")


def _check_jpeg2000(image: Image.Image) -> None:
    """Refuse all but 8 bits a channel, and 10 to 16 of grey: Pillow shifts the white of other depths."""
    start = _start(image, 1 << 20)
    if not start:  # decoded already
        return
    if (at := start.find(b"\xff\x4f\xff\x51")) < 0 or len(start) < at + 42:
        raise Broken("is a JPEG 2000 without a header that could be read")
    (channels,) = struct.unpack(">H", start[at + 40 : at + 42])
    parts = [start[first : first + 3] for first in range(at + 42, at + 42 + 3 * channels, 3)]
    bits = sorted({(part[0] & 127) + 1 for part in parts if part})  # the first bit says that it has a sign
    if any(part[1:] != b"\1\1" for part in parts):
        raise Broken("is a JPEG 2000 with one colour for several pixels")
    if bits != [8] and not (channels == 1 and image.mode == "I;16"):
        depths = " and ".join(map(str, bits))
        raise Broken(f"is a JPEG 2000 with {channels} channels of {depths} bits: 8, or 10 to 16 of grey, are expected")
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16") or (at == 0 and channels in (2, 4)):
        raise Broken(f"is a JPEG 2000 whose {channels} channels are neither grey nor RGB, or may be something else")


def _check_tga(image: Image.Image) -> None:
    start = _start(image, 18)
    if start and start[16] == 16 and start[2] & 7 in (2, 3) and start[17] & 15:  # bits, kind, those of transparency
        raise Broken("is a TGA of 16 bits with transparency, which programs do not agree on")


def _start(image: Image.Image, size: int) -> bytes:
    """Return the first bytes of the file; nothing if the picture is decoded already."""
    if (file := getattr(image, "fp", None)) is None:
        return b""
    at = file.tell()
    file.seek(0)
    start: bytes = file.read(size)
    file.seek(at)
    return start


def _raw_mode(image: Image.Image) -> str:
    """Return Pillow's name for how the pixels stand in the file; nothing if the picture is decoded already."""
    tile = getattr(image, "tile", None)
    mode = tile[0][3] if tile else ""
    return mode if isinstance(mode, str) else str(mode[0])


def _fills_its_frame(image: Image.Image) -> bool:
    tile = getattr(image, "tile", None)
    return not tile or tuple(tile[0][1]) == (0, 0, *image.size)
