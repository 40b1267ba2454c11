"""The task-batched layers and networks against torch's own layers, one task at a time, in float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import torch_cell
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.conv4 import Conv4, Downsample, Init
from metalearn_cli.nets.layers import EPSILON, fold, init_lstm, lstm_cell, unfold
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical, SquaredError

IMAGES = Spec((2, 19, 16), 3, 3, Categorical())
POINTS = Spec((2,), 3, 3, SquaredError())
NETS = [
    Conv4(IMAGES, filters=5),
    Conv4(IMAGES, filters=5, gamma=False, head_std=0.01),
    Conv4(IMAGES, filters=5, downsample=Downsample.stride, spatial_mean=True),
    Conv4(IMAGES._replace(input_shape=(1, 16, 16)), filters=1),
    Conv4(IMAGES, widths=(2, 3, 5, 4), slope=0.2, bias=True),
    *(Conv4(IMAGES, filters=2, halvings=2, downsample=way) for way in Downsample),
    Conv4(IMAGES, widths=(4, 2, 3, 2), downsample=Downsample.pool_first, bias=True, init_weights=Init.xavier),
    MLP(POINTS),
    MLP(POINTS, hidden=(7, 5), activation=Activation.tanh, init_std=0.5),
    MLP(POINTS, hidden=(7,), activation=Activation.sigmoid),
    MLP(IMAGES, hidden=(6,), batch_norm=True),
    Linear(IMAGES),
    Linear(POINTS, bias=True),
]


def reference(net: Net, params: Params, x: Tensor, stats: Params | None) -> Tensor:
    """One task, x [B, *input], by torch's own layers."""

    def normalise(x: Tensor, name: str) -> Tensor:
        gamma = params.get(f"{name}.weight", torch.ones_like(params[f"{name}.bias"]))
        mean, var = (stats[f"{name}.mean"], stats[f"{name}.var"]) if stats else (None, None)
        return F.batch_norm(x, mean, var, gamma, params[f"{name}.bias"], stats is None, eps=EPSILON)

    if isinstance(net, Conv4):
        for number, block in enumerate(("block1", "block2", "block3", "block4")):
            way, bias = net.downsample if number < net.halvings else None, params.get(f"{block}.conv.bias")
            stride = 2 if way is Downsample.stride else 1
            x = F.conv2d(x, params[f"{block}.conv.weight"], bias, stride, padding=1)
            x = F.max_pool2d(x, 2) if way is Downsample.pool_first else x
            x = F.leaky_relu(normalise(x, f"{block}.norm"), net.slope)
            x = F.max_pool2d(x, 2) if way is Downsample.max_pool else x
        x = x.mean((2, 3)) if net.spatial_mean else x.flatten(1)
    elif isinstance(net, MLP):
        x = x.flatten(1)
        for layer in range(1, len(net.hidden) + 1):
            x = F.linear(x, params[f"layer{layer}.weight"], params.get(f"layer{layer}.bias"))
            x = normalise(x, f"norm{layer}") if net.batch_norm else x
            x = {"relu": F.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[net.activation.name](x)
    else:
        x = x.flatten(1)
    return F.linear(x, params["head.weight"], params.get("head.bias"))


def problem(net: Net, tasks: int, batch: int, per_task: bool) -> tuple[Params, Tensor]:
    rng = torch.Generator().manual_seed(0)
    lead = (tasks,) if per_task else ()
    params = {
        name: (value + 0.3 * torch.randn(*lead, *value.shape, generator=rng)).double().requires_grad_()
        for name, value in net.init(rng).items()
    }
    return params, torch.randn(tasks, batch, *net.spec.input_shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("per_task", [True, False])
@pytest.mark.parametrize("has_stats", [True, False], ids=["given stats", "batch stats"])
def test_all_tasks_at_once_equal_torchs_layers_one_by_one(
    net: Net, tasks: int, batch: int, per_task: bool, has_stats: bool
) -> None:
    """Values, gradients and gradients of gradients."""
    if batch == 1 and not has_stats and isinstance(net, MLP) and net.batch_norm:
        pytest.skip("torch refuses to normalise a single value")
    params, x = problem(net, tasks, batch, per_task)
    if batch == 1 and not has_stats and isinstance(net, Conv4):
        x = torch.cat([x, x + 1], 1)  # torch refuses to normalise a single pixel; the last stride-2 image is 1x1
    rng = torch.Generator().manual_seed(1)
    stats = {name: value + torch.rand(value.shape, generator=rng).double() for name, value in net.init_stats().items()}
    out, used = net(params, x, Call(stats if has_stats else None))
    expected = torch.stack(
        [
            reference(net, {k: v[t] if per_task else v for k, v in params.items()}, x[t], stats if has_stats else None)
            for t in range(tasks)
        ]
    )
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert used.keys() == stats.keys()

    def slopes(out: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(out.square().mean(), list(params.values()), create_graph=True)
        size = sum((slope.square().sum() for slope in first), torch.zeros(()))
        return [*first, *torch.autograd.grad(size, list(params.values()), allow_unused=True, materialize_grads=True)]

    for ours, torchs in zip(slopes(out), slopes(expected), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("net", [net for net in NETS if net.init_stats()])
def test_statistics_that_are_used_again_give_the_same_outputs(net: Net) -> None:
    params, x = problem(net, 3, 4, True)
    out, used = net(params, x)
    again, same = net(params, x, Call(used))
    torch.testing.assert_close(out, again)
    assert all(torch.equal(used[name], same[name]) for name in used)
    assert all(value.shape == (3, *net.init_stats()[name].shape) for name, value in used.items())


def test_fold_keeps_channels_last_memory_also_for_one_channel() -> None:
    """In another layout the whole network would run at half the speed."""
    x = torch.rand(1, 4, 1, 6, 6)
    folded = fold(x)
    assert folded.stride() == (36, 1, 6, 1)
    assert torch.equal(unfold(folded, 1), x)
    x = torch.rand(3, 4, 2, 6, 5)
    assert fold(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold(fold(x), 3), x)


def test_initialisation_is_the_keys_alone_and_has_the_stated_spread() -> None:
    net = MLP(POINTS, hidden=(400, 400), init_std=0.01)
    first, again = (net.init(torch.Generator().manual_seed(4)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    weight = first["layer2.weight"]
    assert weight.abs().max() <= 0.02
    assert 0.0085 < weight.std() < 0.009  # 0.88 of 0.01: the normal distribution cut at two standard deviations
    assert not first["layer2.bias"].any()
    default = MLP(POINTS, hidden=(400, 400)).init(torch.Generator().manual_seed(4))
    assert default["layer2.weight"].abs().max() <= 1 / 20
    assert default["layer2.weight"].std() == pytest.approx(1 / 20 / 3**0.5, rel=0.02)


def test_an_lstm_starts_uniform_within_one_over_the_root_of_its_size() -> None:
    params = init_lstm("cell", 30, 100, torch.Generator().manual_seed(0))
    assert {name: value.shape for name, value in params.items()} == {
        "cell.weight_ih": (400, 30),
        "cell.weight_hh": (400, 100),
        "cell.bias": (400,),
    }
    values = torch.cat([value.flatten() for value in params.values()])
    assert 0.0999 < values.abs().max() <= 0.1
    assert values.mean().abs() < 1e-3
    assert values.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_the_two_ways_to_start_conv4_have_their_bounds() -> None:
    """torch: 1/sqrt(inputs); xavier: sqrt(6/(inputs + outputs)), zero biases."""
    spec = Spec((1, 28, 28), 5, 5, Categorical())
    rng = torch.Generator().manual_seed(0)
    for way in Init:
        params = Conv4(spec, filters=32, init_weights=way).init(rng)
        for name, inputs, outputs in (("block2.conv", 288, 288), ("head", 32, 5)):
            bound = (1 / inputs if way is Init.torch else 6 / (inputs + outputs)) ** 0.5
            weight = params[f"{name}.weight"].abs()
            assert 0.95 * bound < weight.max() <= bound * (1 + 1e-6)
            assert weight.mean() == pytest.approx(bound / 2, rel=0.1)
        assert (params["head.bias"] == 0).all() == (way is Init.xavier)
    normal = Conv4(spec, filters=32, init_weights=Init.xavier, head_std=0.01).init(rng)["head.weight"]
    assert normal.abs().max() <= 0.02


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical())), 112_832),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), bias=True), 113_088),
        (Conv4(Spec((1, 28, 28), 5, 5, Categorical())), 111_680),
        (Conv4(Spec((1, 28, 28), 5, 5, Categorical()), bias=True), 111_936),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), filters=32, bias=True), 28_896),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), filters=128, bias=True), 447_360),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), filters=512, bias=True), 7_097_856),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), widths=(64, 64, 64, 512), bias=True), 372_480),
        (Conv4(Spec((3, 84, 84), 5, 5, Categorical()), widths=(64, 96, 128, 256), bias=True), 464_160),
    ],
)
def test_the_sizes_of_conv4_are_those_that_papers_name(net: Conv4, parameters: int) -> None:
    assert sum(shape.numel() for name, shape in net.shapes.items() if "head" not in name) == parameters
    side = net.spec.input_shape[1] // 16
    assert net.feature_count == list(net.block_filters.values())[-1] * side**2


def test_conv4_refuses_what_is_not_an_image_or_too_small() -> None:
    with pytest.raises(UserError, match="model=mlp"):
        Conv4(POINTS)
    with pytest.raises(UserError, match="15x20"):
        Conv4(Spec((1, 15, 20), 2, 2, Categorical()))
    with pytest.raises(UserError, match=r"model.halvings=5 must be at most 4"):
        Conv4(IMAGES, halvings=5)


@pytest.mark.parametrize("lead", [(4,), (3, 5)])
def test_the_lstm_cell_is_torchs(lead: tuple[int, ...]) -> None:
    """Several steps: values, and gradients in the parameters and the inputs."""
    rng = torch.Generator().manual_seed(0)
    params = {name: value.double().requires_grad_() for name, value in init_lstm("cell", 3, 6, rng).items()}
    cell = torch_cell(params, "cell")
    xs = torch.randn(4, *lead, 3, generator=rng, dtype=torch.float64).requires_grad_()
    state = torch_state = (torch.randn(2, *lead, 6, generator=rng, dtype=torch.float64)).unbind()
    for x in xs:
        state = lstm_cell(params, "cell", x, state)
        flat = cell(x.flatten(0, -2), tuple(value.flatten(0, -2) for value in torch_state))
        torch_state = tuple(value.view(*lead, 6) for value in flat)
    sums = []
    for ours, torchs in zip(state, torch_state, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-12)
        sums.append([ours.square().sum(), torchs.square().sum()])
    leaves = [xs, *params.values()]
    ours, torchs = (torch.autograd.grad(a + b, leaves) for a, b in zip(*sums, strict=True))
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
