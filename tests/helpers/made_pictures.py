"""Small pictures byte by byte, so that what they hold does not depend on who reads them: eight equal rows of
GREY, or of RGB with ALPHA."""

import struct
import zlib
from collections.abc import Sequence

SIDE = 8
GREY = [0, 36, 73, 109, 146, 182, 219, 255]
RGB = [(GREY[i], 255 - GREY[i], GREY[3 * i % 8]) for i in range(SIDE)]
ALPHA = [255, 255, 128, 64, 0, 255, 200, 10]
PALETTE = [(17 * i, 255 - 17 * i, (40 * i) % 256) for i in range(16)]

Row = Sequence[int]  # the numbers of a row of pixels


def mixed(*channels: Sequence[int] | Sequence[tuple[int, ...]]) -> list[int]:
    """The numbers of several channels pixel by pixel."""
    pixels = (
        [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
        for parts in zip(*channels, strict=True)
    )
    return [number for pixel in pixels for number in pixel]


def packed(row: Row, bits: int, order: str = ">") -> bytes:
    """Numbers of 0..255 in so many bits each, from the first bit of a byte on; those of 16 and 32 in this order."""
    scaled = [number * ((1 << bits) - 1) // 255 for number in row]
    if bits in (16, 32):
        return struct.pack(f"{order}{len(row)}{'H' if bits == 16 else 'I'}", *scaled)
    text = "".join(f"{number:0{bits}b}" for number in scaled)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def tiff(row: bytes, bits: Row, photometric: int | None, order: str = "<", **more: Row) -> bytes:
    """`more`: other tags by number, such as t338=[2]; what is not in one strip is data of its own."""
    deflated = more.get("t259") == [8]
    data = row * SIDE
    if more.get("t284") == [2]:  # each channel by itself
        width = len(row) // len(bits) // SIDE
        pixels = [data[at : at + width] for at in range(0, len(data), width)]
        data = b"".join(b"".join(pixels[channel :: len(bits)]) for channel in range(len(bits)))
    data = zlib.compress(data) if deflated else data
    strips = len(bits) if more.get("t284") == [2] else 1
    tags: dict[int, Row] = {256: [SIDE], 257: [SIDE], 258: bits, 259: [1], 277: [len(bits)], 278: [SIDE]}
    tags |= {273: [0] * strips, 279: [len(data) // strips] * strips}
    tags |= {} if photometric is None else {262: [photometric]}
    tags |= {int(name[1:]): value for name, value in more.items()}
    long = (254, 273, 279)
    sizes = {tag: (4 if tag in long else 2) * len(value) for tag, value in tags.items()}
    outside = 8 + 2 + 12 * len(tags) + 4
    first = outside + sum(size for size in sizes.values() if size > 4)
    tags[273] = [first + strip * (len(data) // strips) for strip in range(strips)]
    directory, beyond = b"", b""
    for tag, value in sorted(tags.items()):
        kind, letter = (4, "I") if tag in long else (3, "H")
        content = struct.pack(f"{order}{len(value)}{letter}", *value)
        directory += struct.pack(f"{order}HHI", tag, kind, len(value))
        directory += content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", outside + len(beyond))
        beyond += content if len(content) > 4 else b""
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(tags)) + directory + bytes(4) + beyond + data


def png(row: bytes, bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">2I5B", SIDE, SIDE, bits, kind, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress((b"\0" + row) * SIDE)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in every
    )


def netpbm(kind: str, largest: int, row: Row) -> bytes:
    head = f"{kind}\n# a remark\n{SIDE} {SIDE}\n{largest}\n".encode()
    if kind in ("P2", "P3"):
        return head + (" ".join(map(str, row)) + "\n").encode() * SIDE
    return head + struct.pack(f">{len(row)}{'H' if largest > 255 else 'B'}", *row) * SIDE


def bmp(row: bytes, bits: int, masks: Row = (), palette: bytes = b"") -> bytes:
    """A picture with masks: the fifth version of the header, and the fourth mask is that of the transparency."""
    size = 124 if masks else 40
    data = (row + bytes(-len(row) % 4)) * SIDE
    head = struct.pack("<IiiHHIIiiII", size, SIDE, SIDE, 1, bits, 3 if masks else 0, len(data), 0, 0, 0, 0)
    head += struct.pack("<4I", *masks) + b"BGRs" + bytes(size - 60) if masks else b""
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def tga(row: bytes, kind: int, bits: int, flags: int) -> bytes:
    return struct.pack("<3B5x2x2x2H2B", 0, 0, kind, SIDE, SIDE, bits, flags) + row * SIDE


def gif(wide: int, transparent: int | None) -> bytes:
    """A frame of 8 x 8 with a picture of `wide` x 8 in it, all of colour 1 of 0 to 3."""
    colours = bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    control = b"" if transparent is None else b"!\xf9\4" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    codes = [code for _ in range(wide * SIDE) for code in (4, 1)] + [5]  # clear the table before each pixel
    text = "".join(f"{code:03b}" for code in reversed(codes))
    data = int(text, 2).to_bytes((len(text) + 7) // 8, "little")
    assert len(data) < 256
    image = b"," + struct.pack("<4HB", 0, 0, wide, SIDE, 0) + bytes([2, len(data)]) + data + b"\0"
    return b"GIF89a" + struct.pack("<2H3B", SIDE, SIDE, 0x81, 0, 0) + colours + control + image + b";"
