"""Files of vectors with classes: what any program has computed of texts, sounds, spectra or pictures.

.npz (numpy.savez): x [N, F]; y [N], the class of each, whole numbers or texts; and perhaps group and split [N], alike.
.safetensors: x [N, F] and y [N] of whole numbers; in the metadata perhaps names, group and split, lists of texts in
JSON with one for each class. .parquet: the columns embedding (lists of one length), class, and perhaps group and split.
The numbers are float16, float32 or float64. They stay in the file, and the system brings the rows that are used into
memory; only those of a compressed .npz and of a .parquet are read as a whole. Nothing is ever unpickled.

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
from metalearn_cli.system.files import check_plain
from metalearn_cli.system.measure import free_memory

_NUMBERS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Column(NamedTuple):
    """A word for each vector."""

    words: tuple[str, ...]  # the different ones
    number: Array  # [N] int64: which of them


class VectorFile(NamedTuple):
    """A file whose vectors are not looked at yet."""

    path: Path
    shape: tuple[int, int]  # N, F
    numbers: torch.dtype
    bytes_of: Callable[[], Tensor]  # [N, bytes of a vector] uint8: a new map of the file, or what is in memory
    labels: Column | None  # the classes; None: the file does not tell
    group: tuple[str, ...] | None  # of each class; None: not told
    split: tuple[str, ...] | None  # train, val or test for each class; None: not told
    why_in_memory: str  # empty: they stay in the file


def read_vectors(path: Path, key: str, labelled: bool = True) -> VectorFile:
    """Open the file that `key` names, and read all but its vectors. Raises UserError for any other file, and where it
    should be labelled and tells no classes."""
    if (suffix := path.suffix.lower()) not in _READERS:
        raise UserError(f"{key}={path} must be a file of vectors, whose name ends in {', '.join(_READERS)}")
    try:
        check_plain(path)
        file = _READERS[suffix](path)
    except OSError as error:
        raise UserError(f"{key}={path} cannot be read ({error.strerror or error})") from error
    if labelled and file.labels is None:
        raise UserError(f"{path} does not tell the class of each vector: add it as y (in a .parquet as column class)")
    return file


class _Array(NamedTuple):
    """An array of an .npz, by its header."""

    shape: tuple[int, ...]
    is_transposed: bool
    dtype: np.dtype[Any]
    offset: int  # in the file, of what may be compressed there
    is_compressed: bool


def _read_npz(path: Path) -> VectorFile:
    mend = "write it again with numpy.savez"
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            arrays: dict[str, _Array] = {
                name: _header(path, archive, members[name], file)
                for name in ("x", "y", "group", "split")
                if name in members
            }
        if "x" not in arrays:
            raise UserError(f"{path} has no array x, [N, F]: it has {', '.join(members) or 'none'}")
        x, why = arrays["x"], ""
        shape, numbers = _checked(path, "x", x.shape, x.dtype)
        if x.is_compressed:
            why = "it is compressed, and what numpy.savez writes stays in the file"
        elif x.is_transposed:
            why = "they stand column by column, and numpy.ascontiguousarray(x) would stay in the file"
        bytes_of = _in_memory(_loaded(path, "x", x)) if why else _in_file(path, shape, numbers, x.offset)
        columns = {name: _column(path, name, _loaded(path, name, arrays[name]), shape[0]) for name in [*arrays][1:]}
    except (*DAMAGE, KeyError, struct.error) as error:
        raise UserError(f"{path} is not an .npz, or damaged ({error}): {mend}") from error
    return _with_columns(VectorFile(path, shape, numbers, bytes_of, None, None, None, why), columns)


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
            f"{path}: {name} takes {size / 1e9:.3g} GB of memory, of which {room / 1e9:.3g} GB are free: an array x of "
            "rows that is not compressed (numpy.savez) stays in the file"
        )
    with np.load(path, allow_pickle=False) as archive:
        loaded: Array = archive[name]
    return loaded


def _read_safetensors(path: Path) -> VectorFile:
    try:
        with safe_open(path, framework="np") as tensors:
            names, metadata = list(tensors.keys()), tensors.metadata() or {}
            if "x" not in names:
                raise UserError(f"{path} has no tensor x, [N, F]: it has {', '.join(names) or 'none'}")
            part = tensors.get_slice("x")
            kinds = {"F16": "float16", "F32": "float32", "F64": "float64"}
            word = part.get_dtype()
            shape, numbers = _checked(path, "x", tuple(part.get_shape()), np.dtype(kinds.get(word, "V")), word)
            y = tensors.get_tensor("y") if "y" in names else None
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            begin = int(json.loads(file.read(size))["x"]["data_offsets"][0])
        bytes_of = _in_file(path, shape, numbers, 8 + size + begin)
        lists = {name: json.loads(metadata[name]) for name in ("names", "group", "split") if name in metadata}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a .safetensors, or damaged ({error}): write it again") from error
    file_of = partial(VectorFile, path, shape, numbers, bytes_of, why_in_memory="")
    if y is None:
        return file_of(None, None, None)
    if y.dtype.kind not in "iu":
        raise UserError(f"{path}: y is {y.dtype}, and a whole number for each vector is expected")
    labels = _column(path, "y", y, shape[0])
    used = list(map(int, labels.words))
    for name, words in lists.items():
        is_list = isinstance(words, list) and all(isinstance(word, str) and word for word in words)
        if (
            not is_list
            or len({*words}) < len(words) * (name == "names")
            or not 0 <= min(used) <= max(used) < len(words)
        ):
            raise UserError(
                f"{path}: {name} in its metadata must be a list of texts in JSON, one for each class 0 to {max(used)}"
                f"{' and all different' * (name == 'names')}"
            )
    of_class = {name: tuple(words[number] for number in used) for name, words in lists.items()}
    labels = labels._replace(words=of_class.get("names", labels.words))
    return file_of(labels, of_class.get("group"), of_class.get("split"))


def _read_parquet(path: Path) -> VectorFile:
    table = read_table(path)
    try:
        x = np.stack(list(table.of("embedding")))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: every row of column embedding needs a list of numbers, all of one length ({error})"
        ) from error
    shape, numbers = _checked(path, "embedding", x.shape, x.dtype)
    columns = {}
    for name, theirs in (("y", "class"), ("group", "group"), ("split", "split")):
        if theirs in table.cells:
            cells = np.asarray(table.cells[theirs])
            words = cells if cells.dtype.kind in "iu" else np.asarray(table.texts(theirs))
            columns[name] = _column(path, theirs, words, shape[0])
    why = "a .parquet is read as a whole, and a .npz or .safetensors stays in the file"
    return _with_columns(VectorFile(path, shape, numbers, _in_memory(x), None, None, None, why), columns)


_READERS = {".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}


def _checked(
    path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], word: str = ""
) -> tuple[tuple[int, int], torch.dtype]:
    """Return N and F, and what the numbers are. Raises UserError for what is not a matrix of floating-point numbers."""
    if len(shape) != 2 or min(shape) < 1 or dtype.name not in _NUMBERS or not dtype.isnative:
        raise UserError(
            f"{path}: {name} is {word or dtype} of shape {list(shape)}, and float16, float32 or float64 of shape "
            "[vectors, numbers] is expected"
        )
    return (shape[0], shape[1]), _NUMBERS[dtype.name]


def _in_file(path: Path, shape: tuple[int, int], numbers: torch.dtype, offset: int) -> Callable[[], Tensor]:
    """Return what maps the vectors. Raises ValueError where the file ends before them."""
    bytes_of = partial(mapped, path, [shape[0], shape[1] * numbers.itemsize], offset)
    bytes_of()
    return bytes_of


def _in_memory(x: Array) -> Callable[[], Tensor]:
    content = torch.from_numpy(np.ascontiguousarray(x)).view(torch.uint8)
    return lambda: content


def _column(path: Path, name: str, values: Array, number: int) -> Column:
    """Count the different ones of texts or whole numbers, in their order."""
    if values.shape != (number,) or values.dtype.kind not in "iuU":
        raise UserError(
            f"{path}: {name} is {values.dtype} of shape {list(values.shape)}, and a text or a whole number for each of "
            f"{number} vectors is expected"
        )
    different, place = np.unique(values, return_inverse=True)
    words = tuple(map(str, different.tolist()))
    if not all(map(str.strip, words)):
        raise UserError(f"{path}: {name} is empty for some vectors: give every vector one")
    return Column(words, place)


def _with_columns(file: VectorFile, columns: dict[str, Column]) -> VectorFile:
    """Return the file with its classes, and the group and the split of each class, which all its vectors must tell."""
    if (labels := columns.get("y")) is None:
        return file
    told: dict[str, tuple[str, ...]] = {}
    for name in columns.keys() - {"y"}:
        pairs = np.unique(np.stack([labels.number, columns[name].number]), axis=1)  # [2, classes]
        words = [columns[name].words[number] for number in pairs[1]]
        if len(twice := np.flatnonzero(np.diff(pairs[0]) == 0)):
            first, of_class = twice[0], labels.words[pairs[0, twice[0]]]
            raise UserError(
                f"{file.path}: class {of_class} is of {name} {words[first]} and of {name} {words[first + 1]}: a class "
                "belongs to one"
            )
        told[name] = tuple(words)
    return file._replace(labels=labels, group=told.get("group"), split=told.get("split"))
