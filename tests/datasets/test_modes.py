"""What the numbers of a picture mean, in every mode, depth, transparency and photometric of the formats that are read.

FILES has what other programs than Pillow make of these bytes, as hexadecimal colours or greys, printed on 2026-11-30:
ImageMagick 6.9.11-60 (-auto-orient -background white -alpha remove -colorspace sRGB -depth 8; a GIF with -coalesce);
libtiff's tiff2rgba 4.5.0 for negatives of 2 and 4 bits, which that ImageMagick does not invert; imagecodecs 2026.3.6
with libavif for AVIF. Where programs disagree, or Pillow reads what was not meant, a file is refused: REFUSED. None of
these programs is needed here.
"""

from pathlib import Path

import numpy as np
import PIL
import pytest
from made_pictures import ALPHA, GREY, PALETTE, RGB, bmp, gif, mixed, netpbm, packed, png, tga, tiff
from packaging.version import Version
from PIL import Image

from metalearn_cli.datasets.formats import Broken
from metalearn_cli.datasets.pictures import read_picture

COLOURS = mixed(RGB)
WITH_ALPHA = mixed(RGB, ALPHA)
OVER = [[c * a // 255 for c in colour] for colour, a in zip(RGB, ALPHA, strict=True)]  # multiplied by the alpha
PREMULTIPLIED = mixed([tuple(colour) for colour in OVER], ALPHA)
GREY_ALPHA = mixed(GREY, ALPHA)
CMYK = mixed(RGB, [60] * 8)
LAB = [n for i in range(8) for n in (40 + 25 * i, (10 - 3 * i) % 256, (4 * i - 14) % 256)]
MAP = [257 * colour[channel] for channel in range(3) for colour in PALETTE]
PLTE = bytes(n for colour in PALETTE for n in colour)
QUADS = bytes(n for colour in PALETTE for n in (*colour[::-1], 0))
INDICES = packed([17 * n for n in range(8)], 4)  # the first eight colours of the palette
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
BGRA = bytes(mixed([colour[::-1] for colour in RGB], ALPHA))

CODED = Path(__file__).with_name("coded")  # made by imagecodecs (OpenJPEG, libavif)


def word(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def of_16(row: list[int], order: str = "<") -> bytes:
    return packed(row, 16, order)


AS_GREY = "00 24 49 6d 92 b6 db ff"
AS_NEGATIVE = "ff db b6 92 6d 49 24 00"
AS_RGB = "00ff00 24db6d 49b6db 6d9224 926d92 b649ff db2449 ff00b6"
AS_RGB_ON_WHITE = "00ff00 24db6d a3daec dae3c8 ffffff b649ff e25370 fff5fc"
AS_PALETTE = "00ff00 11ee28 22dd50 33cc78 44bba0 55aac8 6699f0 778818"
AS_GREY_ON_WHITE = "00 24 a3 da ff b6 e2 ff"
AS_1_BIT = "00 00 00 00 00 00 00 ff"
AS_2_BITS = "00 00 00 55 55 aa aa ff"
AS_4_BITS = "00 22 44 66 88 aa cc ff"
AS_CMYK = "c300c3 a71b6f 8b371b 6f53a7 536f53 378b00 1ba78b 00c337"
AS_DEEP_GREY = "00 23 48 6c 91 b5 da ff"
FILES: dict[str, tuple[bytes, str]] = {
    "grey 1 bit.tif": (tiff(packed(GREY, 1), [1], 1), AS_1_BIT),
    "grey 2 bits.tif": (tiff(packed(GREY, 2), [2], 1), AS_2_BITS),
    "grey 4 bits.tif": (tiff(packed(GREY, 4), [4], 1), AS_4_BITS),
    "grey 8 bits.tif": (tiff(bytes(GREY), [8], 1), AS_GREY),
    "grey 8 bits, its range given.tif": (tiff(bytes(GREY), [8], 1, t280=[0], t281=[99]), AS_GREY),
    "grey 12 bits.tif": (tiff(packed(GREY, 12), [12], 1), AS_DEEP_GREY),
    "grey 16 bits.tif": (tiff(of_16(GREY), [16], 1), AS_GREY),
    "grey 16 bits, big end first.tif": (tiff(of_16(GREY, ">"), [16], 1, ">"), AS_GREY),
    "grey 16 bits, deflated.tif": (tiff(of_16(GREY), [16], 1, t259=[8]), AS_GREY),
    "negative 1 bit.tif": (tiff(packed(GREY, 1), [1], 0), "ff ff ff ff ff ff ff 00"),
    "negative 2 bits.tif": (tiff(packed(GREY, 2), [2], 0), "ff ff ff aa aa 55 55 00"),
    "negative 4 bits.tif": (tiff(packed(GREY, 4), [4], 0), "ff dd bb 99 77 55 33 00"),
    "negative 8 bits.tif": (tiff(bytes(GREY), [8], 0), AS_NEGATIVE),
    "negative 16 bits.tif": (tiff(of_16(GREY), [16], 0), AS_NEGATIVE),
    "negative 16 bits, deflated.tif": (tiff(of_16(GREY), [16], 0, t259=[8]), AS_NEGATIVE),
    "negative 16 bits, upside down.tif": (tiff(of_16(GREY), [16], 0, t274=[3]), AS_GREY),
    "grey, alpha.tif": (tiff(bytes(GREY_ALPHA), [8, 8], 1, t338=[2]), AS_GREY_ON_WHITE),
    "grey, multiplied alpha.tif": (
        tiff(bytes(mixed([g * a // 255 for g, a in zip(GREY, ALPHA, strict=True)], ALPHA)), [8, 8], 1, t338=[1]),
        AS_GREY_ON_WHITE,
    ),
    "rgb 8 bits.tif": (tiff(bytes(COLOURS), [8] * 3, 2), AS_RGB),
    "rgb 8 bits, channels apart.tif": (tiff(bytes(COLOURS), [8] * 3, 2, t284=[2]), AS_RGB),
    "rgb 16 bits.tif": (tiff(of_16(COLOURS), [16] * 3, 2), AS_RGB),
    "rgb 16 bits, big end first.tif": (tiff(of_16(COLOURS, ">"), [16] * 3, 2, ">"), AS_RGB),
    "rgb, alpha.tif": (tiff(bytes(WITH_ALPHA), [8] * 4, 2, t338=[2]), AS_RGB_ON_WHITE),
    "rgb, multiplied alpha.tif": (tiff(bytes(PREMULTIPLIED), [8] * 4, 2, t338=[1]), AS_RGB_ON_WHITE),
    "rgb 16 bits, alpha.tif": (tiff(of_16(WITH_ALPHA), [16] * 4, 2, t338=[2]), AS_RGB_ON_WHITE),
    "rgb 16 bits, multiplied alpha.tif": (tiff(of_16(PREMULTIPLIED), [16] * 4, 2, t338=[1]), AS_RGB_ON_WHITE),
    "palette.tif": (tiff(INDICES, [4], 3, t320=MAP), AS_PALETTE),
    "palette of 8 bits.tif": (tiff(INDICES, [4], 3, t320=[n // 257 for n in MAP]), AS_PALETTE),
    "cmyk.tif": (tiff(bytes(CMYK), [8] * 4, 5), AS_CMYK),
    "cmyk 16 bits.tif": (tiff(of_16(CMYK), [16] * 4, 5), AS_CMYK),
    "ycbcr.tif": (
        tiff(bytes(n for i in range(8) for n in (60 + 20 * i, 120 + 2 * i, 136 - 2 * i)), [8] * 3, 6, t530=[1, 1]),
        "47382e 594d46 6a615d 7b7675 8c8b8c 9da0a4 afb4bb c0c9d3",
    ),
    "grey 1 bit.png": (png(packed(GREY, 1), 1, 0), AS_1_BIT),
    "grey 2 bits.png": (png(packed(GREY, 2), 2, 0), AS_2_BITS),
    "grey 4 bits.png": (png(packed(GREY, 4), 4, 0), AS_4_BITS),
    "grey 8 bits.png": (png(bytes(GREY), 8, 0), AS_GREY),
    "grey 16 bits.png": (png(of_16(GREY, ">"), 16, 0), AS_GREY),
    "grey 1 bit, 0 is transparent.png": (png(packed(GREY, 1), 1, 0, (b"tRNS", word(0))), "ff ff ff ff ff ff ff ff"),
    "grey 2 bits, 1 is transparent.png": (png(packed(GREY, 2), 2, 0, (b"tRNS", word(1))), "00 00 00 ff ff aa aa ff"),
    "grey 4 bits, 6 is transparent.png": (png(packed(GREY, 4), 4, 0, (b"tRNS", word(6))), "00 22 44 ff 88 aa cc ff"),
    "grey 8 bits, 36 is transparent.png": (png(bytes(GREY), 8, 0, (b"tRNS", word(36))), "00 ff 49 6d 92 b6 db ff"),
    "grey 16 bits, 9252 is transparent.png": (
        png(of_16(GREY, ">"), 16, 0, (b"tRNS", word(9252))),
        "00 ff 49 6d 92 b6 db ff",
    ),
    "grey 16 bits, 9251 is transparent.png": (png(of_16(GREY, ">"), 16, 0, (b"tRNS", word(9251))), AS_GREY),
    "grey, alpha.png": (png(bytes(GREY_ALPHA), 8, 4), AS_GREY_ON_WHITE),
    "grey 16 bits, alpha.png": (png(of_16(GREY_ALPHA, ">"), 16, 4), AS_GREY_ON_WHITE),
    "rgb.png": (png(bytes(COLOURS), 8, 2), AS_RGB),
    "rgb, a colour is transparent.png": (
        png(bytes(COLOURS), 8, 2, (b"tRNS", word(*RGB[2]))),
        "00ff00 24db6d ffffff 6d9224 926d92 b649ff db2449 ff00b6",
    ),
    "rgb 16 bits.png": (png(of_16(COLOURS, ">"), 16, 2), AS_RGB),
    "rgb, alpha.png": (png(bytes(WITH_ALPHA), 8, 6), AS_RGB_ON_WHITE),
    "rgb 16 bits, alpha.png": (png(of_16(WITH_ALPHA, ">"), 16, 6), AS_RGB_ON_WHITE),
    "palette.png": (png(INDICES, 4, 3, (b"PLTE", PLTE)), AS_PALETTE),
    "palette, one transparent.png": (
        png(INDICES, 4, 3, (b"PLTE", PLTE), (b"tRNS", b"\xff\0")),
        "00ff00 ffffff 22dd50 33cc78 44bba0 55aac8 6699f0 778818",
    ),
    "palette, alpha.png": (
        png(INDICES, 4, 3, (b"PLTE", PLTE), (b"tRNS", bytes(ALPHA))),
        "00ff00 11ee28 90eda7 cbf2dd ffffff 55aac8 87aff3 f9faf5",
    ),
    "p2 of 100.pgm": (netpbm("P2", 100, [n * 100 // 255 for n in GREY]), "00 23 47 6b 91 b5 d8 ff"),
    "p2 of 1023.pgm": (netpbm("P2", 1023, [n * 1023 // 255 for n in GREY]), AS_DEEP_GREY),
    "p5 of 255.pgm": (netpbm("P5", 255, GREY), AS_GREY),
    "p5 of 1023.pgm": (netpbm("P5", 1023, [n * 1023 // 255 for n in GREY]), AS_DEEP_GREY),
    "p5 of 65535.pgm": (netpbm("P5", 65535, [n * 257 for n in GREY]), AS_GREY),
    "p3 of 100.ppm": (
        netpbm("P3", 100, [n * 100 // 255 for n in COLOURS]),
        "00ff00 23d86b 47b5d8 6b9123 916b91 b547ff d82347 ff00b5",
    ),
    "p6 of 65535.ppm": (netpbm("P6", 65535, [n * 257 for n in COLOURS]), AS_RGB),
    "palette.bmp": (bmp(INDICES, 4, palette=QUADS), AS_PALETTE),
    "rgb.bmp": (bmp(bytes(n for colour in RGB for n in colour[::-1]), 24), AS_RGB),
    "rgb, alpha.bmp": (bmp(BGRA, 32, MASKS), AS_RGB_ON_WHITE),
    "grey.tga": (tga(bytes(GREY), 3, 8, 0x20), AS_GREY),
    "rgb.tga": (tga(bytes(n for colour in RGB for n in colour[::-1]), 2, 24, 0x20), AS_RGB),
    "rgb from the right.tga": (
        tga(bytes(n for colour in RGB for n in colour[::-1]), 2, 24, 0x30),
        "ff00b6 db2449 b649ff 926d92 6d9224 49b6db 24db6d 00ff00",
    ),
    "rgb, alpha.tga": (tga(BGRA, 2, 32, 0x28), AS_RGB_ON_WHITE),
    "rgb of 15 bits.tga": (
        tga(b"".join((r >> 3 << 10 | g >> 3 << 5 | b >> 3).to_bytes(2, "little") for r, g, b in RGB), 2, 16, 0x20),
        "00ff00 20de6a 4ab4de 6a9420 946a94 b44aff de204a ff00b4",
    ),
    "whole.gif": (gif(8, None), "00ff00 00ff00 00ff00 00ff00 00ff00 00ff00 00ff00 00ff00"),
    "transparent.gif": (gif(8, 1), "ff ff ff ff ff ff ff ff"),
    "half, the rest transparent.gif": (gif(4, 2), "00ff00 00ff00 00ff00 00ff00 ffffff ffffff ffffff ffffff"),
    "grey 12 bits.jp2": ((CODED / "grey_12.jp2").read_bytes(), "00 03 08 0c 01 05 0a 0e"),
    "rgb.jp2": ((CODED / "rgb_8.jp2").read_bytes(), AS_RGB),
    "rgb 10 bits, alpha.avif": (
        (CODED / "rgb_10.avif").read_bytes(),
        "003f00 241b2d 849a8d cac4c8 ffffff 36093f 4c533e f7f5f7",
    ),
}


NEW_IN_PILLOW = ("grey, multiplied alpha.tif", "ycbcr.tif", "rgb 10 bits, alpha.avif")  # 10.3 and 11.3 refuse some


@pytest.mark.parametrize("name", FILES)
def test_a_picture_is_what_other_programs_than_pillow_make_of_it(tmp_path: Path, name: str) -> None:
    content, colours = FILES[name]
    (tmp_path / name).write_bytes(content)
    expected = np.asarray([[*bytes.fromhex(colour)] * (6 // len(colour)) for colour in colours.split()])
    try:
        pixels = np.asarray(read_picture(tmp_path / name, 3, 8)).astype(int)
    except Broken:
        if Version(PIL.__version__) < Version("13") and name in NEW_IN_PILLOW:
            pytest.skip("this Pillow refuses it")
        raise
    assert (pixels == pixels[:1]).all(), "all rows are alike"
    assert np.abs(pixels[0] - expected).max() <= 1, pixels[0].tolist()
    grey = np.asarray(read_picture(tmp_path / name, 1, 8)).astype(int)
    assert np.abs(grey[0] - expected @ [0.299, 0.587, 0.114]).max() <= 2, grey[0].tolist()


# By the formula of CIE L*a*b* over D50, Bradford's adaptation and sRGB, worked out apart from any of these programs;
# ImageMagick is up to 30 away from it where colours can be shown, libtiff likewise.
LAB_READ = [
    (46, 34, 59),
    (66, 57, 76),
    (86, 81, 93),
    (107, 106, 110),
    (129, 132, 128),
    (151, 160, 146),
    (174, 187, 164),
    (197, 216, 183),
]


def test_lab_is_read_as_colours_and_as_grey(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bytes(LAB), [8] * 3, 8))
    found = np.asarray(read_picture(tmp_path / "a.tif", 3, 8)).astype(int)
    assert np.abs(found[0] - LAB_READ).max() <= 2, found[0].tolist()
    grey = np.asarray(read_picture(tmp_path / "a.tif", 1, 8)).astype(int)
    assert np.abs(grey[0] - np.asarray(LAB_READ) @ [0.299, 0.587, 0.114]).max() <= 2, grey[0].tolist()


KIND = "is a TIFF with pixels of a kind that Pillow does not read"
REFUSED: dict[str, tuple[bytes, str]] = {
    "negative 16 bits, big end first.tif": (tiff(of_16(GREY, ">"), [16], 0, ">"), KIND),
    "negative 12 bits.tif": (tiff(packed(GREY, 12), [12], 0), KIND),
    "black or white.tif": (tiff(bytes(GREY), [8], None), "does not say whether 0 is black or white"),
    "whole numbers.tif": (tiff(packed(GREY, 32), [32], 1), "is of mode I, whose black and white are unknown"),
    "with a sign.tif": (tiff(of_16(GREY), [16], 1, t339=[2]), "is of mode I, whose black and white are unknown"),
    "reals.tif": (tiff(packed(GREY, 32), [32], 1, t339=[3]), "is of mode F, whose black and white are unknown"),
    "grey 16 bits, alpha.tif": (tiff(of_16(GREY_ALPHA), [16] * 2, 1, t338=[2]), KIND),
    "rgb 16 bits, channels apart.tif": (
        tiff(of_16(COLOURS), [16] * 3, 2, t284=[2]),
        "is a TIFF with each channel by itself, of a kind that Pillow takes for another",
    ),
    "grey, alpha apart.tif": (
        tiff(bytes(GREY_ALPHA), [8] * 2, 1, t284=[2], t338=[2]),
        "is a TIFF with each channel by itself",
    ),
    "other inks.tif": (tiff(bytes(CMYK), [8] * 4, 5, t332=[2]), "is a TIFF of other inks than cyan, magenta, yellow"),
    "ycbcr.tif": (tiff(bytes(COLOURS), [8] * 3, 6), "is an uncompressed TIFF with one colour for several pixels"),
    "preview.tif": (tiff(bytes(GREY), [8], 1, t254=[1]), "is a TIFF whose first picture is a preview of another one"),
    "rgb 16 bits.png": (
        png(of_16(COLOURS, ">"), 16, 2, (b"tRNS", word(*RGB[2]))),
        "is a PNG of 16 bits a channel with one transparent colour",
    ),
    "reals.pnm": (b"Pf\n8 8\n-1.0\n" + bytes(256), "is of mode F, whose black and white are unknown"),
    "with alpha.tga": (tga(bytes(16), 2, 16, 0x21), "is a TGA of 16 bits with transparency"),
    "grey with alpha.tga": (tga(bytes(GREY_ALPHA), 3, 16, 0x28), "is a TGA of 16 bits with transparency"),
    "half.gif": (gif(4, None), "is a GIF that does not fill its frame"),
    "grey 4 bits.jp2": (
        (CODED / "grey_4.jp2").read_bytes(),
        "is a JPEG 2000 with 1 channels of 4 bits: 8, or 10 to 16",
    ),
    "rgb 16 bits.jp2": ((CODED / "rgb_16.jp2").read_bytes(), "is a JPEG 2000 with 3 channels of 16 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.row("C8")
def test_what_would_be_read_wrongly_is_refused(tmp_path: Path, name: str) -> None:
    content, sentence = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    for channels in (1, 3):
        with pytest.raises(Broken) as refused:
            read_picture(tmp_path / name, channels, 8)
        assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["negative 16 bits.tif", "grey 2 bits, 1 is transparent.png", "cmyk.tif"])
def test_a_picture_that_is_open_already_is_what_its_file_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name][0])
    wanted = read_picture(tmp_path / name, 3, 8).tobytes()
    with Image.open(tmp_path / name) as opened:
        assert read_picture(opened, 3, 8).tobytes() == wanted
    if name.startswith("negative"):
        with Image.open(tmp_path / name) as opened:
            opened.load()
            assert read_picture(opened, 3, 8).tobytes() == wanted
