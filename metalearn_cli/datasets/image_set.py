"""A labelled set of images. datasets/packed_set.py packs it into a file, a block of images after another."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.system.measure import free_memory

READ_AT_EVERY_START = 2 << 30  # bytes: the largest packed set whose hash every run computes


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of all classes: those of class c are pixels[start[c] : start[c] + count[c]]."""

    pixels: Tensor  # [N, C, H, W] uint8, on the CPU; of a packed set in its file, and never to be written to
    names: tuple[str, ...]  # of the classes
    start: Tensor  # [classes] int64
    count: Tensor  # [classes] int64
    fingerprint: str  # sha256 of the pixels, the names and the counts
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, pixels: Tensor, names: tuple[str, ...], count: Tensor) -> ImageSet:
        fingerprint = fingerprint_of(Unpacked(names, count.tolist(), tuple(pixels.shape[1:]), [pixels]))
        return cls(pixels, names, count.cumsum(0) - count, count, fingerprint)

    def on(self, device: torch.device) -> Tensor:
        """The pixels on this device, [N, C, H, W] uint8, copied there once and kept. On the host, with a sentence,
        where they would take more than half of its memory (of all of it, so that a run that goes on finds the same).
        """
        if device.type == "cpu":
            return self.pixels
        if device not in self._copies:
            fits = self.pixels.nbytes <= _memory(device) / 2
            if not fits:
                size, room = self.pixels.nbytes / 1e9, _memory(device) / 1e9
                with contextlib.suppress(OSError):  # a closed terminal
                    print(
                        f"the images ({size:.3g} GB) stay in the host's memory: {device} has {room:.3g} GB, "
                        "and a step needs room too",
                        file=sys.stderr,
                        flush=True,
                    )
            self._copies[device] = self.pixels.to(device) if fits else self.pixels
        return self._copies[device]

    def may_wait_for_disk(self, device: torch.device) -> bool:
        """Whether images for this device may have to come from a disk: of a packed set that no start reads through, or
        for which memory is scarce."""
        large = min(READ_AT_EVERY_START, (free_memory(torch.device("cpu")) or math.inf) / 2)
        return self.on(device).device.type == "cpu" and self.pixels.nbytes > large


def _memory(device: torch.device) -> float:
    """Bytes; infinite where nobody knows."""
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

    stem: str  # the beginning of the packed file's name: what else than the pixels tells this set from others
    read: Callable[[], Unpacked | ImageSet]


def fingerprint_of(images: Unpacked, file: BinaryIO | None = None) -> str:
    """The sha256 of the shape, the names, the counts and the pixels, which are written to `file` on the way."""
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
