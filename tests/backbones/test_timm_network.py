"""timm's networks, where timm is installed: it needs a torchvision that fits torch."""

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import own_eval
from safetensors.torch import save_file

from metalearn_cli.backbones.base import module_of
from metalearn_cli.backbones.encoder import encoder_of
from metalearn_cli.backbones.named import open_backbone
from metalearn_cli.errors import UserError

pytestmark = pytest.mark.nightly
NAME = "timm:test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def timm() -> Any:
    return pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))


def weights(timm: Any, folder: Path) -> Path:
    """Write a file of what timm would call trained weights: batch norms have statistics, and there is a classifier."""
    net = timm.create_model(NAME.removeprefix("timm:"), pretrained=False)
    for name, value in net.state_dict().items():
        if value.is_floating_point() and "running" in name:
            value.copy_(0.5 + torch.rand(value.shape))
    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


def test_a_file_of_timms_weights_is_timms_network(timm: Any, tmp_path: Path) -> None:
    path = weights(timm, tmp_path)
    backbone = open_backbone(str(path), NAME, size=64)
    config = timm.get_pretrained_cfg(NAME.removeprefix("timm:"))
    assert (backbone.mean, backbone.std, backbone.size) == (config.mean, config.std, 64)
    assert backbone.resample == config.interpolation
    assert backbone.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    theirs = timm.create_model(NAME.removeprefix("timm:"), checkpoint_path=str(path)).eval()
    x = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (config.mean, config.std))
        expected = theirs.forward_head(theirs.forward_features((x / 255 - mean) / std), pre_logits=True)
        torch.testing.assert_close(own_eval(backbone, x / 255), expected)
        torch.testing.assert_close(module_of(backbone).train()(x / 255), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder_of(backbone)(x), expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_had_is_said_with_the_ways_to_it(timm: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"^{re.escape(NAME)} or its weights cannot be had .*: give a file of them"):
        open_backbone(NAME)
    with pytest.raises(UserError, match=r"^timm has no network resnet1z: did you mean timm:resnet"):
        open_backbone("timm:resnet1z")
    save_file({"x": torch.ones(1)}, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=r"holds another network's weights"):
        open_backbone(str(tmp_path / "net.safetensors"), NAME)
