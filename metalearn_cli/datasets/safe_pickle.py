"""Read a pickled cache of images, as they circulate for miniImageNet, without running anything that is in it.

A pickle is a program that may call whatever it names. Here it may name only what numpy's arrays are saved with, and
under these names it gets the classes below, which only keep what they are given: numpy is not called either. The caches
are dictionaries of image_data, an array [N, 84, 84, 3] of bytes, and class_dict, the numbers of the images of each
class, written by Python 2 and 3 with all protocols.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from metalearn_cli.errors import UserError


class _Kept:
    """A stand-in for a numpy object: its arguments, and the state that it would be given. (It and _Encoded have a
    __setstate__: without one, a pickle could set the attributes of the class.)"""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Encoded(_Kept):
    """Bytes as protocols 0 to 2 of Python 3 have them: text, and the name of its encoding."""

    def __new__(cls, text: Any, encoding: Any) -> bytes:  # type: ignore[misc]
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("text in another encoding than bytes are pickled with")
        return text.encode("latin1")


_NAMES: dict[tuple[str, str], type] = {("_codecs", "encode"): _Encoded}
_NAMES |= dict.fromkeys([("numpy", "dtype"), ("numpy", "ndarray")], _Kept)
_NAMES |= {(f"numpy.{core}.multiarray", "_reconstruct"): _Kept for core in ("core", "_core")}
_NAMES |= {(f"numpy.{core}.numeric", "_frombuffer"): _Kept for core in ("core", "_core")}


class _Reader(pickle._Unpickler):
    """The unpickler that is written in Python: a damaged number makes the one in C reserve tens of GB."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _NAMES:
            raise UserError(f"it would run {module}.{name}, and nothing that a pickle names is run")
        return _NAMES[module, name]


def read_images(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray[Any, Any], dict[str, list[int]]]:
    """Return the images of a cache, [N, *shape] uint8 and read-only, and the numbers of those of each class."""
    mend = "take another copy, or the images themselves"
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="bytes").load()
    except UserError as refusal:
        raise UserError(f"{path} is not a cache of images: {refusal}") from None
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
    """Return an array of bytes, by its description: [...] uint8, read-only."""
    if kept.state:  # of _reconstruct, whose arguments say nothing
        _, shape, dtype, is_fortran, data = kept.state
    else:  # of _frombuffer, with protocol 5
        data, dtype, shape, order = kept.arguments
        is_fortran = order != "C"
    if is_fortran or not isinstance(dtype, _Kept) or dtype.arguments[0] not in ("u1", b"u1", "uint8"):
        raise ValueError("an array of something else than bytes")
    images: np.ndarray[Any, Any] = np.frombuffer(data, np.uint8).reshape(shape)
    return images


def _numbers(numbers: list[int], count: int) -> list[int]:
    """Return the numbers of a class's images, if each stands once and belongs to an image."""
    if not isinstance(numbers, list) or len({*numbers}) < len(numbers):
        raise ValueError("the images of a class are not a list, or stand twice in it")
    if any(not isinstance(number, int) or not 0 <= number < count for number in numbers):
        raise ValueError("a class has an image that is not in the cache")
    return numbers


def _text(key: object) -> str:
    if not isinstance(key, str | bytes):
        raise ValueError("the name of a class is not text")
    return key.decode() if isinstance(key, bytes) else key
