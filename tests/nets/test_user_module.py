"""A user's own nn.Module, all tasks at once, against the same module run task by task with torch's own layers."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import BY_FAMILY, expect_definition, images, init, relative_error
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Noise, Params, Pass
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.user_module import ModuleNet, module_net
from metalearn_cli.seeding import uniform
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical

IMAGES, BATCH = images()


class Blocks(nn.Module):
    """Conv4, as a user would write it: with torch's batch norm, which `track=False` makes a function of its batch."""

    def __init__(self, spec: Spec, filters: int = 3, blocks: int = 2, track: bool = True, bias: bool = True) -> None:
        super().__init__()
        channels, height, width = spec.input_shape
        for block in range(1, blocks + 1):
            layers = nn.Module()
            layers.conv = nn.Conv2d(channels, filters, 3, padding=1, bias=bias)
            layers.norm = nn.BatchNorm2d(filters, track_running_stats=track)
            self.add_module(f"block{block}", layers)
            channels = filters
        self.blocks = blocks
        self.head = nn.Linear(filters * (height >> blocks) * (width >> blocks), spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        for block in range(1, self.blocks + 1):
            layers = self.get_submodule(f"block{block}")
            x = nn.functional.max_pool2d(layers.norm(layers.conv(x)).relu(), 2)
        return self.head(x.flatten(1))


class Small(nn.Module):
    """A linear layer on flattened images, a body and a head."""

    def __init__(self, spec: Spec, body: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(spec.input_shape[-1] ** 2, 8)
        self.body = body
        self.head = head or nn.Linear(8, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.first(x.flatten(1))).flatten(1))


def small(body: Callable[[], nn.Module], head: Callable[[], nn.Module] | None = None) -> ModuleNet:
    """The layers are made inside the constructor, where the module's weights are drawn."""

    class Made(Small):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec, body(), head() if head else None)

    return module_net(Made, IMAGES, {})


def reference(net: ModuleNet) -> nn.Module:
    """The user's module itself, in training mode, for functional_call."""
    return net.maker(spec=net.spec, **net.arguments | {"track": False}).double()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_maml_equals_the_users_module_run_task_by_task(steps: int, first_order: bool) -> None:
    net = module_net(Blocks, IMAGES, {"filters": 3})
    meta = init(MAML(), net)
    algorithm = MAML(inner_lr=0.1, inner_steps=steps, first_order=first_order)
    module, cross_entropy = reference(net), nn.functional.cross_entropy

    def loss_of(params: Params, task: Batch) -> Tensor:
        phi = params
        for _ in range(steps):
            loss = cross_entropy(functional_call(module, phi, (task.support_x[0],)), task.support_y[0])
            slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            slopes = tuple(slope.detach() for slope in slopes) if first_order else slopes
            phi = {name: value - 0.1 * slope for (name, value), slope in zip(phi.items(), slopes, strict=True)}
        return cross_entropy(functional_call(module, phi, (task.query_x[0],)), task.query_y[0])

    expect_definition(algorithm, net, meta, BATCH, loss_of)


@pytest.mark.parametrize("algorithm", BY_FAMILY)
def test_conv4_and_the_same_network_as_a_module_give_the_same_meta_gradient(algorithm: Algorithm) -> None:
    built_in = Conv4(IMAGES, filters=3)
    net = module_net(Blocks, IMAGES, {"filters": 3, "blocks": 4, "bias": False})
    meta = init(algorithm, built_in)
    assert net.init(torch.Generator()).keys() == built_in.init(torch.Generator()).keys()
    update, expected = (algorithm.meta_gradient(which, meta, BATCH, 0) for which in (net, built_in))
    assert relative_error(update.gradient, expected.gradient) < 1e-10
    torch.testing.assert_close(update.loss, expected.loss, rtol=1e-10, atol=0)
    assert update.buffers.keys() == expected.buffers.keys() >= net.init_stats().keys()
    for name, value in expected.buffers.items():
        torch.testing.assert_close(update.buffers[name], value, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        for mode in BatchNorm:
            outs = []
            for which in (net, built_in):
                *_, predict = algorithm.adapt(which, meta, BATCH.support, algorithm.test_steps)
                outs.append(predict(BATCH.query_x, mode))
            torch.testing.assert_close(outs[0], outs[1], rtol=1e-9, atol=1e-9)


class Definition(nn.Module):
    """Batch norm as its paper has it; torch's own is wrong at the third derivative (2.13)."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps

    def forward(self, x: Tensor) -> Tensor:
        moved = x.transpose(1, -1)
        rest = list(range(x.dim() - 1))
        mean = moved.mean(rest)
        out = (moved - mean) / ((moved - mean).square().mean(rest) + self.eps).sqrt()
        return (out if self.weight is None else out * self.weight + self.bias).transpose(1, -1)


@pytest.mark.parametrize(
    ("orders", "body"),
    [
        (3, lambda: nn.Tanh()),
        (3, lambda: nn.ReLU(inplace=True)),
        (3, lambda: nn.BatchNorm1d(8)),
        (3, lambda: WithBuffer(torch.ones)),
        (3, lambda: nn.BatchNorm1d(8, affine=False, eps=0.1)),
        (3, lambda: nn.Sequential(nn.GroupNorm(2, 8), nn.GELU(), nn.Dropout(0.0))),
        (
            3,
            lambda: nn.Sequential(
                nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 4, 3, 1, 1), nn.BatchNorm1d(4), nn.MaxPool1d(2)
            ),
        ),
        (3, lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 8, 2), nn.BatchNorm2d(8), nn.ReLU())),
        (3, lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2, 1)), nn.Conv3d(2, 8, (2, 2, 1)), nn.BatchNorm3d(8))),
        (3, lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.MaxPool2d(2), nn.ConvTranspose2d(2, 2, 2))),
        (2, lambda: nn.LayerNorm(8)),  # torch's own third derivative is wrong
        (2, lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.InstanceNorm2d(2, affine=True))),  # here too
        (2, lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True))),
    ],
)
@pytest.mark.parametrize("per_task", [True, False])
def test_derivatives_equal_those_of_each_task_alone(orders: int, body: Callable[[], nn.Module], per_task: bool) -> None:
    net = small(body)
    module = net.maker(IMAGES).double()
    for path, layer in list(module.named_modules()):
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, Definition(layer))
    rng = torch.Generator().manual_seed(0)
    x = BATCH.query_x
    lead = (len(x),) if per_task else ()
    params = {
        name: (value + 0.1 * torch.randn(*lead, *value.shape, generator=rng)).double().requires_grad_()
        for name, value in net.init(rng).items()
    }
    weights = torch.randn(*x.shape[:2], IMAGES.outputs, generator=rng, dtype=torch.float64)

    def one_by_one(x: Tensor) -> Tensor:
        tasks = ({name: value[t] if per_task else value for name, value in params.items()} for t in range(len(x)))
        with sdpa_kernel(SDPBackend.MATH):
            return torch.stack([functional_call(module, task, (x[t],)) for t, task in enumerate(tasks)])

    def derivatives(out: Tensor) -> list[Tensor]:
        value, values = (out.tanh() * weights).sum(), [out]
        for order in range(orders):
            slopes = torch.autograd.grad(
                value, list(params.values()), create_graph=order + 1 < orders, allow_unused=True, materialize_grads=True
            )
            values.append(torch.cat([slope.flatten() for slope in slopes]))
            value = values[-1].sin().sum()
        return values

    for values, expected in zip(derivatives(net(params, x)[0]), derivatives(one_by_one(x)), strict=True):
        assert (values - expected).norm() <= 1e-10 * expected.norm()


def test_batch_norm_is_right_also_where_derivatives_are_taken_inside_of_vmap() -> None:
    """There torch's own layer gives a meta-gradient that is wrong by 1e-2, without an error (torch 2.13)."""
    net = module_net(Blocks, IMAGES, {"blocks": 1})
    params = init(MAML(), net).params
    module = reference(net)

    def ours(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(net(params, x[None])[0][0], y)

    def torchs(params: Params, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(module, params, (x,)), y)

    def inner(params: Params, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        slopes = grad(ours)(params, support_x, support_y)
        return ours({name: params[name] - 0.3 * slopes[name] for name in params}, query_x, query_y)

    batched = torch.autograd.grad(vmap(inner, (None, 0, 0, 0, 0))(params, *BATCH[:4]).sum(), list(params.values()))
    losses = []
    for support_x, support_y, query_x, query_y in zip(*BATCH[:4], strict=True):
        slopes = torch.autograd.grad(torchs(params, support_x, support_y), list(params.values()), create_graph=True)
        phi = {name: value - 0.3 * slope for (name, value), slope in zip(params.items(), slopes, strict=True)}
        losses.append(torchs(phi, query_x, query_y))
    expected = torch.autograd.grad(torch.stack(losses).sum(), list(params.values()))
    names = list(params)
    assert relative_error(dict(zip(names, batched, strict=True)), dict(zip(names, expected, strict=True))) < 1e-10


def test_statistics_are_each_tasks_own_and_nothing_stays_on_the_module() -> None:
    net = module_net(Blocks, IMAGES, {})
    params = init(MAML(), net).params
    before = {name: value.clone() for name, value in net._whole.state_dict().items()}
    out, used = net(params, BATCH.query_x)
    assert {name: value.shape for name, value in used.items()} == {
        name: (len(BATCH.key), *value.shape) for name, value in net.init_stats().items()
    }
    x = nn.functional.conv2d(BATCH.query_x[1], params["block1.conv.weight"], params["block1.conv.bias"], padding=1)
    torch.testing.assert_close(used["block1.norm.mean"][1], x.mean((0, 2, 3)))
    torch.testing.assert_close(used["block1.norm.var"][1], x.var((0, 2, 3), correction=0))
    again, same = net(params, BATCH.query_x, Call(used))
    torch.testing.assert_close(again, out)
    assert all(torch.equal(used[name], same[name]) for name in used)
    alone, _ = net(params, BATCH.query_x[:, :1], Call(used))
    torch.testing.assert_close(alone, out[:, :1])
    after = net._whole.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(isinstance(value, Tensor) for layer in net._whole.modules() for value in vars(layer).values())


def test_batch_norm_in_the_head_keeps_its_running_statistics_under_protonet() -> None:
    net = small(nn.Tanh, lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, IMAGES.outputs)))
    assert net.init_stats().keys() == {"head.0.mean", "head.0.var"}
    meta = init(ProtoNet(), net)._replace(buffers={name: v.double() for name, v in net.init_stats().items()})
    assert meta.params.keys() == {"first.weight", "first.bias"}
    buffers = ProtoNet().meta_gradient(net, meta, BATCH, 0).buffers
    torch.testing.assert_close(buffers, meta.buffers)


class Loaded(Blocks):
    """A module with weights and statistics of an earlier training, as if its constructor had loaded a checkpoint."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rng = torch.Generator().manual_seed(1)
        for value in (*self.parameters(), *(one for one in self.buffers() if one.is_floating_point())):
            value.data = 0.2 + torch.rand(value.shape, generator=rng)


@pytest.mark.parametrize("algorithm", BY_FAMILY)
def test_a_module_that_loads_its_weights_keeps_its_running_statistics(algorithm: Algorithm) -> None:
    net = module_net(Loaded, IMAGES, {})
    stats = {name: value.double() for name, value in algorithm.init(net, torch.Generator()).buffers.items()}
    params = {name: value.double() for name, value in net.init(torch.Generator()).items()}
    out, _ = net(params, BATCH.query_x, Call({name: stats[name] for name in net.init_stats()}))
    module = Loaded(IMAGES).double().eval()
    torch.testing.assert_close(out, torch.stack([module(x) for x in BATCH.query_x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("track", [True, False])
def test_a_module_with_fresh_statistics_starts_at_the_standard_normal_distribution(track: bool) -> None:
    for name, value in module_net(Blocks, IMAGES, {"track": track}).init_stats().items():
        assert torch.equal(value, torch.full((3,), 0.0 if name.endswith(".mean") else 1.0))


@pytest.mark.parametrize("algorithm", BY_FAMILY)
def test_a_module_may_call_its_parts_as_an_algorithm_calls_its_own(algorithm: Algorithm) -> None:
    class Named(nn.Module):
        def __init__(self, spec: Spec) -> None:
            super().__init__()
            self.rate, self.fce, self.lstm = nn.Linear(256, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.log_temperature = nn.Parameter(torch.ones(4))
            self.head = nn.Linear(4, spec.outputs)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(torch.tanh(self.fce(self.rate(x.flatten(1))))) * self.log_temperature)

    net = module_net(Named, IMAGES, {})
    meta = init(algorithm, net)
    assert torch.isfinite(algorithm.meta_gradient(net, meta, BATCH, 0).loss).all()
    with torch.no_grad():
        *_, predict = algorithm.adapt(net, meta, BATCH.support, 2)
        assert torch.isfinite(predict(BATCH.query_x, BatchNorm.transductive)).all()


def test_a_module_without_a_head_is_an_embedding() -> None:
    class Embedding(nn.Sequential):
        def __init__(self, width: int) -> None:
            super().__init__(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2))

    net = module_net(Embedding, IMAGES, {"width": 5})
    meta = init(ProtoNet(), net)
    assert net.features(meta.params, BATCH.query_x)[0].shape == (*BATCH.query_x.shape[:2], 20)
    assert ProtoNet().meta_gradient(net, meta, BATCH, 0).gradient.keys() == {"0.weight", "0.bias"}
    with pytest.raises(UserError, match=r"Embedding returns \[5, 2, 2\] per example and this task has 3 outputs: let"):
        net(meta.params, BATCH.query_x)


def test_initialisation_is_the_keys_alone_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    net = module_net(Blocks, IMAGES, {})
    first, again = (net.init(torch.Generator().manual_seed(4)) for _ in range(2))
    other = net.init(torch.Generator().manual_seed(5))
    net(first, BATCH.query_x.float())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in first.values())


def test_the_users_class_keeps_its_own_batch_norm() -> None:
    module_net(Blocks, IMAGES, {})
    assert isinstance(Blocks(IMAGES).get_submodule("block1.norm"), nn.BatchNorm2d)


class Moody(nn.Module):
    """forward is the function given."""

    def __init__(self, function: Callable[["Moody", Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.norm, self.function = nn.Linear(8, 8), nn.BatchNorm1d(8), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def tied() -> nn.Module:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    return nn.Sequential(first, second)


def twice() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, layer)


class WithBuffer(nn.Module):
    """Multiplies by a buffer, which its forward may change."""

    scale: Tensor

    def __init__(self, start: Callable[[int], Tensor], change: str = "") -> None:
        super().__init__()
        self.register_buffer("scale", 2 * start(8))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        if self.change == "in place":
            self.scale += 1
        elif self.change == "set":
            self.scale = self.scale + 1
        return x * self.scale


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (lambda: nn.InstanceNorm1d(8, track_running_stats=True), r"Made.body \(InstanceNorm1d\) keeps statistics"),
        (lambda: WithBuffer(torch.rand), r"Made.body.scale is a buffer that is drawn: make it a parameter"),
        (lambda: WithBuffer(torch.ones, "in place"), r"Made.body.scale is a buffer that its forward changes: let"),
        (lambda: WithBuffer(torch.ones, "set"), r"Made.body.scale is a buffer that its forward changes: let"),
        (lambda: nn.Sequential(nn.SyncBatchNorm(8)), r"Made.body.0 \(SyncBatchNorm\) is a batch norm .*: use nn.Batch"),
        (lambda: nn.AlphaDropout(0.5), r"Made.body \(AlphaDropout\) draws from .*: set its dropout to 0"),
        (lambda: nn.RReLU(), r"Made.body \(RReLU\) draws from"),
        (
            lambda: Moody(lambda m, x: m.norm(m.layer(x)) * random.random()),
            r"Made gives other outputs for the same exam",
        ),
        (lambda: Moody(lambda m, x: m.norm(m.layer(x)) + torch.rand(8)), r"Made.body \(Moody\) draws from"),
        (lambda: nn.MultiheadAttention(8, 2, dropout=0.1), r"\(MultiheadAttention\) draws"),
        (lambda: nn.TransformerEncoderLayer(8, 2, 8), r"Made.body.self_attn \(MultiheadAttention\) draws"),
        (lambda: nn.LSTM(8, 8), r"Made.body \(LSTM\) does not run under torch.func.vmap: write"),
        (lambda: nn.LSTMCell(8, 8), r"Made.body \(LSTMCell\) does not run"),
        (lambda: nn.LazyLinear(8), r"Made.body \(LazyLinear\) takes its size .*: write the layer with its sizes"),
        (
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)),
            r"Made.body \(ParametrizedLinear\) computes its weights .*: use the plain layer",
        ),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), r"\(ParametrizedLinear\) computes"),
        (tied, r"Made.body.1.weight is body.0.weight as well: give each layer one name and its own parameters"),
        (twice, r"Made.body.1.weight is body.0.weight as well"),
        (lambda: nn.Linear(8, 8).requires_grad_(False), r"Made.body.weight has requires_grad=False"),
        (lambda: Moody(lambda m, x: m.norm(m.norm(m.layer(x)))), r"body.norm normalises twice in one forward: give"),
        (lambda: Moody(lambda m, x: m.layer(x)), r"Made has a parameter body.norm.weight that its output does not"),
        (lambda: Moody(lambda m, x: nn.functional.dropout(m.layer(x))), r"Made.body \(Moody\) draws from"),
        (
            lambda: Moody(lambda m, x: m.layer(x)[:, :1] if x.max().item() > 0 else x),
            r"Made.body \(Moody\) fails .*\.item\(\)",
        ),
        (lambda: Moody(lambda m, x: m.missing), r"body \(Moody\) fails .* has no attribute 'mis"),
        (lambda: Moody(lambda m, x: (x, x)), r"Made fails on a batch \[2, 1, 16, 16\]"),
        (lambda: Moody(lambda m, x: m.norm(m.layer(x))[:, 1:]), r"Made.head \(Linear\) fails .*RuntimeError: mat1"),
        (lambda: Moody(lambda m, x: m.norm(m.layer(x))[:1]), r"Made makes \[1, 8\] of a batch of 2: its output must"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_a_sentence(body: Callable[[], nn.Module], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        small(body)
    assert "\n" not in str(error.value)


def test_heads_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"Made returns \[7\] per example and this task has 3 outputs: let it end in"):
        small(nn.Tanh, lambda: nn.Linear(8, 7))

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(256, 3)])
            self.head = self.layers[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x.flatten(1))

    with pytest.raises(UserError, match=r"Shared.head.weight is layers.0.weight as well: give each layer"):
        module_net(Shared, IMAGES, {})
    with pytest.raises(UserError, match="Flatten has no parameters"):
        module_net(nn.Flatten, IMAGES, {})


def test_arguments_are_checked_against_the_constructor() -> None:
    with pytest.raises(UserError, match=r"model.filter is not an argument of Blocks: did you mean model.filters\?"):
        module_net(Blocks, IMAGES, {"filter": 3})
    with pytest.raises(UserError, match=r"model.xyz is not an argument of Blocks: choose from bias, blocks, "):
        module_net(Blocks, IMAGES, {"xyz": 3})
    with pytest.raises(UserError, match=r"model.spec is not an argument"):
        module_net(Blocks, IMAGES, {"spec": 3})
    with pytest.raises(UserError, match=r"model.in_features has no value: give model.in_features=\.\.\."):
        module_net(nn.Linear, IMAGES, {"out_features": 3})

    class Open(Blocks):
        def __init__(self, spec: Spec, **others: Any) -> None:
            super().__init__(spec, **others)

    assert module_net(Open, IMAGES, {"filters": 2}).init_stats()["block1.norm.mean"].shape == (2,)


def of_library(name: str, **values: Any) -> nn.Module:
    """A layer of this name in another library, module.Class, which is known by its name and these attributes."""
    module, _, kind = name.rpartition(".")
    layer: nn.Module = type(kind, (nn.Module,), {"__module__": module, "forward": lambda self, x: 1 / 0})()
    vars(layer).update(values)
    return layer


def dropped(layer: Callable[[], nn.Module], step: int = 0, keys: tuple[int, ...] = (3, 2**62)) -> Tensor:
    """Which of 40 examples x 6 channels x 5 of ones are what after this layer, in a training."""

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = layer(), nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.unflatten(1, (6, 5)) * self.scale)

    net = module_net(Made, Spec((30,), 3, 3, Categorical()), {})
    params, x = {"scale": torch.ones(())}, torch.ones(len(keys), 40, 30)
    noise = Noise(torch.tensor(keys), Pass.query, torch.zeros(len(keys)))
    assert torch.equal(net.features(params, x)[0], x)  # a test drops nothing
    return net.features(params, x, Call(step=step, noise=noise))[0].unflatten(2, (6, 5))


@pytest.mark.parametrize(
    ("layer", "shape", "scale"),
    [
        (lambda: nn.Dropout(0.25), (6, 5), 1 / 0.75),
        (lambda: nn.Dropout(0.25, inplace=True), (6, 5), 1 / 0.75),
        (lambda: nn.Dropout1d(0.25), (6, 1), 1 / 0.75),
        (lambda: nn.Sequential(nn.Unflatten(2, (5, 1)), nn.Dropout2d(0.25), nn.Flatten(2)), (6, 1), 1 / 0.75),
        (lambda: of_library("torchvision.ops.stochastic_depth.StochasticDepth", p=0.25, mode="row"), (1, 1), 1 / 0.75),
        (lambda: of_library("timm.layers.drop.DropPath", drop_prob=0.25, scale_by_keep=True), (1, 1), 1 / 0.75),
        (lambda: of_library("timm.layers.drop.DropPath", drop_prob=0.25, scale_by_keep=False), (1, 1), 1.0),
    ],
)
def test_what_a_layer_drops_is_drawn_from_the_tasks_key(
    layer: Callable[[], nn.Module], shape: tuple[int, int], scale: float
) -> None:
    out = dropped(layer)
    kept = uniform(torch.tensor([3, 2**62]), -2, 0, Pass.query.value, 1, shape=(40, *shape)) >= 0.25
    torch.testing.assert_close(out, (scale * kept).expand_as(out))
    torch.testing.assert_close(dropped(layer, keys=(2**62,))[0], out[1])  # as a chunk or another rank computes it
    assert not torch.equal(dropped(layer, step=1), out)
    assert kept.float().mean() == pytest.approx(0.75, abs=0.12)


def test_a_whole_batch_may_be_dropped_and_all_of_it_always() -> None:
    layer = of_library("torchvision.ops.stochastic_depth.StochasticDepth", p=0.5, mode="batch")
    out = dropped(lambda: layer, keys=tuple(range(16)))
    assert sorted({tuple(task.unique().tolist()) for task in out}) == [(0.0,), (2.0,)]
    assert not dropped(lambda: nn.Dropout(1.0)).any()


def test_each_use_of_a_layer_that_drops_is_another_one() -> None:
    layer = nn.Dropout(0.5)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.drop(x))

    assert (dropped(Twice) > 0).float().mean() == pytest.approx(0.25, abs=0.05)


class Dropping(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(256, 6), nn.Dropout(0.4), nn.Linear(6, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.tanh(self.first(x.flatten(1)))))


def test_inner_steps_that_are_computed_again_drop_the_same() -> None:
    net = module_net(Dropping, IMAGES, {})
    batch = BATCH._replace(progress=torch.zeros(len(BATCH.key)).double())
    meta = init(MAML(), net)
    plain, again, test = (
        MAML(inner_lr=0.1, inner_steps=3, remat=remat).meta_gradient(net, meta, given, 0)
        for remat, given in ((False, batch), (True, batch), (False, BATCH))
    )
    assert relative_error(again.gradient, plain.gradient) < 1e-12
    assert relative_error(test.gradient, plain.gradient) > 1e-2


def test_the_meta_gradient_through_dropped_units_is_that_of_finite_differences() -> None:
    net = module_net(Dropping, IMAGES, {})
    batch = BATCH._replace(progress=torch.zeros(len(BATCH.key)).double())
    meta, algorithm = init(MAML(), net), MAML(inner_lr=0.1, inner_steps=2)
    gradient = algorithm.meta_gradient(net, meta, batch, 0).gradient
    rng = torch.Generator().manual_seed(0)
    directions = {name: torch.randn(value.shape, generator=rng).double() for name, value in meta.params.items()}

    def loss_at(step: float) -> float:
        moved = {name: (value + step * directions[name]).detach() for name, value in meta.params.items()}
        moved = {name: value.requires_grad_() for name, value in moved.items()}
        return algorithm.meta_gradient(net, meta._replace(params=moved), batch, 0).loss.mean().item()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    expected = sum((gradient[name] * directions[name]).sum().item() for name in directions)
    assert slope == pytest.approx(expected, rel=1e-6)


class Other(nn.Module):
    """As other libraries have it: the last layer is inside of what they call the head."""

    def __init__(self, outputs: int, act: bool = False) -> None:
        super().__init__()
        self.body = nn.Linear(256, 8)
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x.flatten(1))))


def other(num_classes: int = 1000) -> nn.Module:
    return Other(num_classes)


def other_text() -> str:
    return "module"


def test_a_function_may_make_the_module_and_its_last_linear_layer_is_the_head() -> None:
    net = module_net(other, IMAGES, {"num_classes": "outputs"})
    assert net.shapes.keys() == {
        *("body.weight", "body.bias", "body.head.0.weight", "body.head.0.bias"),
        *("head.weight", "head.bias"),
    }
    assert net.class_rows == {"head.weight", "head.bias"}
    assert (net.maker, net.arguments) == (other, {"num_classes": "outputs"})
    params = {name: value.double() for name, value in net.init(torch.Generator()).items()}
    features, _ = net.features(params, BATCH.query_x)
    out, _ = net(params, BATCH.query_x)
    torch.testing.assert_close(nn.functional.linear(features, params["head.weight"], params["head.bias"]), out)
    assert "head.weight" not in init(ProtoNet(), net).params
    with pytest.raises(
        UserError, match=r"other returns \[1000\] .* in torchvision and timm \+model.num_classes=outputs"
    ):
        module_net(other, IMAGES, {})
    with pytest.raises(UserError, match=r"other_text returns a str and not a torch.nn.Module"):
        module_net(other_text, IMAGES, {})


def test_timms_batch_norm_is_replaced_with_what_follows_in_it() -> None:
    class BatchNormAct2d(nn.BatchNorm2d):
        __module__ = "timm.layers.norm_act"

        def __init__(self) -> None:
            super().__init__(2)
            self.drop, self.act = nn.Identity(), nn.PReLU()

    unflatten = nn.Unflatten(1, (2, 2, 2))
    net = small(lambda: nn.Sequential(unflatten, BatchNormAct2d()))
    by_hand = small(lambda: nn.Sequential(unflatten, nn.BatchNorm2d(2), nn.PReLU()))
    params = {name: value.double() for name, value in net.init(torch.Generator()).items()}
    moved = {name.replace("body.1.act", "body.2"): value for name, value in params.items()}
    torch.testing.assert_close(net(params, BATCH.query_x), by_hand(moved, BATCH.query_x), rtol=1e-12, atol=1e-12)
