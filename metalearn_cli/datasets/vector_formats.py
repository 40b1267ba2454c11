"""The formats of files of vectors, which vector_file.py describes: each is read into a matrix and columns.

Shapes: N vectors, F numbers of each.
"""

import json
import math
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metalearn_cli.datasets.packed_set import mapped
from metalearn_cli.datasets.point_set import DAMAGE, Array
from metalearn_cli.datasets.table_file import read_table
from metalearn_cli.errors import UserError
from metalearn_cli.system.measure import free_memory

_NUMBERS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Column(NamedTuple):
    """A word for each vector."""

    words: tuple[str, ...]  # those that occur
    number: Array  # [N] int64: which of them


class Matrix(NamedTuple):
    """Vectors that nobody has looked at."""

    shape: tuple[int, int]  # N, F
    numbers: torch.dtype
    bytes_of: Callable[[], Tensor]  # [N, bytes of a vector] uint8: a new map of the file, or what is in memory
    why_in_memory: str = ""  # empty: they stay in the file


class _Array(NamedTuple):
    """An array of an .npz, by its header."""

    shape: tuple[int, ...]
    is_transposed: bool
    dtype: np.dtype[Any]
    offset: int  # in the file, of what may be compressed there
    is_compressed: bool


def _read_npz(path: Path) -> tuple[Matrix, dict[str, Column]]:
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            names: list[str] = [name for name in ("y", "group", "split", "x") if name in members]
            arrays = {name: _header(path, archive, members[name], file) for name in names}
        if "x" not in arrays:
            raise UserError(f"{path} has no array x, [N, F]: it has {', '.join(members) or 'none'}")
        x = arrays.pop("x")
        if x.is_compressed or x.is_transposed:
            why = "numpy.savez, not compressed, of numpy.ascontiguousarray(x) would leave them in the file"
            matrix = _in_memory(path, "x", _loaded(path, "x", x), why)
        else:
            matrix = _in_file(path, x.shape, x.dtype, x.offset)
        return matrix, {name: _column(path, name, _loaded(path, name, array), matrix) for name, array in arrays.items()}
    except (*DAMAGE, KeyError, struct.error) as error:
        raise UserError(f"{path} is not an .npz, or damaged ({error}): write it again with numpy.savez") from error


def _header(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BinaryIO) -> _Array:
    with archive.open(member) as content:
        shape, is_transposed, dtype = _NPY_HEADERS[np.lib.format.read_magic(content)](content)
        start = content.tell()
    if dtype.hasobject:
        raise UserError(
            f"{path}: {member.filename} holds Python objects, which are not read: save numbers as float32, and texts "
            "as numpy.array(y, dtype=str)"
        )
    if math.prod(shape) * dtype.itemsize != member.file_size - start:
        raise ValueError(f"{member.filename} is not of its size")
    file.seek(member.header_offset + 26)
    start += member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))  # name and extra field before it
    return _Array(shape, is_transposed, dtype, start, member.compress_type != zipfile.ZIP_STORED)


def _loaded(path: Path, name: str, array: _Array) -> Array:
    """Read an array into memory. Raises UserError where it takes more than half of what is free."""
    size, room = math.prod(array.shape) * array.dtype.itemsize, free_memory(torch.device("cpu"))
    if room is not None and size > room / 2:
        raise UserError(
            f"{path}: {name} takes {size / 1e9:.3g} GB of memory, of which {room / 1e9:.3g} GB are free: numpy.savez, "
            "not compressed, leaves x in the file"
        )
    with np.load(path, allow_pickle=False) as archive:
        loaded: Array = archive[name]
    return loaded


def _read_safetensors(path: Path) -> tuple[Matrix, dict[str, Column]]:
    try:
        with safe_open(path, framework="np") as tensors:
            names, metadata = list(tensors.keys()), tensors.metadata() or {}
            y = tensors.get_tensor("y") if "y" in names else None
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            about = json.loads(file.read(size))
        if "x" not in names:
            raise UserError(f"{path} has no tensor x, [N, F]: it has {', '.join(names) or 'none'}")
        x, kinds = about["x"], {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
        if x["dtype"] not in kinds:
            raise UserError(f"{path}: x is {x['dtype']}, and F16, F32 or F64 is expected")
        matrix = _in_file(path, tuple(x["shape"]), np.dtype(kinds[x["dtype"]]), 8 + size + x["data_offsets"][0])
        lists = {name: json.loads(metadata[name]) for name in ("names", "group", "split") if name in metadata}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a .safetensors, or damaged ({error}): write it again") from error
    if y is None:
        return matrix, {}
    if y.dtype.kind not in "iu":
        raise UserError(f"{path}: y is {y.dtype}, and a whole number for each vector is expected")
    labels = _column(path, "y", y, matrix)
    used, columns = list(map(int, labels.words)), {"y": labels}
    for name, words in lists.items():
        is_list = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
        if (
            not is_list
            or not 0 <= min(used) <= max(used) < len(words)
            or len({*words}) < len(words) * (name == "names")
        ):
            raise UserError(
                f"{path}: {name} in its metadata must be a list of texts in JSON, one for each class 0 to {max(used)}"
                f"{', all different' * (name == 'names')}"
            )
        columns["y" if name == "names" else name] = Column(tuple(words[number] for number in used), labels.number)
    return matrix, columns


def _read_parquet(path: Path) -> tuple[Matrix, dict[str, Column]]:
    table = read_table(path)
    try:
        x = np.stack(list(table.of("embedding")))
    except (TypeError, ValueError) as error:
        sentence = "every row of column embedding needs a list of numbers, all of one length"
        raise UserError(f"{path}: {sentence} ({error})") from error
    matrix = _in_memory(path, "embedding", x, "those of an .npz or .safetensors would stay in the file")
    columns = {}
    for name, theirs in (("y", "class"), ("group", "group"), ("split", "split")):
        if theirs in table.cells:
            cells = np.asarray(table.cells[theirs])
            words = cells if cells.dtype.kind in "iu" else np.asarray(table.texts(theirs))
            columns[name] = _column(path, theirs, words, matrix)
    return matrix, columns


READERS = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}


def _in_file(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> Matrix:
    """Return vectors that stay in the file. Raises ValueError where it ends before them."""
    size, numbers = _checked(path, "x", shape, dtype)
    bytes_of = partial(mapped, path, [size[0], size[1] * numbers.itemsize], offset)
    bytes_of()
    return Matrix(size, numbers, bytes_of)


def _in_memory(path: Path, name: str, x: Array, why: str) -> Matrix:
    size, numbers = _checked(path, name, x.shape, x.dtype)
    content = torch.from_numpy(np.ascontiguousarray(x)).view(torch.uint8)
    return Matrix(size, numbers, lambda: content, why)


def _checked(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[tuple[int, int], torch.dtype]:
    """Return N and F, and what the numbers are. Raises UserError for what is not a matrix of floating-point numbers."""
    if len(shape) != 2 or min(shape) < 1 or dtype.name not in _NUMBERS or not dtype.isnative:
        expected = "float16, float32 or float64 of shape [vectors, numbers]"
        raise UserError(f"{path}: {name} is {dtype} of shape {list(shape)}, and {expected} is expected")
    return (shape[0], shape[1]), _NUMBERS[dtype.name]


def _column(path: Path, name: str, values: Array, x: Matrix) -> Column:
    """Number texts or whole numbers, in their order."""
    if values.shape != x.shape[:1] or values.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: {name} is {values.dtype} of shape {list(values.shape)}, and a text or a whole number for each of "
            f"{x.shape[0]} vectors is expected"
        )
    different, number = np.unique(values, return_inverse=True)
    words = tuple(map(str, different.tolist()))
    if not all(map(str.strip, words)):
        raise UserError(f"{path}: {name} is empty for some vectors: give every vector one")
    return Column(words, number)
