"""A labelled set of images, as it is packed (datasets/packed_set.py) and as it comes from its source."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.system.console import tell
from metalearn_cli.system.measure import free_memory

READ_AT_EVERY_START = 2 << 30  # bytes: the largest packed set whose hash every run computes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of all classes: those of class c are pixels[start[c] : start[c] + count[c]]."""

    # [N, C, H, W] uint8, on the CPU; of a packed set in its file, and never to be written to. A set of vectors has the
    # bytes of each, [N, bytes].
    pixels: Tensor
    names: tuple[str, ...]  # of the classes
    start: Tensor  # [classes] int64
    count: Tensor  # [classes] int64
    fingerprint: str  # sha256 of the pixels, the names and the counts
    numbers: torch.dtype | None = None  # of vectors, which their bytes are
    rows: Tensor | None = None  # [N] int64: where in pixels each image stands; None: in this order
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __str__(self) -> str:
        return describe(len(self.names), len(self.pixels), self.fingerprint)

    def on(self, device: torch.device) -> Tensor:
        """Return the pixels on this device, [N, C, H, W] uint8, copied there once and kept; on the host, with a
        sentence, if they would take more than half of all the device's memory, of which a resumed run has as much."""
        if device.type == "cpu":
            return self.pixels
        if device not in self._copies:
            fits = self.pixels.nbytes <= _memory(device) / 2
            if not fits:
                size, room = self.pixels.nbytes / 1e9, _memory(device) / 1e9
                tell(f"the examples ({size:.3g} GB) stay in the host's memory: {device} has only {room:.3g} GB")
            self._copies[device] = self.pixels.to(device) if fits else self.pixels
        return self._copies[device]

    def may_wait_for_disk(self, device: torch.device) -> bool:
        """Whether images for this device may come from a disk: no start reads the set through, or memory is scarce."""
        large = min(READ_AT_EVERY_START, (free_memory(torch.device("cpu")) or math.inf) / 2)
        return self.on(device).device.type == "cpu" and self.pixels.nbytes > large


def describe(classes: int, images: int, fingerprint: str) -> str:
    return f"{classes:,} classes, {images:,} images, fingerprint {fingerprint}"


def _memory(device: torch.device) -> float:
    """Return the bytes of a GPU; infinitely many of another device."""
    return float(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else math.inf


class Unpacked(NamedTuple):
    """A set as it comes from its source: no more than a block of its images is in memory."""

    names: tuple[str, ...]  # of the classes
    counts: list[int]  # images of each
    shape: tuple[int, ...]  # of an image: C, H, W
    blocks: Iterable[Tensor]  # [n, C, H, W] uint8: all images in the order of the classes

    @property
    def images(self) -> int:
        return sum(self.counts)


class Source(NamedTuple):
    """Where the images of a set come from."""

    stem: str  # the beginning of the packed file's name, which tells this set from others
    read: Callable[[], Unpacked]


def key_of(listing: object) -> str:
    """Return the part of a packed file's name that changes with what its source holds."""
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]


def fingerprint_of(images: Unpacked, file: BinaryIO | None = None) -> str:
    """Return the sha256 of the shape, names, counts and pixels, and write the pixels to `file` on the way."""
    shape = [images.images, *images.shape]
    digest = hashlib.sha256(json.dumps([shape, images.names, images.counts]).encode())
    seen = 0
    for block in images.blocks:
        if block.dtype != torch.uint8 or tuple(block.shape[1:]) != tuple(images.shape):
            raise ValueError(f"a block of {block.dtype} {list(block.shape)} in a set of images {list(images.shape)}")
        seen += len(block)
        data = block.contiguous().numpy().data
        digest.update(data)
        if file is not None:
            file.write(data)
    if seen != images.images:
        raise ValueError(f"{seen} images came from a source of {images.images}")
    return digest.hexdigest()


class ListedClass(NamedTuple):
    """A row of a list of classes in this folder."""

    name: str
    split: str  # train, val or test
    group: str = ""  # its superclass, category or alphabet
    sha256: str = ""  # of its decoded images, one after another: the first 16 hex digits


@cache
def read_list(name: str) -> tuple[ListedClass, ...]:
    """Return the classes of NAME_classes.csv, in the order of the list."""
    with Path(__file__).with_name(f"{name}_classes.csv").open(newline="") as file:
        return tuple(ListedClass(**row) for row in csv.DictReader(file))


def by_split(classes: Sequence[ListedClass]) -> dict[str, Tensor]:
    """Return the classes of each split, as positions in the list, [classes] int64."""
    positions = range(len(classes))
    splits = ("train", "val", "test")
    return {split: torch.tensor([n for n in positions if classes[n].split == split]) for split in splits}


def numbered(groups: Iterable[str]) -> Tensor:
    """Return a number for each class's group, in the order of the groups' names, [classes] int64."""
    return torch.from_numpy(np.unique(list(groups), return_inverse=True)[1])
