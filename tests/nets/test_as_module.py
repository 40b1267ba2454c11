"""A network as a module of torch computes what the network does, learns as torch's do, and goes where torch's go."""

import copy
from pathlib import Path

import pytest
import torch
from problems import images, relative_error
from torch import Tensor, nn

from metalearn_cli.algorithms.losses import running_average
from metalearn_cli.errors import UserError
from metalearn_cli.nets.as_module import NetModule
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.capabilities import as_module
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.resnet12 import ResNet12
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Spec

SPEC = images()[0]


class Own(nn.Module):
    """A user's module with a constant buffer, batch norm and dropout."""

    def __init__(self, spec: Spec, track: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=4)
        self.norm = nn.BatchNorm2d(3, eps=1e-3, track_running_stats=track)
        self.register_buffer("shift", torch.full((3, 1, 1), 0.5))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(48, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu() + self.shift).flatten(1))


OURS: list[Net] = [
    Conv4(SPEC, filters=3),
    Conv4(SPEC, filters=3, gamma=False, spatial_mean=True),
    MLP(SPEC, hidden=(6, 5), batch_norm=True),
    Linear(SPEC, bias=True),
    ResNet12(SPEC, widths=(2, 3, 4, 5)),
]
OWN = module_net(Own, SPEC, {})
NETS = pytest.mark.parametrize("net", [*OURS, OWN], ids=lambda net: type(net).__name__)


def learned(net: Net, has_head: bool = True) -> tuple[Params, Params]:
    """Float64 parameters and statistics that are off their special values."""
    rng = generator(0)

    def moved(values: Params) -> Params:
        return {name: value.double() + 0.1 * torch.rand(value.shape, generator=rng) for name, value in values.items()}

    params = moved(net.init(rng))
    return {name: params[name] for name in params if has_head or not name.startswith("head.")}, moved(net.init_stats())


def x(number: int = 6) -> Tensor:
    return torch.rand(number, *SPEC.input_shape, generator=generator(1), dtype=torch.float64)


@NETS
def test_in_eval_it_is_the_network_under_its_running_statistics(net: Net) -> None:
    params, stats = learned(net)
    module = as_module(net, params, stats).eval()
    torch.testing.assert_close(module(x()), net(params, x()[None], Call(stats=stats))[0][0])
    torch.testing.assert_close(module(x()[:1]), module(x())[:1])  # an example's outputs are its own
    assert not any(
        value.data_ptr() == params[name].data_ptr() for name, value in module.named_parameters() if name in params
    )


@NETS
def test_without_parameters_of_its_head_it_gives_features(net: Net) -> None:
    params, stats = learned(net, has_head=False)
    module = as_module(net, params, stats).eval()
    torch.testing.assert_close(module(x()), net.features(params, x()[None], Call(stats=stats))[0][0])
    assert not any("head" in name for name, _ in module.named_parameters())


@pytest.mark.parametrize("net", OURS, ids=lambda net: type(net).__name__)
def test_in_training_it_has_the_gradient_and_the_statistics_of_the_batch(net: Net) -> None:
    params, stats = learned(net)
    module = as_module(net, params, stats).train()
    assert module.state_dict().keys() == params.keys() | stats.keys()
    module(x()).square().sum().backward()
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    out, used = net(leaves, x()[None])
    slopes = torch.autograd.grad(out.square().sum(), list(leaves.values()))
    gradient = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    assert relative_error(gradient, dict(zip(leaves, slopes, strict=True))) < 1e-12
    torch.testing.assert_close(dict(module.named_buffers()), running_average(stats, used))


def test_what_a_network_drops_is_dropped_in_training_only() -> None:
    net = ResNet12(SPEC, widths=(2, 3, 4, 5), dropout=0.5)
    module = as_module(net, *learned(net))
    torch.manual_seed(0)
    first, second = module(x()), module(x())
    torch.manual_seed(0)
    module.load_state_dict(as_module(net, *learned(net)).state_dict())
    assert torch.equal(first, module(x()))  # by torch's generator
    assert not torch.allclose(first, second)
    assert torch.equal(module.eval()(x()), module(x()))


@NETS
def test_it_goes_where_modules_of_torch_go(net: Net, tmp_path: Path) -> None:
    module, other = as_module(net, *learned(net)).eval(), as_module(net, net.init(generator(5)), net.init_stats())
    expected = module(x())
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other.double().load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for same in (copy.deepcopy(module), other.eval()):
        assert torch.equal(same(x()), expected)


@pytest.mark.parametrize("net", [OURS[0], OWN], ids=lambda net: type(net).__name__)
def test_torch_exports_it_for_batches_of_any_size(net: Net) -> None:
    module = as_module(net, *learned(net)).eval()
    exported = torch.export.export(module, (x(),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    torch.testing.assert_close(exported.module()(x(9)), module(x(9)))


def test_a_users_module_is_an_object_of_its_own_class() -> None:
    module = as_module(OWN, *learned(OWN))
    assert type(module) is Own
    assert {"norm.running_mean", "shift", "head.weight"} <= module.state_dict().keys()
    assert isinstance(as_module(OURS[0], *learned(OURS[0])), NetModule)


def test_a_users_batch_norm_without_statistics_is_refused() -> None:
    net = module_net(Own, SPEC, {"track": False})
    with pytest.raises(UserError, match=r"^Own\.norm keeps no statistics: take out its track_running_stats=False$"):
        as_module(net, *learned(net))
