"""A labelled set of images, and the cache of packed sets.

A set is read once from its source, verified, and packed into one safetensors file in the cache folder. The file's name
carries the first 16 hex digits of its own sha256, so that a damaged file is found out before a pixel of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.files import write_durably


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of all classes: those of class c are pixels[start[c] : start[c] + count[c]]."""

    pixels: Tensor  # [N, C, H, W] uint8, on the CPU
    names: tuple[str, ...]  # of the classes
    start: Tensor  # [classes] int64
    count: Tensor  # [classes] int64
    fingerprint: str  # sha256 of the pixels, the names and the counts
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, pixels: Tensor, names: tuple[str, ...], count: Tensor) -> ImageSet:
        digest = hashlib.sha256(json.dumps([pixels.shape, names, count.tolist()]).encode())
        digest.update(pixels.contiguous().numpy().data)
        return cls(pixels, names, count.cumsum(0) - count, count, digest.hexdigest())

    def on(self, device: torch.device) -> Tensor:
        """The pixels on this device: [N, C, H, W] uint8, copied there once and kept."""
        if device.type == "cpu":
            return self.pixels
        if device not in self._copies:
            self._copies[device] = self.pixels.to(device)
        return self._copies[device]


def data_root() -> Path:
    """The folder of all data sets."""
    if not (value := os.environ.get("METALEARN_DATA")):
        raise UserError(
            "METALEARN_DATA is not set: set it to the folder that holds the data sets (omniglot/, cifar-fs/, ...), "
            "or give the data set's own folder as task.root"
        )
    return Path(value).expanduser()


def cache_root() -> Path:
    """The folder of all packed sets."""
    if value := os.environ.get("METALEARN_CACHE"):
        return Path(value).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metalearn"


def packed(stem: str, read: Callable[[], ImageSet]) -> ImageSet:
    """The set that is packed under this name; where there is none yet, the one that `read` returns is packed first.

    Processes that pack at the same time write the same bytes under the same name, each by an atomic rename.
    """
    if not (paths := _find(stem)):
        _save(stem, read())
        paths = _find(stem)
    if len(paths) > 1:
        raise UserError(
            f"{paths[0]} and {paths[1].name} are two different packed sets of one data set: "
            "delete both, and the data set is packed anew from its source"
        )
    return _load(paths[0])


def _find(stem: str) -> list[Path]:
    return sorted(cache_root().glob(f"{escape(stem)}-{'[0-9a-f]' * 16}.safetensors"))


def _save(stem: str, images: ImageSet) -> None:
    # One metadata key: with several, their order in the file, and so its hash, changes from one process to the next.
    about = json.dumps({"names": images.names, "fingerprint": images.fingerprint})
    tensors = {"pixels": images.pixels, "start": images.start, "count": images.count}
    data = save(tensors, {"image_set": about})
    path = cache_root() / f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, data)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room there, "
            "or set METALEARN_CACHE to a folder that can be written"
        ) from error


def _load(path: Path) -> ImageSet:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not path.stem.endswith(digest.hexdigest()[:16]):
        raise UserError(
            f"{path} is damaged (its sha256 begins {digest.hexdigest()[:16]}, not as its name says): "
            "delete it, and the data set is packed anew from its source"
        )
    with safe_open(path, framework="pt") as file:  # maps the file into memory: pixels are read from disk when used
        about = json.loads(file.metadata()["image_set"])
        pixels, start, count = (file.get_tensor(name) for name in ("pixels", "start", "count"))
    return ImageSet(pixels, tuple(about["names"]), start, count, about["fingerprint"])
