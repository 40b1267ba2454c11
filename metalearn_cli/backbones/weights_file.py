"""Weights from a file that somebody else may have made: .safetensors, or .pth and .pt. Nothing in them is run."""

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain

SUFFIXES = (".safetensors", ".pth", ".pt")
Weights = dict[str, Tensor]
_NUMBERS = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
}


def sha256_of(path: Path) -> str:
    """Hash a file. Raises UserError where it cannot be read."""
    try:
        check_plain(path)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise UserError(f"model.name={path} cannot be read ({error.strerror}): give a file of weights") from error


def read_weights(path: Path) -> Weights:
    """Read the tensors in a file of weights. Raises UserError for a file of another kind."""
    content: Any
    try:
        check_plain(path)
        if path.suffix.lower() == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            _check_size(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about files of old versions
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise UserError(f"model.name={path} cannot be read as .safetensors ({error}): give another file") from error
    except Exception as error:  # whatever unpickling raises, and for everything that would be run
        raise UserError(
            f"model.name={path} cannot be read as tensors alone, and nothing else in it is run "
            f"({type(error).__name__}): save net.state_dict(), best by safetensors.torch.save_file"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"model.name={path} holds no tensors by their names: save net.state_dict()")
    for name, value in content.items():
        if (
            not isinstance(value, Tensor)
            or value.dtype not in _NUMBERS
            or value.layout is not torch.strided
            or value.is_meta
        ):
            raise UserError(
                f"model.name={path}: {name} is no plain tensor of whole or real numbers: save net.state_dict()"
            )
    return content


def _check_size(path: Path) -> None:
    """Raises ValueError for an archive whose parts would take more memory than it has bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("its parts are larger than the file")


def filled(net: nn.Module, weights: Weights, source: str, surplus: tuple[str, ...]) -> nn.Module:
    """Give a network all its weights, in place; those whose names begin with `surplus` are left. Raises UserError
    where names or shapes are not its own, and for a number that is not finite."""
    needed = net.state_dict()
    weights = {name: value for name, value in weights.items() if not name.startswith(surplus)}
    for name in sorted(needed.keys() ^ weights.keys()):
        if not name.endswith("num_batches_tracked"):
            side = "missing in it" if name in needed else "not of this network"
            raise UserError(f"{source} holds another network's weights, {name} is {side}: give model.architecture=...")
    for name, value in weights.items():
        if value.shape != needed[name].shape:
            shapes = f"{list(value.shape)}, and this network's {list(needed[name].shape)}"
            raise UserError(f"{source} holds another network's weights, its {name} is {shapes}")
        if not value.isfinite().all():
            raise UserError(f"{source}: {name} is not finite: take another file")
    net.load_state_dict(weights, strict=False)
    return net.eval()
