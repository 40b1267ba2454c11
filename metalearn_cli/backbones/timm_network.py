"""Networks of timm, with its own weights or with those of a file. timm is imported here, and when it is asked for.

Its own weights come from the cache of Hugging Face, or from the network into it.
"""

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.backbones.weights_file import filled, read_weights, sha256_of
from metalearn_cli.errors import UserError, nearest

PREFIX = "timm:"


def open_timm(name: str, architecture: str, path: Path | None, size: int | None) -> Backbone:
    """timm's network `architecture`, with the weights in a file or, without `path`, its own. Raises UserError where
    they are not there."""
    net = _make(architecture, path, size)
    wanted, config = _timm().data.resolve_model_data_config(net), net.pretrained_cfg
    tag = config.get("tag") or ""
    about = f"timm's {architecture}" + (" with the weights of a file" if path else f", {tag}" * bool(tag))
    side = size or wanted["input_size"][-1]
    with torch.no_grad():
        features = net(torch.zeros(1, 3, side, side)).shape[-1]
    return Backbone(
        name=name,
        about=about,
        licence="not stated" if path else config.get("license") or "not stated",
        sha256=sha256_of(path) if path else _sha256(net),
        size=side,
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        resample=wanted["interpolation"] if wanted["interpolation"] in ("bilinear", "bicubic") else "bicubic",
        features=features,
        imagenet=path is not None or re.search(r"in\d+k", tag) is not None,
        make=partial(_make, architecture, path, size),
    )


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"networks of timm need timm ({error}): pip install 'metalearn-cli[timm]'") from error
    except RuntimeError as error:  # a torchvision that was made for another torch
        raise UserError(f"timm cannot be imported ({error}): install a torchvision that fits torch") from error
    return timm


def _make(architecture: str, path: Path | None, size: int | None) -> Any:
    """The network without its classifier, in eval mode. Raises UserError where it or its weights are not there."""
    timm = _timm()
    if not timm.is_model(architecture.partition(".")[0]):
        raise UserError(f"timm has no network {architecture}{nearest(architecture, timm.list_models(), PREFIX)}")
    config = timm.get_pretrained_cfg(architecture)
    takes_size = {"img_size": size} if size and config is not None and config.fixed_input_size else {}
    try:
        net: Any = timm.create_model(architecture, pretrained=path is None, num_classes=0, **takes_size)
    except Exception as error:  # of timm, huggingface_hub or the network
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{PREFIX}{architecture} or its weights cannot be had ({type(error).__name__}: {reason}): give a file of "
            f"them (model.name=FILE.safetensors model.architecture={PREFIX}{architecture}), copy a filled cache of "
            "Hugging Face to where HF_HOME says, or be online without HF_HUB_OFFLINE"
        ) from error
    if path is None:
        return net.eval()
    last = net.pretrained_cfg.get("classifier") or ()
    surplus = tuple(f"{layer}." for layer in ((last,) if isinstance(last, str) else last))
    return filled(net, read_weights(path), f"model.name={path}", surplus)


def _sha256(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
