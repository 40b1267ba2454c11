"""Writing the files of vectors that vector_file.py describes.

Shapes: N vectors, F numbers of each.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.numpy

from metalearn_cli.datasets.parquet_file import require_pyarrow
from metalearn_cli.datasets.point_set import Array
from metalearn_cli.system.files import replacing


class Vectors(NamedTuple):
    """Vectors that are written, class by class in the order of their names."""

    x: Array  # [N, F] float16 or float32
    names: tuple[str, ...]  # of the classes
    counts: tuple[int, ...]  # vectors of each
    group: tuple[str, ...] | None  # of each class
    split: tuple[str, ...] | None  # train, val or test for each class

    @property
    def columns(self) -> dict[str, Array]:
        """What is told of each vector, [N] texts."""
        told = {"y": self.names, "group": self.group, "split": self.split}
        return {name: np.repeat(np.asarray(words), self.counts) for name, words in told.items() if words is not None}


def write_vectors(path: Path, vectors: Vectors) -> None:
    """Write a file that `read_vectors` reads. In a .parquet the numbers are float32, which every reader knows."""
    with replacing(path) as file:
        _WRITERS[path.suffix.lower()](file, vectors)


def _write_npz(file: BinaryIO, vectors: Vectors) -> None:
    arrays: dict[str, Any] = {"x": vectors.x, **vectors.columns}
    np.savez(file, **arrays)


def _write_safetensors(file: BinaryIO, vectors: Vectors) -> None:
    told = {"names": vectors.names, "group": vectors.group, "split": vectors.split}
    y = np.repeat(np.arange(len(vectors.names)), vectors.counts)
    about = {name: json.dumps(words) for name, words in told.items() if words is not None}
    file.write(safetensors.numpy.save({"x": vectors.x, "y": y}, about))


def _write_parquet(file: BinaryIO, vectors: Vectors) -> None:
    pyarrow = require_pyarrow("out=FILE.parquet")
    numbers, width = pyarrow.array(vectors.x.astype(np.float32).ravel()), vectors.x.shape[1]
    named = {"embedding": pyarrow.FixedSizeListArray.from_arrays(numbers, width)} | vectors.columns
    pyarrow.parquet.write_table(pyarrow.table({{"y": "class"}.get(name, name): of for name, of in named.items()}), file)


_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors, ".parquet": _write_parquet}
