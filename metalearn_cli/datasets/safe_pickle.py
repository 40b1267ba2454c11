"""Reading a pickled cache of images, as they circulate for miniImageNet, without running anything that is in it.

A pickle is a program that may call whatever it names. Here it may name only what numpy's arrays are saved with, and
what it gets under these names are the classes below, which do no more than keep what they are given: neither numpy nor
anything else is called. Any other name is refused.

The caches are dictionaries of image_data, an array [N, 84, 84, 3] of bytes, and class_dict, the numbers of the images
of each class. They were written by Python 2 and 3, with all protocols.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from metalearn_cli.errors import UserError


class _Kept:
    """What stands for a numpy object: its arguments, and the state that it would be given. (Every class here has a
    __setstate__: without one, a pickle could set the attributes of the class.)"""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Kept):
    pass


class _Array(_Kept):
    """Made by numpy's _reconstruct, and given its state: version, shape, dtype, whether in Fortran's order, bytes."""


class _Buffer(_Kept):
    """Made by numpy's _frombuffer: bytes, dtype, shape, order (protocol 5)."""


class _NdArray(_Kept):
    """The argument of _reconstruct; nothing is ever made of it."""

    def __new__(cls, *arguments: Any) -> "_NdArray":
        raise pickle.UnpicklingError("an array that is made in another way than numpy's pickles do")


class _Encoded(_Kept):
    """Bytes as protocols 0 to 2 of Python 3 have them: text, and the name of its encoding."""

    def __new__(cls, text: Any, encoding: Any) -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("text in another encoding than bytes are pickled with")
        return text.encode("latin1")


_NAMES: dict[tuple[str, str], type] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NdArray,
    ("_codecs", "encode"): _Encoded,
}
_NAMES |= {(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")}
_NAMES |= {(f"numpy.{core}.numeric", "_frombuffer"): _Buffer for core in ("core", "_core")}


class _Reader(pickle._Unpickler):
    """The unpickler that is written in Python: a damaged number makes the one in C reserve tens of GB."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _NAMES:
            raise UserError(f"it would run {module}.{name}, and nothing that a pickle names is run")
        return _NAMES[module, name]


def read_images(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray[Any, Any], dict[str, list[int]]]:
    """The images of a cache, [N, *shape] uint8 and read-only, and the numbers of those of each class."""
    mend = "take another copy, or the images themselves"
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="bytes").load()
    except UserError as refusal:
        raise UserError(f"{path} is no cache of images: {refusal}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # whatever unpickling raises when it meets damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): {mend}") from error
    try:
        named = {_text(key): value for key, value in content.items()}
        images = _bytes_of(named["image_data"])
        classes = {_text(name): _numbers(numbers, len(images)) for name, numbers in named["class_dict"].items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds no image_data and class_dict as caches of images have them: {mend}") from error
    if images.shape[1:] != shape:
        raise UserError(f"{path} holds images of {list(images.shape[1:])} instead of {list(shape)}: {mend}")
    return images, classes


def _bytes_of(kept: _Kept) -> np.ndarray[Any, Any]:
    """An array of bytes, by its description: [...] uint8, read-only."""
    if isinstance(kept, _Buffer):
        data, dtype, shape, order = kept.arguments
        is_plain = order == "C"
    else:
        _, shape, dtype, is_fortran, data = kept.state
        is_plain = not is_fortran
    if not (is_plain and isinstance(dtype, _Dtype) and dtype.arguments[0] in ("u1", b"u1", "uint8")):
        raise ValueError("an array of something else than bytes")
    images: np.ndarray[Any, Any] = np.frombuffer(data, np.uint8).reshape(shape)
    return images


def _numbers(numbers: list[int], count: int) -> list[int]:
    """The numbers of a class's images, each once and of one that is there."""
    if not isinstance(numbers, list) or len({*numbers}) < len(numbers):
        raise ValueError("the images of a class are no list, or stand twice in it")
    if any(not isinstance(number, int) or not 0 <= number < count for number in numbers):
        raise ValueError("an image of a class is none of those that are there")
    return numbers


def _text(key: object) -> str:
    if not isinstance(key, str | bytes):
        raise ValueError("the name of a class is no text")
    return key.decode() if isinstance(key, bytes) else key
