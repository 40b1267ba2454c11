"""Pickled caches of images: what is read, and that nothing in one is ever run."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn_cli.datasets import safe_pickle
from metalearn_cli.datasets.safe_pickle import read_images
from metalearn_cli.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
CLASSES = {"n2": [0, 3], "n1": [4, 1, 2]}


def read(tmp_path: Path, content: bytes) -> tuple[np.ndarray[Any, Any], dict[str, list[int]]]:
    path = tmp_path / "cache.pkl"
    path.write_bytes(content)
    return read_images(path, (4, 4, 3))


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert not (tmp_path / "ran").exists(), "the pickle ran something"
    assert str(tmp_path / "cache.pkl") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes what Python 2 wrote: bytes are its strings, and so is text that ASCII can hold."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]  # noqa: RUF012 - so it is there

    def save_string(self, value: bytes | str) -> None:
        data = value if isinstance(value, bytes) else value.encode("ascii")
        self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python2(content: object) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_caches_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps({"image_data": IMAGES, "class_dict": CLASSES}, protocol)
    for data in (content, content.replace(b"numpy._core", b"numpy.core") if protocol < 4 else content):
        images, classes = read(tmp_path, data)
        assert np.array_equal(images, IMAGES)
        assert classes == CLASSES


def test_caches_of_python_2_are_read(tmp_path: Path) -> None:
    content = python2({"image_data": IMAGES, "class_dict": CLASSES})
    assert pickle.loads(content, encoding="bytes").keys() == {b"image_data", b"class_dict"}
    images, classes = read(tmp_path, content)
    assert np.array_equal(images, IMAGES)
    assert classes == CLASSES


class Calls:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(marker: Path) -> dict[str, bytes]:
    """Pickles that make the file `marker` when they are loaded as pickles are, or try to."""
    line = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    # A state is set on a class itself, whose methods it would replace.
    attack = b"\x80\x02cnumpy\n%s\nN}X\x0c\0\0\0__setstate__cnumpy\ndtype\ns\x86b."
    calls = {
        "eval": Calls(eval, line),
        "exec": Calls(exec, line),
        "system": Calls(__import__("os").system, f"touch {marker}"),
        "popen": Calls(__import__("subprocess").Popen, ["touch", str(marker)]),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "numpy.load": Calls(np.load, str(marker)),
        "scalar": np.int64(3),
        "in an array": np.array([Calls(eval, line)], dtype=object),
        "in a value": {"image_data": IMAGES, "class_dict": Calls(eval, line)},
        "in a key": {"image_data": IMAGES, "class_dict": {("n1", Calls(eval, line)): [0]}},
    }
    return {
        **{name: pickle.dumps(call) for name, call in calls.items()},
        **{f"{name}, protocol 0": pickle.dumps(call, 0) for name, call in calls.items()},
        "INST": b"(S'" + line.encode().replace(b"'", b"\\'") + b"'\ni__builtin__\neval\n.",
        "OBJ": b"(c__builtin__\neval\nS'" + line.encode().replace(b"'", b"\\'") + b"'\no.",
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"Pid\n.",
        **{f"a state for the class {name}": attack % name.encode() for name in ("dtype", "ndarray")},
        "an array of no _reconstruct": b"cnumpy\nndarray\n(I1\ntR.",
        "text of another encoding": b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    }


@pytest.mark.row("C10")
def test_nothing_in_a_cache_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    before = {name: dict(vars(cls)) for name, cls in vars(safe_pickle).items() if isinstance(cls, type)}
    for content in payloads(marker).values():
        refusal(tmp_path, content)
    assert before == {name: dict(vars(cls)) for name, cls in vars(safe_pickle).items() if isinstance(cls, type)}
    pickle.loads(payloads(marker)["eval"])
    assert marker.exists(), "the payload is none"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is damaged ("),
        (b"not a pickle", "is damaged ("),
        (pickle.dumps({"image_data": IMAGES, "class_dict": CLASSES})[:-70], "is damaged ("),
        (pickle.dumps([IMAGES]), "holds no image_data and class_dict"),
        (pickle.dumps({"image_data": IMAGES}), "holds no image_data and class_dict"),
        (pickle.dumps({"image_data": IMAGES.astype(np.float32), "class_dict": CLASSES}), "holds no image_data"),
        (pickle.dumps({"image_data": np.asfortranarray(IMAGES), "class_dict": CLASSES}), "holds no image_data"),
        (pickle.dumps({"image_data": IMAGES.tobytes(), "class_dict": CLASSES}), "holds no image_data"),
        (pickle.dumps({"image_data": IMAGES, "class_dict": {"n1": [5]}}), "holds no image_data"),
        (pickle.dumps({"image_data": IMAGES, "class_dict": {"n1": [-1]}}), "holds no image_data"),
        (pickle.dumps({"image_data": IMAGES, "class_dict": {"n1": [1, 1]}}), "holds no image_data"),
        (pickle.dumps({"image_data": IMAGES, "class_dict": {"n1": "12"}}), "holds no image_data"),
        (
            pickle.dumps({"image_data": IMAGES[:, :3], "class_dict": CLASSES}),
            "images of [3, 4, 3] instead of",
        ),
    ],
)
def test_other_content_is_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    assert sentence in refusal(tmp_path, content)


def test_random_damage_is_a_sentence_or_other_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = pickle.dumps({"image_data": IMAGES, "class_dict": CLASSES}, 2)
    sentences = set()
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        try:
            assert read(tmp_path, bytes(data))[0].shape == IMAGES.shape
        except UserError as sentence:
            sentences.add(str(sentence).count("\n"))
    assert sentences == {0}
