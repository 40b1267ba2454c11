"""The cache of packed sets.

A set is read once from its source, a block of images after another, and is packed into one safetensors file in the
cache folder. The file's name carries the first 16 hex digits of the set's fingerprint, a sha256 of everything in it, so
that a damaged file is found out at every start, before a pixel of it is used. A file above 2 GiB is read as a whole
only once after it was packed or changed, and on `metalearn data verify`; afterwards its size and time of change stand
for it, in a file beside it. Pixels stay in the file, and the system brings those that are used into memory, so that a
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
from collections.abc import Callable, Iterator
from glob import escape
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from metalearn_cli.datasets.image_set import READ_AT_EVERY_START, ImageSet, Unpacked, fingerprint_of
from metalearn_cli.datasets.paths import cache_root, turn_of, writing
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import sync_folder, write_durably

_READ = 8 << 20  # bytes of images that are read at once


def packed(stem: str, read: Callable[[], Unpacked]) -> ImageSet:
    """Open the set that is packed under this name; if there is none yet, pack the one that `read` returns first.

    Processes that pack the same set wait for each other. If the file system cannot lock they all pack, each into a file
    of its own, and rename it to the same name."""
    if not (paths := find(stem)):
        with turn_of(stem) as alone:
            if not (paths := find(stem)):
                for leftover in cache_root().glob(f"{escape(stem)}.part-*") if alone else ():
                    leftover.unlink(missing_ok=True)  # a killed process's
                _pack(stem, read())
                paths = find(stem)
    if len(paths) > 1:
        raise UserError(f"{paths[0]} and {paths[1].name} are of one data set: delete both, and it is packed again")
    return open_packed(paths[0])


def find(stem: str) -> list[Path]:
    """Return the packed files of this name; more than one are too many."""
    return sorted(cache_root().glob(f"{escape(stem)}.{'[0-9a-f]' * 16}.safetensors"))


def _pack(stem: str, images: Unpacked) -> None:
    """Write a set as a safetensors file: the length of the header, the header, the tensors in its order. Until it is
    whole it has a temporary name."""
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
    # The number of a process alone is not enough: on a shared file system another machine may have the same.
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


def open_packed(path: Path, whole: bool = False) -> ImageSet:
    """Open a packed file; read it through first, unless it is large, known to be unchanged, and not needed `whole`."""
    mend = "delete it, and the data set is packed again from its source"
    try:
        with safe_open(path, framework="np") as file:
            names = tuple(json.loads(file.metadata()["image_set"])["names"])
            shape = file.get_slice("pixels").get_shape()
            count, kept = (torch.from_numpy(file.get_tensor(name)) for name in ("count", "fingerprint"))
        pixels = mapped(path, shape, path.stat().st_size - 32 - torch.Size(shape).numel())
        fingerprint = bytes(kept.tolist()).hex()
        if not (len(names) == len(count) and len(pixels) == count.sum()):
            raise ValueError("the numbers of its classes and images do not fit each other")
    except Exception as error:  # whatever safetensors and json raise when they meet damaged bytes
        raise UserError(f"{path} is damaged ({error}): {mend}") from error
    status = path.stat()
    is_large = status.st_size > READ_AT_EVERY_START
    # What is known of a large file, in NAME.known beside it: that it was read through when it had this size and time.
    state, known = f"{status.st_size} bytes, changed at {status.st_mtime_ns}\n", Path(f"{path}.known")
    is_known = False
    with contextlib.suppress(OSError):
        is_known = known.read_text() == state
    if whole or not is_large or not is_known:
        computed = _fingerprint_of_packed(path, pixels, names, count)
        if not (fingerprint == computed and path.stem.endswith(computed[:16])):
            raise UserError(f"{path} is damaged (its fingerprint begins {computed[:16]}, not as its name says): {mend}")
        if is_large:
            with contextlib.suppress(OSError):  # a cache that cannot be written: the next run reads it through again
                write_durably(known, state.encode())
    if not whole:
        with contextlib.suppress(OSError):  # somebody else's cache
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # when it was used last, for `data list`
    return ImageSet(pixels, names, count.cumsum(0) - count, count, fingerprint)


def mapped(path: Path, shape: list[int], offset: int) -> Tensor:
    """Map bytes of this shape where they lie in the file, for reading alone: a map for writing, as safetensors makes
    one, needs as much room as a copy."""
    with path.open("rb") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)  # for as long as there is the map, which keeps the file open
        whole = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.frombuffer(whole, np.uint8, torch.Size(shape).numel(), offset)).view(shape)


def _fingerprint_of_packed(path: Path, pixels: Tensor, names: tuple[str, ...], count: Tensor) -> str:
    """Compute it from the file by reading, since the pages of a map would count as this process's memory."""
    parts = torch.split(pixels, max(1, _READ // pixels.shape[1:].numel()))

    def blocks() -> Iterator[Tensor]:
        with path.open("rb") as file:
            file.seek(-32 - pixels.numel(), os.SEEK_END)
            for part in follow(parts, f"checking {path.name}", len(parts)) if len(parts) > 256 else parts:
                yield torch.frombuffer(bytearray(file.read(part.numel())), dtype=torch.uint8).view(part.shape)

    return fingerprint_of(Unpacked(names, count.tolist(), tuple(pixels.shape[1:]), blocks()))
