"""The deep networks against torch's own layers, one task at a time, in float64; their sizes against the papers'."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Noise, Params, Pass
from metalearn_cli.nets.conv_net import ConvNet, End
from metalearn_cli.nets.r2d2_net import R2D2Net
from metalearn_cli.nets.resnet import ResNet, Stem
from metalearn_cli.nets.resnet12 import ResNet12
from metalearn_cli.nets.wide_resnet import WideResNet
from metalearn_cli.seeding import uniform
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical

PROGRESS = 0.5
IMAGES = Spec((2, 18, 17), 3, 3, Categorical())
NETS: list[ConvNet] = [
    ResNet12(IMAGES, widths=(2, 3, 4, 3)),
    ResNet12(IMAGES, widths=(2, 3, 4, 3), end=End.flat),
    ResNet(IMAGES, widths=(2, 3, 4, 3)),
    ResNet(IMAGES, blocks=2, widths=(2, 2, 3, 4), stem=Stem.large, end=End.flat),
    WideResNet(IMAGES, depth=10, width=1),
    WideResNet(IMAGES, depth=16, width=1, bias=True, end=End.flat),
    R2D2Net(IMAGES, widths=(2, 3, 4, 3)),
    R2D2Net(IMAGES, widths=(2, 3, 4, 3), bias=True, end=End.mean),
    ResNet12(IMAGES, widths=(2, 3, 4, 3), dropout=0.2, drop_block=0.3, drop_size=1, drop_ramp=0.8),
    WideResNet(IMAGES, depth=16, width=1, dropout=0.4),
    R2D2Net(IMAGES, widths=(2, 3, 4, 3), dropout=(0.3, 0.2), activate_last=False),
]


class Plain:
    """One task by torch's own layers, x [B, C, H, W]."""

    def __init__(self, params: Params, stats: Params | None, key: Tensor | None) -> None:
        self.params, self.stats, self.key = params, stats, key

    def drop(self, x: Tensor, share: float, layer: int) -> Tensor:
        """Each number by itself; the salts are those of a query pass after two inner steps."""
        if self.key is None:
            return x
        kept = uniform(self.key, -2, 2, Pass.query.value, layer, shape=tuple(x.shape))[0] >= share
        return x * kept / (1 - share)

    def drop_pixels(self, x: Tensor, share: float, layer: int) -> Tensor:
        """DropBlock with squares of one pixel: what is left is scaled by all / left."""
        if self.key is None:
            return x
        kept = uniform(self.key, -2, 2, Pass.query.value, layer, shape=tuple(x.shape))[0] >= share
        return x * kept * (kept.numel() / kept.sum())

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.params[f"{name}.weight"]
        return F.conv2d(x, weight, self.params.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = (self.stats[f"{name}.{part}"] for part in ("mean", "var")) if self.stats else (None, None)
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]
        return F.batch_norm(x, mean, var, weight, bias, self.stats is None)

    def both(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return self.norm(f"{name}.norm", self.conv(f"{name}.conv", x, stride))

    def shortcut(self, name: str, x: Tensor, stride: int, has_norm: bool) -> Tensor:
        if f"{name}.conv.weight" not in self.params:
            return x
        return self.both(name, x, stride) if has_norm else self.conv(f"{name}.conv", x, stride)

    def resnet12(self, net: ResNet12, x: Tensor) -> Tensor:
        for number, block in enumerate(("block1", "block2", "block3", "block4"), 1):
            y = F.leaky_relu(self.both(f"{block}.1", x), 0.1)
            y = F.leaky_relu(self.both(f"{block}.2", y), 0.1)
            y = self.both(f"{block}.3", y) + self.both(f"{block}.shortcut", x)
            x = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
            grown = net.drop_block * PROGRESS / net.drop_ramp
            x = self.drop(x, net.dropout, number) if number < 3 else self.drop_pixels(x, grown, number)
        return x

    def resnet(self, net: ResNet, x: Tensor) -> Tensor:
        is_large = net.stem is Stem.large
        x = F.relu(self.both("stem", x, 1 + is_large))
        x = F.max_pool2d(x, 3, 2, 1) if is_large else x
        for stage in (1, 2, 3, 4):
            for number in range(1, net.blocks + 1):
                name, stride = f"stage{stage}.{number}", 2 if stage > 1 and number == 1 else 1
                y = self.both(f"{name}.2", F.relu(self.both(f"{name}.1", x, stride)))
                x = F.relu(y + self.shortcut(f"{name}.shortcut", x, stride, has_norm=True))
        return x

    def wide_resnet(self, net: WideResNet, x: Tensor) -> Tensor:
        x, layer = self.conv("stem.conv", x), 0
        for stage in (1, 2, 3):
            for number in range(1, (net.depth - 4) // 6 + 1):
                name, stride = f"stage{stage}.{number}", 2 if stage > 1 and number == 1 else 1
                y = self.drop(self.conv(f"{name}.1.conv", F.relu(self.norm(f"{name}.1.norm", x))), net.dropout, layer)
                layer += 1
                y = self.conv(f"{name}.2.conv", F.relu(self.norm(f"{name}.2.norm", y)), stride)
                x = y + self.shortcut(f"{name}.shortcut", x, stride, has_norm=False)
        return F.relu(self.norm("end.norm", x))

    def r2d2(self, net: R2D2Net, x: Tensor) -> Tensor:
        for block in ("block1", "block2", "block3"):
            x = F.leaky_relu(F.max_pool2d(self.both(block, x), 2), 0.1)
        x = self.drop(x, net.dropout[0], 3)
        fourth = F.leaky_relu(F.max_pool2d(self.both("block4", x), 2, 1), 0.1 if net.activate_last else 1.0)
        return torch.cat([F.max_pool2d(x, 2, 1), self.drop(fourth, net.dropout[1], 4)], 1)

    def outputs(self, net: ConvNet, x: Tensor) -> Tensor:
        match net:
            case ResNet12():
                y = self.resnet12(net, x)
            case ResNet():
                y = self.resnet(net, x)
            case WideResNet():
                y = self.wide_resnet(net, x)
            case R2D2Net():
                y = self.r2d2(net, x)
        assert y.shape[1:] == net.map_shape
        features = y.mean((2, 3)) if net.end is End.mean else y.flatten(1)
        return F.linear(features, self.params["head.weight"], self.params["head.bias"])


def problem(net: ConvNet, tasks: int, per_task: bool) -> tuple[Params, Tensor]:
    rng = torch.Generator().manual_seed(0)
    lead = (tasks,) if per_task else ()
    params = {
        name: (value + 0.3 * torch.randn(*lead, *value.shape, generator=rng)).double().requires_grad_()
        for name, value in net.init(rng).items()
    }
    return params, torch.randn(tasks, 4, *net.spec.input_shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
@pytest.mark.parametrize(("per_task", "given"), [(True, False), (False, True), (True, True)])
def test_all_tasks_at_once_equal_torchs_layers_one_by_one(net: ConvNet, per_task: bool, given: bool) -> None:
    """Values, gradients and gradients of gradients; without statistics that are given also what training drops."""
    params, x = problem(net, 2, per_task)
    rng = torch.Generator().manual_seed(1)
    stats = {name: value + torch.rand(value.shape, generator=rng).double() for name, value in net.init_stats().items()}
    keys = torch.tensor([4, 2**61])
    noise = None if given else Noise(keys, Pass.query, torch.tensor([PROGRESS, PROGRESS], dtype=torch.float64))
    out, used = net(params, x, Call(stats if given else None, step=2, noise=noise))
    assert used.keys() == stats.keys()
    tasks = [{name: value[t] if per_task else value for name, value in params.items()} for t in (0, 1)]
    plain = [Plain(tasks[t], stats if given else None, None if given else keys[t : t + 1]) for t in (0, 1)]
    expected = torch.stack([task.outputs(net, x[t]) for t, task in enumerate(plain)])
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)

    def slopes(out: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(out.square().mean(), list(params.values()), create_graph=True)
        size = torch.stack([slope.square().sum() for slope in first]).sum()
        return [*first, *torch.autograd.grad(size, list(params.values()), allow_unused=True, materialize_grads=True)]

    for slope, by_torch in zip(slopes(out), slopes(expected), strict=True):
        assert (slope - by_torch).norm() <= 1e-8 * by_torch.norm() + 1e-9


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_examples_that_are_not_real_change_nothing(net: ConvNet) -> None:
    params, x = problem(net, 2, per_task=True)
    mask = torch.tensor([[True, True, False, True]] * 2)
    out, _ = net(params, x, Call(mask=mask))
    alone, _ = net(params, x[:, [0, 1, 3]])
    torch.testing.assert_close(out[:, [0, 1, 3]], alone, rtol=1e-10, atol=1e-10)


LARGE, SMALL, CIFAR = (Spec((3, side, side), 5, 5, Categorical()) for side in (224, 84, 32))


@pytest.mark.parametrize(
    ("net", "parameters", "features"),
    [
        (ResNet12(SMALL), 12_424_320, 640),
        (ResNet12(SMALL, end=End.flat), 12_424_320, 16_000),
        (ResNet12(CIFAR, end=End.flat), 12_424_320, 2_560),
        (ResNet12(SMALL, widths=(64, 128, 256, 512)), 7_996_800, 512),
        (ResNet(LARGE, stem=Stem.large), 4_905_792, 512),
        (ResNet(LARGE, blocks=2, stem=Stem.large), 11_176_512, 512),
        (ResNet(SMALL), 4_898_112, 512),
        (ResNet(SMALL, blocks=2), 11_168_832, 512),
        (WideResNet(SMALL, bias=True), 36_482_880, 640),
        (WideResNet(SMALL), 36_472_784, 640),
        (R2D2Net(SMALL, bias=True), 2_605_056, 72_576),
        (R2D2Net(CIFAR, bias=True), 2_605_056, 8_064),
    ],
)
def test_the_numbers_of_parameters_and_features_are_the_papers(net: ConvNet, parameters: int, features: int) -> None:
    with torch.device("meta"):
        params = {name: value for name, value in net.init(torch.Generator()).items() if "head" not in name}
    assert sum(value.numel() for value in params.values()) == parameters
    assert net.feature_count == features


def test_what_does_not_fit_is_said() -> None:
    for error, make in {
        "model=resnet12 needs images of 16x16 or more, and this task's are 12x9": lambda: ResNet12(
            Spec((1, 12, 9), 5, 5, Categorical())
        ),
        "model=wrn28_10 needs images, and this task's examples": lambda: WideResNet(Spec((2,), 5, 5, Categorical())),
        "model.depth=29 must be 6 n": lambda: WideResNet(CIFAR, depth=29),
    }.items():
        with pytest.raises(UserError, match=error):
            make()
