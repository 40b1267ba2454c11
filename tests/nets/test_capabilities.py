"""Maps are there or are refused in a sentence, and features are made of them."""

import pytest
import torch

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.nets.capabilities import require_maps, variants
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.resnet12 import ResNet12
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical, SquaredError

SPEC = Spec((3, 33, 20), 5, 5, Categorical())
SIZES: list[tuple[Net, tuple[int, ...]]] = [
    (Conv4(SPEC, filters=2), (2, 2, 1)),
    (Conv4(SPEC, filters=2, downsample=Downsample.stride), (2, 3, 2)),
    (Conv4(SPEC, filters=2, downsample=Downsample.stride, spatial_mean=True), (2, 3, 2)),
    (ResNet12(SPEC, widths=(2, 3, 4, 5)), (5, 2, 1)),
]


@pytest.mark.parametrize(("net", "size"), SIZES)
def test_features_are_made_of_maps(net: Net, size: tuple[int, ...]) -> None:
    params, x = net.init(generator(0)), torch.rand(2, 4, *SPEC.input_shape, generator=generator(1))
    maps, used = require_maps(net, "algo=relation").maps(params, x)
    assert maps.shape == (2, 4, *size)
    features, same = net.features(params, x)
    made = maps.flatten(2) if features.shape[2] == maps[0, 0].numel() else maps.mean((3, 4))
    torch.testing.assert_close(features, made)
    assert all(torch.equal(used[name], same[name]) for name in used | same)
    reduced, _ = require_maps(Reduced(SPEC, net), "algo=relation").maps(params, x)
    assert reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, maps, rtol=0.1, atol=0.1)
    assert not torch.equal(reduced, maps)


def test_a_network_without_maps_is_refused() -> None:
    with pytest.raises(UserError, match=r"^algo=relation needs images of features, and this model has none: take mod"):
        require_maps(MLP(Spec((2,), 1, 1, SquaredError())), "algo=relation")


def test_ways_to_convolve_are_offered_where_there_is_a_choice() -> None:
    nets = variants(Conv4(SPEC))
    assert nets.keys() == {Convolution.grouped, Convolution.product}
    assert not variants(nets[Convolution.product])
    assert not variants(ResNet12(SPEC))
