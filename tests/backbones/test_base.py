"""A network's batch norm keeps its statistics, in training mode as well."""

from pathlib import Path

import pytest
import torch
from backbones import Tiny, own_eval, tiny_backbone
from torch import nn

from metalearn_cli.backbones.base import FixedNorm, module_of
from metalearn_cli.errors import UserError


@pytest.mark.parametrize("training", [False, True])
def test_a_module_is_the_network_in_eval_whatever_its_mode(training: bool) -> None:
    backbone, x = tiny_backbone(), torch.rand(4, 3, 16, 16, dtype=torch.float64)
    module = module_of(backbone).double().train(training)
    for _ in range(2):  # nothing is counted
        torch.testing.assert_close(module(x), own_eval(backbone, x), rtol=1e-6, atol=1e-7)  # float32 mean and std
    assert {name for name, _ in module.named_parameters()} == {"net.conv.weight", "net.norm.weight", "net.norm.bias"}


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm3d(3, eps=0.1)])
def test_every_batch_norm_of_torch_is_fixed(layer: nn.modules.batchnorm._BatchNorm) -> None:
    x = torch.rand(2, 3, *[4] * {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}[type(layer)])
    for _ in range(3):
        layer(x)  # it sees data
    torch.testing.assert_close(FixedNorm(layer)(x), layer.eval()(x))


def test_what_cannot_be_fixed_or_trained_is_refused() -> None:
    class Without(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(5, track_running_stats=False)

    with pytest.raises(UserError, match="a batch norm of this network keeps no statistics"):
        module_of(tiny_backbone(Without))
    with pytest.raises(UserError, match=r"^model.name=tiny is an ONNX file, which cannot be trained: give model.froz"):
        module_of(tiny_backbone(Path("tiny.onnx")))  # type: ignore[arg-type]
