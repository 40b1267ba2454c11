"""Small problems in float64 that the tests share."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_cli.algorithms.base import Algorithm, Meta, Update
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer, Preprocess
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.curves import Points
from metalearn_cli.tasks.episodes import Episodes

DOUBLE = Execution(dtype=torch.float64)

# Every algorithm for classes, with settings under which all that it has is used.
ALGORITHMS: list[Algorithm] = [
    MAML(inner_lr=0.1, inner_steps=2, test_steps=2),
    MetaSGD(test_steps=2),
    MetaLSTM(inner_steps=2, test_steps=2),
    ProtoNet(),
    Matching(fce=True, reads=2, learn_temperature=True, test_steps=2, fine_tune_lr=0.1),
    Reptile(inner_steps=3, inner_batch=4, test_steps=2),
    LearnedOptimizer((4,), Preprocess.log_sign, scale=0.1, batch_size=4, unroll=2, horizon=6, test_steps=3),
    HandOptimizer(rates=(0.001, 0.01, 1e9), batch_size=4, horizon=4, test_steps=3),
]


def image_task(cls: Any, **keys: Any) -> Any:
    """A task of images with these keys, which yaml has on one level."""
    own = {name: keys.pop(name) for name in list(keys) if name in Episodes.__dataclass_fields__}
    return cls(replace(cls.episodes, **own), **keys)


def points_task(cls: Any, **keys: Any) -> Any:
    """A family of curves with these keys, which yaml has on one level."""
    own = {name: keys.pop(name) for name in list(keys) if name in Points.__dataclass_fields__}
    return cls(replace(cls.points, **own), **keys)


def images(
    tasks: int = 3, way: int = 3, shot: int = 2, query: int = 2, size: int = 16, channels: int = 1, seed: int = 0
) -> tuple[Spec, Batch]:
    """Random pixels with labels in random order."""
    rng = torch.Generator().manual_seed(seed)

    def part(count: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(tasks, way * count, channels, size, size, generator=rng, dtype=torch.float64)
        y = torch.rand(tasks, way * count, generator=rng).argsort(1) % way
        return x, y

    spec = Spec((channels, size, size), way, way, "classes")
    return spec, Batch(*part(shot), *part(query), torch.arange(tasks))


def points(tasks: int = 3, shot: int = 5, query: int = 4, seed: int = 0) -> tuple[Spec, Batch]:
    """Sinusoid-like regression."""
    rng = torch.Generator().manual_seed(seed)
    amplitude = 1 + torch.rand(tasks, 1, 1, generator=rng, dtype=torch.float64)
    support_x = torch.randn(tasks, shot, 1, generator=rng, dtype=torch.float64)
    query_x = torch.randn(tasks, query, 1, generator=rng, dtype=torch.float64)
    batch = Batch(support_x, amplitude * support_x.sin(), query_x, amplitude * query_x.sin(), torch.arange(tasks))
    return Spec((1,), 1, 1, "values"), batch


def init(algorithm: Algorithm, net: Net, seed: int = 0) -> Meta:
    """Float64 meta-parameters, moved off their special values (gamma 1, bias 0, running mean 0 and variance 1), that
    require gradients."""
    rng = torch.Generator().manual_seed(seed)
    meta = algorithm.init(net, rng)
    noise = {name: 0.1 * torch.randn(value.shape, generator=rng) for name, value in meta.params.items()}
    params = {name: (value + noise[name]).double().requires_grad_() for name, value in meta.params.items()}
    stats = {name: value - 0.1 * torch.rand(value.shape, generator=rng) for name, value in net.init_stats().items()}
    return Meta(params, {name: stats.get(name, value).double() for name, value in meta.buffers.items()})


def one_task(batch: Batch) -> Iterator[Batch]:
    """Each task as a batch of its own."""
    yield from batch.chunks(1)


def relative_error(found: Params, expected: Params) -> float:
    """|found - expected| / |expected| of all names together: a single one's exact derivative may be zero."""
    assert found.keys() == expected.keys()
    difference = sum((found[name] - expected[name]).square().sum().item() for name in expected)
    size = sum(value.square().sum().item() for value in expected.values())
    return math.sqrt(difference / size) if expected else 0.0  # nothing gets a gradient


def finite_difference(loss: Callable[[Params], Tensor], params: Params, seed: int = 0) -> tuple[float, Params]:
    """The derivative of `loss` along a random direction, by the five-point formula, and that direction."""
    rng = torch.Generator().manual_seed(seed)
    direction = {name: torch.randn(value.shape, generator=rng, dtype=torch.float64) for name, value in params.items()}

    def at(offset: float) -> float:
        moved = {name: (value + offset * direction[name]).detach().requires_grad_() for name, value in params.items()}
        return loss(moved).item()

    step = 1e-4
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
