"""Small problems in float64 that the tests share, and what a meta-gradient is held against."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Update
from metalearn_cli.algorithms.losses import mean_gradient
from metalearn_cli.config.conf_folder import conf_dir, list_choices
from metalearn_cli.config.schema import ConfigSource, build
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.curves import Points
from metalearn_cli.tasks.episodes import Episodes
from metalearn_cli.tasks.likelihood import Categorical, Gaussian, SquaredError

DOUBLE = Execution(dtype=torch.float64)

# Settings under which all that an algorithm has is used.
SETTINGS: dict[str, dict[str, Any]] = {
    "imaml": {"inner_steps": 2, "test_steps": 2, "solver_steps": 2},
    "maml": {"inner_lr": 0.1, "inner_steps": 2, "test_steps": 2},
    "maml_plus_plus": {"inner_steps": 2, "test_steps": 2},
    "meta_curvature": {"inner_lr": 0.1, "inner_steps": 2, "test_steps": 2},
    "meta_sgd": {"test_steps": 2},
    "proto_maml": {"inner_lr": 0.1, "inner_steps": 2, "test_steps": 2},
    "meta_lstm": {"inner_steps": 2, "test_steps": 2},
    "matching": {"fce": True, "reads": 2, "learn_temperature": True, "test_steps": 2, "fine_tune_lr": 0.1},
    "knn": {"k": 3},
    "logistic": {"copies": 2, "augment": ["crop", "jitter"]},
    "metaoptnet": {"label_smoothing": 0.1},
    "pmf": {"tuning_steps": 2},
    "leo": {"latents": 4, "latent_steps": 1, "tuning_steps": 1, "latent_lr": 0.1, "tuning_lr": 0.1},
    "snail": {"width": 2, "layers": 2},
    "deep_emd": {"blur": 0.2, "iterations": 20},
    "tim": {"iterations": 2},
    "tpn": {"neighbours": 4},
    "r2d2": {"learn_penalty": True},
    "reptile": {"inner_steps": 3, "inner_batch": 4, "test_steps": 2},
    "learned_optimizer": {"hidden": [4], "preprocess": "log_sign", "scale": 0.1, "batch_size": 4, "unroll": 2}
    | {"horizon": 6, "test_steps": 3},
    "hand_optimizer": {"rates": [0.001, 0.01, 1e9], "batch_size": 4, "horizon": 4, "test_steps": 3},
}


def made(algo: str) -> Algorithm:
    """The algorithm of this yaml, with its settings for the tests."""
    node = OmegaConf.load(conf_dir() / "algo" / f"{algo}.yaml")
    group = {**node.get("algo", node), **SETTINGS.get(algo, {})}
    algorithm: Algorithm = build(group, "algo", Algorithm, ConfigSource())
    return algorithm


# Those that compare images of features, of which only convolutional networks have some.
MAPS = ("deep_emd", "relation")
ON_MAPS = [made(algo) for algo in MAPS]
# Those that predict distributions of values from the support set as a whole.
OF_SETS = ("cnp", "np", "anp", "pfn", "tnp", "in_context")
# Every other algorithm for tasks of classes and any network; the others train on images of all classes at once, or need
# a network with inputs that a task sets.
ALGORITHMS = [
    made(algo) for algo in list_choices("algo") if algo not in ("cavia", "pretrain", "fine_tune", *MAPS, *OF_SETS)
]
# One of each family and of each way to a meta-gradient. What asks more of all algorithms than a step takes these in the
# gate, and the others in the nightly.
OF_EACH_FAMILY = ("MAML", "MAMLPlusPlus", "IMAML", "Reptile", "MetaLSTM", "LearnedOptimizer", "ProtoNet", "Matching")
OF_EACH_FAMILY += ("Ridge", "TPN", "SoftKMeans")
BY_FAMILY = [
    pytest.param(algorithm, marks=[] if type(algorithm).__name__ in OF_EACH_FAMILY else pytest.mark.nightly)
    for algorithm in ALGORITHMS
]
# Those that compare embeddings, or solve a head for them: for classes alone, and in any way.
EMBEDDING = ("feat", "knn", "laplacian_shot", "leo", "logistic", "lr_d2", "matching", "metaoptnet", "pmf", "protonet")
EMBEDDING += ("proto_maml", "r2d2", "ridge", "soft_kmeans", "tim", "tpn", *MAPS)
ON_EMBEDDINGS = tuple(type(made(algo)) for algo in EMBEDDING)


def image_task(cls: Any, **keys: Any) -> Any:
    """A task of images with these keys, which yaml has on one level."""
    sizes = {name: keys.pop(name) for name in list(keys) if name in Episodes.__dataclass_fields__}
    return cls(replace(cls.episodes, **sizes), **keys)


def points_task(cls: Any, **keys: Any) -> Any:
    """A family of curves with these keys, which yaml has on one level."""
    sizes = {name: keys.pop(name) for name in list(keys) if name in Points.__dataclass_fields__}
    return cls(replace(cls.points, **sizes), **keys)


def images(
    tasks: int = 3, way: int = 3, shot: int = 2, query: int = 2, size: int = 16, seed: int = 0
) -> tuple[Spec, Batch]:
    """Random grey pixels with labels in random order."""
    rng = torch.Generator().manual_seed(seed)

    def part(count: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(tasks, way * count, 1, size, size, generator=rng, dtype=torch.float64)
        y = torch.rand(tasks, way * count, generator=rng).argsort(1) % way
        return x, y

    batch = Batch(*part(shot), *part(query), torch.arange(tasks))
    unlabelled = torch.rand(tasks, 4, 1, size, size, generator=rng, dtype=torch.float64)
    return Spec((1, size, size), way, way, Categorical()), batch._replace(unlabelled_x=unlabelled)


def points(tasks: int = 3, shot: int = 5, query: int = 4, seed: int = 0) -> tuple[Spec, Batch]:
    """Sinusoid-like regression."""
    rng = torch.Generator().manual_seed(seed)
    amplitude = 1 + torch.rand(tasks, 1, 1, generator=rng, dtype=torch.float64)
    support_x = torch.randn(tasks, shot, 1, generator=rng, dtype=torch.float64)
    query_x = torch.randn(tasks, query, 1, generator=rng, dtype=torch.float64)
    batch = Batch(support_x, amplitude * support_x.sin(), query_x, amplitude * query_x.sin(), torch.arange(tasks))
    return Spec((1,), 1, 1, SquaredError()), batch


def gaussian_points() -> tuple[Spec, Batch]:
    """The same with a normal distribution of each value."""
    spec, batch = points()
    return spec._replace(outputs=2, train_outputs=2, likelihood=Gaussian()), batch


def with_padding(batch: Batch) -> Batch:
    """The same tasks with a support and a query point of nonsense."""
    parts = {
        name: torch.cat([value, torch.full_like(value[:, :1], 7.0)], 1)
        for name, value in batch.tensors().items()
        if name != "key"
    }
    for part in ("support", "query"):
        real = torch.ones(parts[f"{part}_x"].shape[:2], dtype=torch.bool)
        real[:, -1] = False
        parts[f"{part}_mask"] = real
    return batch._replace(**parts)


def cases() -> list[tuple[Net, Batch]]:
    """Networks with what they learn from. Smooth activations first: a difference across a kink is not a derivative."""
    (image_spec, image_batch), (point_spec, point_batch) = images(), points()
    return [
        (MLP(point_spec, hidden=(6, 6), activation=Activation.tanh), point_batch),
        (MLP(image_spec, hidden=(6,), batch_norm=True, activation=Activation.tanh), image_batch),
        (Conv4(image_spec, filters=3), image_batch),
        (Conv4(image_spec, filters=3, downsample=Downsample.stride, gamma=False), image_batch),
    ]


CASES = pytest.mark.parametrize(("net", "batch"), cases())
SMOOTH_CASES = pytest.mark.parametrize(("net", "batch"), cases()[:2])


def init(algorithm: Algorithm, net: Net, seed: int = 0) -> Meta:
    """Float64 meta-parameters, moved off their special values (gamma 1, bias 0, running mean 0 and variance 1), that
    require gradients."""
    rng = torch.Generator().manual_seed(seed)
    meta = algorithm.init(net, rng)
    noise = {name: 0.1 * torch.randn(value.shape, generator=rng) for name, value in meta.params.items()}
    params = {name: (value + noise[name]).double().requires_grad_() for name, value in meta.params.items()}
    stats = {name: value - 0.1 * torch.rand(value.shape, generator=rng) for name, value in net.init_stats().items()}
    return Meta(params, {name: stats.get(name, value).double() for name, value in meta.buffers.items()})


def predicted(algorithm: Algorithm, batch: Batch, meta: Meta | None = None, *, net: Net, mode: BatchNorm) -> Tensor:
    """The outputs [T, Q, way] for the query set, of an algorithm that takes no steps; without `meta` as it starts."""
    with torch.no_grad():
        (predictor,) = algorithm.adapt(net, meta or init(algorithm, net), batch.support, 0)
        return predictor(batch.query_x, mode)


def expect_symmetry(predict: Callable[[Batch], Tensor], batch: Batch) -> None:
    """Predictions follow the names of three classes, and the order of the support set does not matter."""
    order, names = torch.randperm(batch.support_y.shape[1]), torch.tensor([2, 0, 1])
    shuffled = batch._replace(support_x=batch.support_x[:, order], support_y=names[batch.support_y[:, order]])
    torch.testing.assert_close(predict(shuffled)[..., names], predict(batch), rtol=1e-8, atol=1e-8)


def relative_error(actual: Params, expected: Params) -> float:
    """|actual - expected| / |expected| of all names together: a single one's exact derivative may be zero."""
    assert actual.keys() == expected.keys()
    difference = sum((actual[name] - expected[name]).square().sum().item() for name in expected)
    size = sum(value.square().sum().item() for value in expected.values())
    return math.sqrt(difference / size) if expected else 0.0  # nothing gets a gradient


def image_learner(algorithm: Algorithm, optimizer: Optimizer, chunk: int | None = None, seed: int = 0) -> Learner:
    """A learner of a small Conv4 for `images()`."""
    rng = torch.Generator().manual_seed(seed)
    net = Conv4(images()[0], filters=3)
    return Learner(algorithm, net, optimizer, rng, DOUBLE._replace(tasks_per_chunk=chunk))


def snapshot(learner: Learner) -> Params:
    """A copy of all that training changes."""
    return {name: value.clone() for name, value in learner.state_dict().items()}


def torch_cell(params: Params, name: str) -> Callable[[Tensor, Any], tuple[Tensor, Tensor]]:
    """torch's own LSTM cell under these parameters: (x, (h, c)) -> (h, c)."""
    weights = {part: params[f"{name}.{part}"] for part in ("weight_ih", "weight_hh")}
    bias = params[f"{name}.bias"]
    weights |= {"bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    cell = nn.LSTMCell(weights["weight_ih"].shape[1], len(bias) // 4).double()
    return lambda x, state: torch.func.functional_call(cell, weights, (x, state))


def expect_definition(
    algorithm: Algorithm, net: Net, meta: Meta, batch: Batch, loss_of: Callable[[Params, Batch], Tensor]
) -> Update:
    """The meta-gradient is that of the mean of loss_of(params, task), one task after the other."""
    update = algorithm.meta_gradient(net, meta, batch, 0)
    losses = torch.stack([loss_of(meta.params, task).squeeze() for task in batch.chunks(1)])
    assert relative_error(update.gradient, mean_gradient(losses, meta.params)) < 1e-10
    torch.testing.assert_close(update.loss, losses.detach(), rtol=1e-10, atol=0.0)
    return update


def expect_slope(algorithm: Algorithm, net: Net, batch: Batch, step: float = 1e-4) -> None:
    """The meta-gradient is the slope of the mean loss along a random direction."""
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)

    def loss(params: Params) -> Tensor:
        return algorithm.meta_gradient(net, Meta(params, meta.buffers), batch, 0).loss.mean()

    slope, direction = finite_difference(loss, meta.params, step=step)
    assert along(update, direction) == pytest.approx(slope, rel=1e-6)


def finite_difference(
    loss: Callable[[Params], Tensor], params: Params, seed: int = 0, step: float = 1e-4
) -> tuple[float, Params]:
    """The derivative of `loss` along a random direction, by the five-point formula, and that direction."""
    rng = torch.Generator().manual_seed(seed)
    direction = {name: torch.randn(value.shape, generator=rng, dtype=torch.float64) for name, value in params.items()}

    def at(offset: float) -> float:
        moved = {name: (value + offset * direction[name]).detach().requires_grad_() for name, value in params.items()}
        return loss(moved).item()

    slope = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    return slope, direction


def along(update: Update, direction: Params) -> float:
    """The derivative along `direction` that a meta-gradient claims."""
    return sum((update.gradient[name] * direction[name]).sum().item() for name in direction)


class Module(nn.Module):
    """With batch norm in its head as well. Without biases before it, whose slopes are zero but for rounding, of which
    Adam makes whole steps."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, stride=4, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(48, 5, bias=False), nn.BatchNorm1d(5), nn.Linear(5, spec.outputs))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))
