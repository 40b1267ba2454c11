"""Pictures that are decoded and not packed yet: what a try that was refused, stopped or killed leaves to the next one.

The cache has NAME.decoded, the pixels of one picture after another, and NAME.decoded.jsonl, a line for each file that
was opened: its name, size and time of change, and where its pixels are and their hash, or why there are none. Whatever
does not agree is decoded again. NAME depends on the folder, what its pictures become, and the versions that decode
them.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import __version__ as pillow
from torch import Tensor

from metalearn_cli.datasets.image_set import key_of
from metalearn_cli.datasets.listing import File
from metalearn_cli.datasets.paths import cache_root, turn_of, writing
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import write_all
from metalearn_cli.version import __version__

_BLOCK = 8 << 20  # bytes of pictures that are read at once


class Pixels(NamedTuple):
    place: int  # how many pictures stand before it
    sha256: str


class Decoded:
    """The two files, open for one process."""

    def __init__(self, stem: str, folder: str, shape: tuple[int, ...]) -> None:
        self._shape, self._bytes = shape, torch.Size(shape).numel()
        self.paths = (cache_root() / f"{stem}.decoded", cache_root() / f"{stem}.decoded.jsonl")
        self._pixels, self._index = (open(path, "a+b", buffering=0) for path in self.paths)
        index = self.paths[1].read_bytes()
        self._known = dict(_lines(index))
        self._number = os.fstat(self._pixels.fileno()).st_size // self._bytes
        os.truncate(self._pixels.fileno(), self._number * self._bytes)  # one that was not written to its end
        if not index:
            self._note({"folder": folder})
        elif not index.endswith(b"\n"):
            write_all(self._index, b"\n")

    def find(self, file: File) -> Pixels | str | None:
        """Return where the pixels of a file are, or why there are none; None if it was not opened yet."""
        known = self._known.get(file)
        if isinstance(known, Pixels) and hashlib.sha256(self._read(known.place)).hexdigest() != known.sha256:
            return None
        return known

    def add(self, file: File, picture: Tensor | str) -> Pixels | str:
        """Keep what was decoded, [C, H, W] uint8, or why nothing was."""
        if isinstance(picture, str):
            self._note([*file, picture])
            return picture
        data = picture.contiguous().numpy().data
        pixels = Pixels(self._number, hashlib.sha256(data).hexdigest())
        with writing(cache_root()):
            write_all(self._pixels, data)
        self._number += 1
        self._note([*file, *pixels])
        return pixels

    def blocks(self, places: Sequence[int], what: str) -> Iterator[Tensor]:
        """Yield the pictures in these places, [n, C, H, W] uint8, a few megabytes of them at a time."""
        number = max(1, _BLOCK // self._bytes)
        starts = range(0, len(places), number)
        for first in follow(starts, what, len(starts)):
            block = bytearray().join(self._read(place) for place in places[first : first + number])
            yield torch.frombuffer(block, dtype=torch.uint8).view(-1, *self._shape)

    def close(self) -> None:
        self._pixels.close()
        self._index.close()

    def _read(self, place: int) -> bytes:
        return os.pread(self._pixels.fileno(), self._bytes, place * self._bytes)

    def _note(self, content: object) -> None:
        with writing(cache_root()):
            write_all(self._index, json.dumps(content).encode() + b"\n")


def stem_of(folder: str, word: str) -> str:
    """Return the name of the two files; `word` stands for what the pictures become."""
    return f"decoded-{word}-{key_of([folder, __version__, pillow])}"


@contextlib.contextmanager
def opened(stem: str, folder: str, shape: tuple[int, ...]) -> Iterator[Decoded]:
    """Open what is decoded of a folder, for this process alone; an exception keeps it, except one of a full disk."""
    with turn_of(stem) as alone:
        with writing(cache_root()):
            decoded = Decoded(stem if alone else f"{stem}-{os.getpid()}", folder, shape)
        is_kept = alone
        try:
            yield decoded
            is_kept = False
        except Exception as error:
            is_kept = alone and not isinstance(error.__cause__, OSError)
            raise
        finally:
            decoded.close()
            for path in () if is_kept else decoded.paths:
                path.unlink(missing_ok=True)


def decoded_folder(path: Path) -> str:
    """Return the folder whose pictures this file has; "" if that was not noted."""
    try:
        with open(f"{path}.jsonl", encoding="utf-8") as lines:
            return str(json.loads(lines.readline(1 << 16))["folder"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _lines(index: bytes) -> Iterator[tuple[File, Pixels | str]]:
    """Yield what is noted, except in a line that was not written to its end."""
    for line in index.splitlines():
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            match json.loads(line):
                case [str(name), int(size), int(changed), int(place), str(sha256)] if place >= 0:
                    yield File(name, size, changed), Pixels(place, sha256)
                case [str(name), int(size), int(changed), str(why)]:
                    yield File(name, size, changed), why
