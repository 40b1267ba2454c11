"""Files of vectors: each format is read as the others are, and whatever is odd is one sentence."""

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from cases import vectors
from pyarrow import parquet
from safetensors.torch import save_file

from metalearn_cli.datasets import vector_formats
from metalearn_cli.datasets.vector_file import read_vectors
from metalearn_cli.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")

X, WORDS = vectors(6, 3, 4)  # six vectors of three classes
GROUPS, SPLITS = ["g", "h", "g"], ["train", "train", "test"]
COLUMNS = {"y": WORDS, "group": [GROUPS[int(word[1])] for word in WORDS], "split": [SPLITS[int(w[1])] for w in WORDS]}


def as_npz(path: Path, x: Any = X, save: Callable[..., None] = np.savez, **columns: Any) -> Path:
    save(path, x=np.asarray(x), **{name: np.asarray(value) for name, value in (columns or COLUMNS).items()})
    return path


def as_safetensors(path: Path, x: torch.Tensor = X, **metadata: Any) -> Path:
    y = torch.tensor([int(word[1]) for word in WORDS])
    words = {"names": ["c0", "c1", "c2"], "group": GROUPS, "split": SPLITS} | metadata
    save_file({"x": x, "y": y}, path, {name: json.dumps(value) for name, value in words.items()})
    return path


def as_parquet(path: Path, x: list[Any] | None = None, **columns: Any) -> Path:
    names = {"y": "class", "group": "group", "split": "split"}
    cells = {names[name]: values for name, values in (COLUMNS | columns).items()}
    lists = list(X.numpy()) if x is None else x
    parquet.write_table(pyarrow.table({"embedding": lists, **cells}), path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_vectors(path, "task.root")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_all_formats_say_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    x = X.to(dtype)
    paths = [
        as_npz(tmp_path / "a.npz", x),
        as_npz(tmp_path / "b.NPZ", x, save=lambda path, **arrays: _saved(path, arrays)),
        as_safetensors(tmp_path / "c.safetensors", x),
        as_parquet(tmp_path / "d.parquet", list(x.numpy())),
    ]
    files = [read_vectors(path, "task.root") for path in paths]
    for file in files:
        assert (*file.x[:2], file.group, file.split) == ((6, 4), dtype, ("g", "h", "g"), tuple(SPLITS))
        assert [file.labels.words[number] for number in file.labels.number] == WORDS
        assert torch.equal(file.vectors(), x.float())
    assert [bool(file.x.why_in_memory) for file in files] == [False, True, False, True]
    assert len({file.as_set().fingerprint for file in files}) == 1


def _saved(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:  # numpy would add a suffix
        np.savez_compressed(file, **arrays)


def test_whole_numbers_are_classes_in_their_order_and_a_query_needs_none(tmp_path: Path) -> None:
    file = read_vectors(as_npz(tmp_path / "a.npz", y=[10, 9, 10, 2, 2, 9]), "task.root")
    assert file.labels.words == ("2", "9", "10")
    assert (file.group, file.split) == (None, None)
    np.savez(tmp_path / "q.npz", x=X.numpy())
    assert read_vectors(tmp_path / "q.npz", "query", labelled=False).labels.words == ()
    assert "tells no classes: add the class of each vector as y" in refusal(tmp_path / "q.npz")


def test_a_transposed_array_is_read_into_memory_and_that_is_said(tmp_path: Path) -> None:
    file = read_vectors(as_npz(tmp_path / "a.npz", np.asfortranarray(X.numpy())), "task.root")
    assert "ascontiguousarray" in file.x.why_in_memory
    assert torch.equal(file.vectors(), X)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda p: as_npz(p, y=np.array(WORDS, dtype=object)), "y.npy holds Python objects, which are not read"),
        (lambda p: as_npz(p, X.int()), "x is int32 of shape [6, 4], and float16, float32 or float64"),
        (lambda p: as_npz(p, X.numpy().astype(">f4")), "x is >f4 of shape"),
        (lambda p: as_npz(p, X[0]), "x is float32 of shape [4], and"),
        (lambda p: as_npz(p, X[:0], y=[]), "x is float32 of shape [0, 4], and"),
        (lambda p: as_npz(p, y=WORDS[1:]), "y is <U2 of shape [5], and a text or a whole number for each of 6 vectors"),
        (lambda p: as_npz(p, y=[0.5] * 6), "y is float64 of shape [6], and a text or a whole number"),
        (lambda p: as_npz(p, y=["", *WORDS[1:]]), "y is empty for some vectors"),
        (lambda p: as_npz(p, y=WORDS, split=["train"] * 5 + ["test"]), "is of split test and of split train"),
        (lambda p: np.savez(p, y=WORDS), "has no array x, [N, F]: it has y"),
        (lambda p: p.write_bytes(b"no zip"), "is not an .npz, or damaged (File is not a zip file)"),
    ],
)
def test_a_mistake_in_an_npz_is_a_sentence(tmp_path: Path, made: Callable[[Path], object], words: str) -> None:
    made(tmp_path / "a.npz")
    assert words in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda p: as_safetensors(p, X.bfloat16()), "x is BF16, and F16, F32 or F64 is expected"),
        (lambda p: as_safetensors(p, names=["a", "b"]), "names in its metadata must be a list of texts in JSON"),
        (lambda p: as_safetensors(p, names=["a", "a", "b"]), "one for each class 0 to 2, all different"),
        (lambda p: as_safetensors(p, split=["train", 3, "test"]), "split in its metadata must be a list of texts"),
        (lambda p: as_safetensors(p, names={"a": 1}), "names in its metadata must be a list of texts"),
        (lambda p: save_file({"z": X}, p), "has no tensor x, [N, F]: it has z"),
        (lambda p: save_file({"x": X, "y": X[:, 0].contiguous()}, p), "y is float32, and a whole number"),
        (lambda p: p.write_bytes(b"1234567890"), "is not a .safetensors, or damaged"),
    ],
)
def test_a_mistake_in_a_safetensors_is_a_sentence(tmp_path: Path, made: Callable[[Path], object], words: str) -> None:
    made(tmp_path / "a.safetensors")
    assert words in refusal(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda p: as_parquet(p, [*X[:5].tolist(), [1.0]]), "every row of column embedding needs a list of numbers"),
        (lambda p: as_parquet(p, [*X[:5].tolist(), None]), "every row of column embedding needs a list of numbers"),
        (lambda p: as_parquet(p, y=[*WORDS[:5], None]), "row 6 has nothing in column class"),
        (lambda p: as_parquet(p, group=[0, 1, 2, 3, 4, 5]), "of group 0 and of group 3: a class belongs to one"),
        (lambda p: parquet.write_table(pyarrow.table({"class": WORDS}), p), "has no column embedding"),
        (lambda p: p.write_bytes(b"PAR1"), "cannot be read as Parquet"),
    ],
)
def test_a_mistake_in_a_parquet_is_a_sentence(tmp_path: Path, made: Callable[[Path], object], words: str) -> None:
    made(tmp_path / "a.parquet")
    assert words in refusal(tmp_path / "a.parquet")


def test_other_paths_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "d.npz").mkdir()
    assert "must be a file of vectors, whose name ends in .npz, .safetensors, .parquet" in refusal(tmp_path / "a.csv")
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "a.npz")
    assert "cannot be read (it is not a plain file)" in refusal(tmp_path / "d.npz")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
def test_a_number_that_float32_does_not_hold_is_named(tmp_path: Path, number: float) -> None:
    x = X.double().numpy()
    x[4, 2] = number
    file = read_vectors(as_npz(tmp_path / "a.npz", x), "task.root")
    with pytest.raises(UserError, match=r"number 3 of vector 5 is not finite, or beyond 3\.4e38"):
        file.as_set()


def test_the_fingerprint_is_of_the_vectors_and_their_classes(tmp_path: Path) -> None:
    def of(x: torch.Tensor, y: list[str]) -> str:
        fingerprint: str = read_vectors(as_npz(tmp_path / "a.npz", x, y=y), "task.root").as_set().fingerprint
        return fingerprint

    assert of(X, WORDS) == of(X, WORDS)
    others = [of(X + 1, WORDS), of(X.half(), WORDS), of(X, WORDS[::-1]), of(X, [f"{word}!" for word in WORDS])]
    assert len({of(X, WORDS), *others}) == 5


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "parquet"])
def test_a_damaged_file_is_refused_or_read_but_never_a_fault(tmp_path: Path, suffix: str) -> None:
    """Cut off anywhere, and with any byte of its headers changed."""
    good = globals()[f"as_{suffix}"](tmp_path / f"good.{suffix}").read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / f"bad.{suffix}"
    bad = [good[: int(end)] for end in rng.integers(0, len(good), 30)]
    for place in rng.integers(0, len(good), 150):
        changed = bytearray(good)
        changed[place] ^= int(rng.integers(1, 256))
        bad.append(bytes(changed))
    refused = 0
    for content in bad:
        path.write_bytes(content)
        try:
            file = read_vectors(path, "task.root")
            _ = file.as_set() if file.labels.words else file.vectors()
        except UserError:
            refused += 1
    assert refused > 30


def test_an_array_larger_than_it_says_or_than_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    assert "x.npy is not of its size" in refusal(tmp_path / "a.npz")
    monkeypatch.setattr(vector_formats, "free_memory", lambda device: 100)
    path = as_npz(tmp_path / "b.npz", save=lambda path, **arrays: _saved(path, arrays))
    assert re.search(r"x takes .* GB of memory, of which 1e-07 GB are free: numpy.savez, not compressed", refusal(path))


def test_a_parquet_of_one_number_repeated_without_end_is_refused(tmp_path: Path) -> None:
    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(1 << 16, pyarrow.float32()).fill_null(0.0), 1 << 8)
    table, path = pyarrow.table({"embedding": rows, "class": ["c"] * len(rows)}), tmp_path / "a.parquet"
    with parquet.ParquetWriter(path, table.schema) as writer:
        for _ in range(4):
            writer.write_table(table)
    assert path.stat().st_size < 20_000
    free = "metalearn_cli.system.measure.free_memory"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(free, lambda device: 1 << 20)
        assert "takes more than half of the 0.00105 GB of free memory" in refusal(path)
    assert read_vectors(path, "task.root").x.shape == (1024, 256)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pyarrow.array([[[1.0]]] * 6), "embedding is object of shape [6, 1]"),
        (pyarrow.array([{"a": 1.0}] * 6), "embedding is object of shape [6]"),
        (pyarrow.array([["a", "b"]] * 6), "embedding is object of shape [6, 2]"),
        (pyarrow.array([[1, 2]] * 6), "embedding is int64 of shape [6, 2]"),
        (pyarrow.array([[]] * 6, pyarrow.list_(pyarrow.float32())), "embedding is float32 of shape [6, 0]"),
    ],
)
def test_nested_columns_are_a_sentence(tmp_path: Path, column: Any, words: str) -> None:
    parquet.write_table(pyarrow.table({"embedding": column, "class": WORDS}), tmp_path / "a.parquet")
    assert words in refusal(tmp_path / "a.parquet")


def test_an_array_that_stands_twice_in_an_npz_is_a_sentence(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y", b"not an array")
    assert "is not an .npz, or damaged (" in refusal(path)


def test_only_the_rows_of_a_task_come_from_a_file_that_is_mostly_a_hole(tmp_path: Path) -> None:
    """256 MB, of which looking at all numbers keeps none in memory, and gathering a page or two for each row."""
    rows, numbers, path = 1 << 16, 1024, tmp_path / "a.safetensors"
    y = (torch.arange(rows) % 16).numpy().tobytes()
    tensors = {"y": ("I64", [rows], len(y)), "x": ("F32", [rows, numbers], 4 * rows * numbers)}
    about, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        about[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(about).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + y)
        file.truncate(8 + len(header) + end)
        file.seek(-4 * numbers, 2)
        file.write(np.arange(numbers, dtype=np.float32).tobytes())
    vectors = read_vectors(path, "task.root").as_set()
    assert _resident(path) == 0
    assert vectors.rows is not None
    chosen = vectors.rows[torch.tensor([rows - 1, 0, rows // 2])]
    x = vectors.pixels.index_select(0, chosen).view(torch.float32)
    assert torch.equal(x[0], torch.arange(numbers).float())
    assert x[1:].count_nonzero() == 0
    assert 0 < _resident(path) < 16 << 20


def _resident(path: Path) -> int:
    """The bytes of maps of this file that are in this process's memory."""
    sizes, is_of_it = [0], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_of_it = line.endswith(str(path))
        elif is_of_it and line.startswith("Rss:"):
            sizes.append(int(line.split()[1]) << 10)
    return sum(sizes)
