"""The cache of packed sets.

A set is read once from its source, a block of images after another, and is packed into one safetensors file in the
cache folder. The file's name carries the first 16 hex digits of the set's fingerprint, a sha256 of everything in it, so
that a damaged file is found out before a pixel of it is used: at every start, but for a file above 2 GiB. That is read
as a whole once after it was packed or changed, and on `metalearn data verify`; afterwards its size and time of change
stand for it, in a file beside it, so that bits that flip on the disk are not noticed until the next `verify`.

Pixels stay in the file: the system brings those that are used into memory, and drops them where it wants the room. So a
set may be larger than memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from metalearn_cli.datasets.image_set import READ_AT_EVERY_START, ImageSet, Unpacked, fingerprint_of
from metalearn_cli.datasets.paths import cache_root, turn_of, writing
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.files import sync_folder, write_durably

_READ = 8 << 20  # bytes of images that are read at once


def packed(stem: str, read: Callable[[], Unpacked | ImageSet]) -> ImageSet:
    """The set that is packed under this name; where there is none yet, the one that `read` returns is packed first.

    Processes that want to pack the same set at the same time wait for each other; those of other sets do not. Where the
    file system cannot lock they all pack, each into a file of its own, and rename it to the same name.
    """
    if not (paths := find(stem)):
        with turn_of(stem) as alone:
            if not (paths := find(stem)):
                if alone:
                    _remove_leftovers(stem)
                _pack(stem, read())
                paths = find(stem)
    if len(paths) > 1:
        raise UserError(
            f"{paths[0]} and {paths[1].name} are two different packed sets of one data set: "
            "delete both, and the data set is packed anew from its source"
        )
    return open_packed(paths[0])


def find(stem: str) -> list[Path]:
    """The packed files of this name; more than one are too many."""
    return sorted(cache_root().glob(f"{escape(stem)}.{'[0-9a-f]' * 16}.safetensors"))


def _pack(stem: str, images: Unpacked | ImageSet) -> None:
    """Write a set under its name, and under a temporary one until it is whole.

    A safetensors file: the length of its header, the header, and the tensors in the order that the header says.
    """
    if isinstance(images, ImageSet):
        images = Unpacked(images.names, images.count.tolist(), tuple(images.pixels.shape[1:]), [images.pixels])
    end = [0, 8 * len(images.names)]
    end.append(end[-1] + images.images * torch.Size(images.shape).numel())
    end.append(end[-1] + 32)
    about = {
        "__metadata__": {"image_set": json.dumps({"names": images.names})},
        "count": {"dtype": "I64", "shape": [len(images.names)], "data_offsets": end[0:2]},
        "pixels": {"dtype": "U8", "shape": [images.images, *images.shape], "data_offsets": end[1:3]},
        "fingerprint": {"dtype": "U8", "shape": [32], "data_offsets": end[2:4]},
    }
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)  # so that the counts are aligned
    # On a shared file system without locks another machine may have a process of this number.
    temporary = cache_root() / f"{stem}.part-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with writing(temporary), open(temporary, "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(torch.tensor(images.counts, dtype=torch.int64).numpy().data)
            fingerprint = fingerprint_of(images, file)
            file.write(bytes.fromhex(fingerprint))
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(cache_root() / f"{stem}.{fingerprint[:16]}.safetensors")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(cache_root())


def _remove_leftovers(stem: str) -> None:
    """What killed processes have not packed to the end; only safe while nobody else may pack here."""
    for path in cache_root().glob(f"{escape(stem)}.part-*"):
        path.unlink(missing_ok=True)


def open_packed(path: Path, whole: bool = False) -> ImageSet:
    """The set in a packed file, which is read through first unless it is large and known to be unchanged; with `whole`
    in any case."""
    mend = "delete it, and the data set is packed anew from its source"
    try:
        with safe_open(path, framework="np") as file:
            names = tuple(json.loads(file.metadata()["image_set"])["names"])
            shape = file.get_slice("pixels").get_shape()
            count, kept = (torch.from_numpy(file.get_tensor(name)) for name in ("count", "fingerprint"))
        pixels = _mapped(path, shape)
        fingerprint = bytes(kept.tolist()).hex()
        if not (len(names) == len(count) and len(pixels) == count.sum()):
            raise ValueError("the numbers of its classes and images do not fit each other")
    except Exception as error:  # whatever safetensors and json raise when they meet damaged bytes
        raise UserError(f"{path} is damaged ({error}): {mend}") from error
    if whole or path.stat().st_size <= READ_AT_EVERY_START or not _is_known(path):
        found = _fingerprint_of_packed(path, pixels, names, count)
        if not (fingerprint == found and path.stem.endswith(found[:16])):
            raise UserError(f"{path} is damaged (its fingerprint begins {found[:16]}, not as its name says): {mend}")
        if path.stat().st_size > READ_AT_EVERY_START:
            _make_known(path)
    if not whole:
        with contextlib.suppress(OSError):  # a cache of somebody else
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # when it was used last, for `data list`
    return ImageSet(pixels, names, count.cumsum(0) - count, count, fingerprint)


def _mapped(path: Path, shape: list[int]) -> Tensor:
    """The pixels where they lie in the file, [N, C, H, W] uint8. Whoever writes to them ends the process.

    safetensors would map them as memory that may be written to, for which the system wants as much room as for a copy.
    """
    with path.open("rb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)  # for as long as there is the map, which keeps the file open
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    size = torch.Size(shape).numel()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.frombuffer(mapped, np.uint8, size, len(mapped) - 32 - size)).view(shape)


def _fingerprint_of_packed(path: Path, pixels: Tensor, names: tuple[str, ...], count: Tensor) -> str:
    """Computed from the file by reading, since the pages of a map would count as this process's memory."""
    console = Console(is_silent=path.stat().st_size <= READ_AT_EVERY_START)
    with path.open("rb") as file, Progress(console, f"checking {path.name}", len(pixels)) as progress:
        file.seek(-32 - pixels.numel(), os.SEEK_END)

        def blocks() -> Iterator[Tensor]:
            done = 0
            for block in read_blocks(file, pixels.shape):
                yield block
                done += len(block)
                progress.advance(done, "images" if done < len(pixels) else "")

        return fingerprint_of(Unpacked(names, count.tolist(), tuple(pixels.shape[1:]), blocks()))


def read_blocks(file: BinaryIO, shape: Sequence[int]) -> Iterator[Tensor]:
    """The images from here on in a file, [N, C, H, W] uint8, a few megabytes of them at a time."""
    left, *image = shape
    size = torch.Size(image).numel()
    while left:
        number = min(left, max(1, _READ // size))
        yield torch.frombuffer(bytearray(file.read(number * size)), dtype=torch.uint8).view(number, *image)
        left -= number


# What is known of a large file, in NAME.known beside it: that it was read through when it had this size and time.


def _is_known(path: Path) -> bool:
    try:
        return Path(f"{path}.known").read_text() == _state(path)
    except OSError:
        return False


def _make_known(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written: the next run reads it through again
        write_durably(Path(f"{path}.known"), _state(path).encode())


def _state(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} bytes, changed at {found.st_mtime_ns}\n"
