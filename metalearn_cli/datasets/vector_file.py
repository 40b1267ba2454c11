"""Files of vectors with classes: what any program has computed of texts, sounds, spectra or pictures.

.npz (numpy.savez): x [N, F]; y [N], the class of each, whole numbers or texts; and perhaps group and split [N], alike.
.safetensors: x [N, F] and y [N] of whole numbers; in the metadata perhaps names, group and split, lists of texts in
JSON with one for each class. .parquet: the columns embedding (lists of one length), class, and perhaps group and split.
The numbers are float16, float32 or float64. They stay in the file, and the system brings the rows that are used into
memory; only those of a compressed .npz and of a .parquet are read as a whole. Nothing is ever unpickled.

Shapes: N vectors, F numbers of each.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.vector_formats import READERS, Column, Matrix
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import follow
from metalearn_cli.system.files import check_plain

SUFFIXES = tuple(READERS)
_READ = 8 << 20  # bytes of vectors that are looked at together


class VectorFile(NamedTuple):
    path: Path
    x: Matrix
    labels: Column  # the classes; without a word where the file tells none
    group: tuple[str, ...] | None  # of each class; None: not told
    split: tuple[str, ...] | None  # train, val or test for each class; None: not told

    def vectors(self) -> Tensor:
        """Read all vectors into memory, [N, F] float32."""
        return self.x.bytes_of().clone().view(self.x.numbers).float()

    def as_set(self) -> ImageSet:
        """Make a set of the vectors, class by class. Raises UserError for a number that float32 does not hold."""
        words, number = self.labels
        count = torch.from_numpy(np.bincount(number, minlength=len(words)))
        rows = torch.from_numpy(np.argsort(number, kind="stable"))
        content, start = self.x.bytes_of(), count.cumsum(0) - count
        return ImageSet(content, words, start, count, self._fingerprint(), self.x.numbers, rows)

    def _fingerprint(self) -> str:
        """Hash the classes and the bytes of the vectors, and look at every number."""
        (vectors, numbers), kind, bytes_of, _ = self.x
        digest = hashlib.sha256(json.dumps([self.x.shape, str(kind), self.labels.words]).encode())
        digest.update(self.labels.number.astype(np.int64).tobytes())
        starts = range(0, vectors, size := max(1, _READ // (numbers * kind.itemsize)))
        for start in follow(starts, f"checking {self.path.name}", len(starts)) if len(starts) > 256 else starts:
            # Of a map that is closed again: the pages of one that stays would count as this process's memory.
            block = bytes_of()[start : start + size].clone()
            is_number = block.view(kind).double().abs() <= torch.finfo(torch.float32).max  # [n, F]; NaN is none
            if not is_number.all():
                row, place = torch.nonzero(~is_number)[0].tolist()
                raise UserError(
                    f"{self.path}: number {place + 1} of vector {start + row + 1} is not finite, or beyond 3.4e38: "
                    "give every vector all of its numbers, or leave it out"
                )
            digest.update(block.numpy().data)
        return digest.hexdigest()


def read_vectors(path: Path, key: str, labelled: bool = True) -> VectorFile:
    """Open the file that `key` names, and read all but its vectors. Raises UserError for any other file, and where it
    should be labelled and tells no classes."""
    if (suffix := path.suffix.lower()) not in READERS:
        raise UserError(f"{key}={path} must be a file of vectors, whose name ends in {', '.join(READERS)}")
    try:
        check_plain(path)
        x, columns = READERS[suffix](path)
    except OSError as error:
        raise UserError(f"{key}={path} cannot be read ({error.strerror or error})") from error
    if "y" not in columns:
        if labelled:
            raise UserError(f"{path} tells no classes: add the class of each vector as y (in a .parquet, class)")
        return VectorFile(path, x, Column((), np.zeros(0, np.int64)), None, None)
    of_class = {name: _of_classes(path, name, columns) for name in ("group", "split")}
    return VectorFile(path, x, columns["y"], of_class["group"], of_class["split"])


def _of_classes(path: Path, name: str, columns: dict[str, Column]) -> tuple[str, ...] | None:
    """Return what a column tells of each class, which all vectors of the class must tell."""
    if name not in columns:
        return None
    labels, (words, number) = columns["y"], columns[name]
    pairs = np.unique(np.stack([labels.number, number]), axis=1)  # [2, classes]
    for twice in np.flatnonzero(np.diff(pairs[0]) == 0).tolist():
        first, second = (words[number] for number in pairs[1, twice : twice + 2])
        raise UserError(
            f"{path}: class {labels.words[pairs[0, twice]]} is of {name} {first} and of {name} {second}: a class "
            "belongs to one"
        )
    return tuple(words[number] for number in pairs[1])
