"""The cache of features: each picture of a packed set goes once through a network that stays as it is.

Beside the packed sets, NAME.features has a row for each picture; those of classes that nobody has asked for are holes,
which take no room. NAME.jsonl has a line on what the rows are of, and one for each class that is done, with the hash of
its rows. That line is written when the rows are on the disk: a process that is killed leaves whole classes, and the
next one goes on. A class whose rows do not have their hash is computed again.

Shapes: N pictures of a set, W classes, n pictures of C channels of h x w pixels, F features.
"""

import contextlib
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.backbones.encoder import Encoder, Runtime, encoder_of
from metalearn_cli.datasets.image_set import ImageSet, key_of
from metalearn_cli.datasets.packed_set import mapped
from metalearn_cli.datasets.paths import cache_root, turn_of, writing
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.files import write_all

FORMAT = 1  # of the files, and of what an encoder makes of a picture
AT_ONCE = 64  # pictures between two reports of the progress
_READ = 8 << 20  # bytes of rows that are hashed at once


class Embedding(NamedTuple):
    """How pictures become features."""

    backbone: Backbone
    runtime: Runtime = Runtime.torch
    dtype: torch.dtype = torch.float16  # of the numbers that are kept

    def kept(self, features: Tensor) -> Tensor:
        """[n, F] float32 -> the numbers that are kept. Raises UserError where they do not hold them."""
        kept = features.to(self.dtype)
        if not kept.isfinite().all():
            raise UserError(
                f"{self.backbone.name} makes features up to {features.abs().max().item():.3g}, which {self.dtype} does "
                "not hold: give model.dtype=float32, or another network"
            )
        return kept

    def __str__(self) -> str:
        network = self.backbone
        return f"{network.features:,} features of {network.name} at {network.size} x {network.size} pixels"


class FeatureCache:
    """The features of one packed set, class by class as they are asked for."""

    def __init__(self, images: ImageSet, embedding: Embedding) -> None:
        self._images, self._embedding = images, embedding
        network, row = embedding.backbone, embedding.backbone.features * embedding.dtype.itemsize
        about = {
            **{"format": FORMAT, "features": str(embedding), "pixels": images.fingerprint, "weights": network.sha256},
            **{"mean": network.mean, "std": network.std, "resample": network.resample},
            **{"runtime": embedding.runtime.name, "numbers": str(embedding.dtype)},
        }
        self._header = json.dumps(about).encode()
        self._stem = f"features-{images.fingerprint[:16]}-{key_of(about)}"
        self._rows, self._index = (cache_root() / f"{self._stem}{suffix}" for suffix in (".features", ".jsonl"))
        self._row = row  # bytes
        self._whole: set[int] = set()  # the classes whose rows are there
        self._features: ImageSet | None = None

    def of(self, classes: Tensor) -> ImageSet:
        """Return the set with features in place of pixels, [N, bytes]: those of these classes [W], which are computed
        now where they are not there, and perhaps of others."""
        missing = sorted({*classes.tolist()} - self._whole)
        if missing or self._features is None:
            self._add(missing)
            images = self._images
            rows = mapped(self._rows, [len(images.pixels), self._row], 0)
            with contextlib.suppress(OSError):  # somebody else's cache
                os.utime(self._rows, ns=(time.time_ns(), self._rows.stat().st_mtime_ns))  # for `data list`
            what = images.names, images.start, images.count, images.fingerprint
            self._features = ImageSet(rows, *what, self._embedding.dtype)
        return self._features

    def _add(self, classes: list[int]) -> None:
        """See to it that the rows of these classes are there. Processes that compute some wait for each other."""
        if self._missing(classes):
            with turn_of(self._stem), writing(self._rows):
                self._compute(self._missing(classes))
        self._whole |= {*classes}

    def _missing(self, classes: list[int]) -> list[int]:
        """Name those of these classes whose rows are not there, or not as they were written."""
        hashes = self._hashes()
        if not hashes or not self._rows.exists() or self._rows.stat().st_size != len(self._images.pixels) * self._row:
            return classes
        return [number for number in classes if hashes.get(number) != self._hash(number)]

    def _hashes(self) -> dict[int, str]:
        """The hash of the rows of each class that is done."""
        lines = self._index.read_bytes().splitlines() if self._index.exists() else []
        hashes: dict[int, str] = {}
        for line in lines[1:] if lines[:1] == [self._header] else []:
            with contextlib.suppress(ValueError, RecursionError):  # a line that was not written to its end
                match json.loads(line):
                    case [int(number), str(sha256)]:
                        hashes[number] = sha256
        return hashes

    def _hash(self, number: int) -> str:
        start, count = int(self._images.start[number]), int(self._images.count[number])
        digest, rest = hashlib.sha256(), count * self._row
        with self._rows.open("rb") as file:
            file.seek(start * self._row)
            while rest > 0 and (block := file.read(min(rest, _READ))):
                digest.update(block)
                rest -= len(block)
        return digest.hexdigest()

    def _compute(self, classes: list[int]) -> None:
        """Compute the rows of these classes, and note each class when it is done."""
        images, encode, done = self._images, encoder_of(self._embedding.backbone, self._embedding.runtime), 0
        total = int(images.count[classes].sum())
        announced = f"{total:,} pictures become {self._embedding}, which is done once"
        with self._opened() as (rows, index), Progress(Console(), "embedding", total, announced=announced) as progress:
            for number in classes:
                start, count = int(images.start[number]), int(images.count[number])
                digest = hashlib.sha256()
                rows.seek(start * self._row)
                for part in torch.split(images.pixels[start : start + count], AT_ONCE):
                    block = self._embedding.kept(encode(part)).numpy().data.cast("B")
                    write_all(rows, block)
                    digest.update(block)
                    done += len(part)
                    progress.advance(done, "pictures")
                os.fsync(rows.fileno())
                write_all(index, json.dumps([number, digest.hexdigest()]).encode() + b"\n")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[io.FileIO, io.FileIO]]:
        """Open the rows and the index for this process; what they hold of something else is dropped."""
        with (
            open(os.open(self._rows, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as rows,
            self._index.open("a+b", buffering=0) as index,
        ):
            os.truncate(rows.fileno(), len(self._images.pixels) * self._row)
            if not self._hashes():
                os.truncate(index.fileno(), 0)
                write_all(index, self._header + b"\n")
            elif not self._index.read_bytes().endswith(b"\n"):
                write_all(index, b"\n")
            yield rows, index


def encoded(embedding: Embedding, encode: Encoder, pictures: Tensor) -> Tensor:
    """Make features of pictures [n, C, h, w] uint8 by the encoder of this embedding, as the cache would keep them, and
    show how many of them are done: [n, F] float32."""
    parts: list[Tensor] = []
    with Progress(Console(), "embedding", len(pictures), passing=True) as progress:
        for part in torch.split(pictures, AT_ONCE):
            parts.append(embedding.kept(encode(part)).float())
            progress.advance(sum(map(len, parts)), "pictures")
    return torch.cat(parts)


def describe_features(path: Path) -> str:
    """Say what a file of features is of."""
    try:
        with path.with_suffix(".jsonl").open(encoding="utf-8") as lines:
            about = json.loads(lines.readline(1 << 16))
        of = [packed.name.rsplit(".", 2)[0] for packed in cache_root().glob(f"*.{about['pixels'][:16]}.safetensors")]
        return f"{about['features']}, of {', '.join(of) or 'a set that is not packed any more'}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "features that were not noted"
