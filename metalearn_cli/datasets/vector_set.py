"""A set of vectors, made of a file (datasets/vector_file.py) whose every number has been looked at.

Shapes: N vectors, F numbers of each.
"""

import contextlib
import hashlib
import json

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import READ_AT_EVERY_START, ImageSet, key_of
from metalearn_cli.datasets.paths import cache_root
from metalearn_cli.datasets.vector_file import Column, VectorFile
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import write_durably

_READ = 8 << 20  # bytes of vectors that are looked at together


def vectors_in(file: VectorFile) -> Tensor:
    """Read all vectors into memory, [N, F] float32."""
    return file.bytes_of().clone().view(file.numbers).float()


def vector_set(file: VectorFile, labels: Column) -> tuple[ImageSet, Tensor]:
    """Make a set of a file's vectors -> it, and the row of the file in which each of its vectors stands, [N] int64:
    they are counted class by class. Raises UserError for a number that float32 does not hold."""
    count = torch.from_numpy(np.bincount(labels.number, minlength=len(labels.words)))
    order = torch.from_numpy(np.argsort(labels.number, kind="stable"))
    fingerprint = _known_fingerprint(file, labels)
    return ImageSet(file.bytes_of(), labels.words, count.cumsum(0) - count, count, fingerprint), order


def _known_fingerprint(file: VectorFile, labels: Column) -> str:
    """Look at the numbers; of a large file only once, after which its size and time of change stand for them."""
    status = file.path.stat()
    if status.st_size <= READ_AT_EVERY_START:
        return _fingerprint(file, labels)
    state = [str(file.path.resolve()), status.st_size, status.st_mtime_ns]
    known = cache_root() / f"vectors-{key_of(state)}.known"
    with contextlib.suppress(OSError):
        return known.read_text()
    fingerprint = _fingerprint(file, labels)
    with contextlib.suppress(OSError):  # a cache that cannot be written: the next run looks at them again
        known.parent.mkdir(parents=True, exist_ok=True)
        write_durably(known, fingerprint.encode())
    return fingerprint


def _fingerprint(file: VectorFile, labels: Column) -> str:
    """Hash the classes and the bytes of the vectors, which are numbers."""
    digest = hashlib.sha256(json.dumps([file.shape, str(file.numbers), labels.words]).encode())
    digest.update(labels.number.astype(np.int64).tobytes())
    vectors, size = file.shape[0], max(1, _READ // (file.shape[1] * file.numbers.itemsize))
    starts = range(0, vectors, size)
    for start in follow(starts, f"checking {file.path.name}", len(starts)) if len(starts) > 256 else starts:
        # Of a map that is closed again: the pages of one that stays would count as this process's memory.
        block = file.bytes_of()[start : start + size].clone()
        is_number = block.view(file.numbers).double().abs() <= torch.finfo(torch.float32).max  # [n, F]; NaN is none
        if not is_number.all():
            row, place = torch.nonzero(~is_number)[0].tolist()
            raise UserError(
                f"{file.path}: number {place + 1} of vector {start + row + 1} is not finite, or beyond 3.4e38: give "
                "every vector all of its numbers, or leave it out"
            )
        digest.update(block.numpy().data)
    return digest.hexdigest()
