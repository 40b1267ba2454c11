"""Sinusoid regression: the families of MAML, of Meta-SGD and of Reptile.

MAML (Finn et al. 2017, arXiv 1703.03400):       y = A sin(x - phi),  A ~ U(0.1, 5), phi ~ U(0, pi)
Reptile (Nichol et al. 2018, arXiv 1803.02999):  the same with phi ~ U(0, 2 pi): `turns=1`
Meta-SGD (Li et al. 2017, arXiv 1707.09835):     y = A sin(w x + b),  b ~ U(0, pi), w ~ U(0.8, 1.2)

x ~ U(-5, 5) and no noise in all of them. The three splits are three independent streams of tasks from the same family.
The range of w is from memory, not verified in the paper. The error of the best constant predictor is about 3.05 for
MAML's. The three are different problems: their errors cannot
be compared.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device

_SPEC = Spec(input_shape=(1,), outputs=1, train_outputs=1, kind="values")


@dataclass(frozen=True)
class Sinusoid(TaskDistribution):
    shot: int = 10  # support points of a validation or test task
    query: int = 100  # query points of a validation or test task: they measure, so more of them cost only time
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = 10  # of a training task; null: the same as `query`
    turns: float = 0.5  # phi is drawn from 0 to so many whole turns

    def __post_init__(self) -> None:
        _check_points(self)
        if not 0 <= self.turns < math.inf:
            raise UserError(f"task.turns={self.turns} must be a finite number, 0 or above: 0.5 is MAML's, 1 Reptile's")

    @property
    def spec(self) -> Spec:
        return _SPEC

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def fingerprint(self) -> str:
        end = "pi" if self.turns == 0.5 else f"{2 * self.turns:g} pi"
        return f"sinusoid: y = A sin(x - phi), A in [0.1, 5], phi in [0, {end}], x in [-5, 5]"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return {
            "amplitude": 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=rng),
            "phase": 2 * math.pi * self.turns * torch.rand(tasks, 1, 1, generator=rng),
            **_draw_points(self, tasks, split, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)

        def curve(x: Tensor) -> Tensor:
            return at["amplitude"] * torch.sin(x - at["phase"])

        return Batch(at["support_x"], curve(at["support_x"]), at["query_x"], curve(at["query_x"]), at["key"])


@dataclass(frozen=True)
class SinusoidFrequency(TaskDistribution):
    shot: int = 10  # support points of a validation or test task
    query: int = 100  # query points of a validation or test task
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = 10  # of a training task; null: the same as `query`

    def __post_init__(self) -> None:
        _check_points(self)

    @property
    def spec(self) -> Spec:
        return _SPEC

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def fingerprint(self) -> str:
        return "sinusoid_frequency: y = A sin(w x + b), A in [0.1, 5], w in [0.8, 1.2], b in [0, pi], x in [-5, 5]"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return {
            "amplitude": 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=rng),
            "frequency": 0.8 + 0.4 * torch.rand(tasks, 1, 1, generator=rng),
            "phase": math.pi * torch.rand(tasks, 1, 1, generator=rng),
            **_draw_points(self, tasks, split, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)

        def curve(x: Tensor) -> Tensor:
            return at["amplitude"] * torch.sin(at["frequency"] * x + at["phase"])

        return Batch(at["support_x"], curve(at["support_x"]), at["query_x"], curve(at["query_x"]), at["key"])


def _check_points(task: Sinusoid | SinusoidFrequency) -> None:
    for name in ("shot", "query", "train_shot", "train_query"):
        value = getattr(task, name)
        if value is not None and value < 1:
            raise UserError(f"task.{name}={value} must be at least 1 point")


def _draw_points(task: Sinusoid | SinusoidFrequency, tasks: int, split: Split, rng: torch.Generator) -> Draw:
    """support_x [T, S, 1] and query_x [T, Q, 1] from U(-5, 5), and the keys [T]."""
    shot, query = task.shot, task.query
    if split == "train":
        shot, query = task.train_shot or shot, task.train_query or query
    return {
        "support_x": 10 * torch.rand(tasks, shot, 1, generator=rng) - 5,
        "query_x": 10 * torch.rand(tasks, query, 1, generator=rng) - 5,
        "key": draw_keys(tasks, rng),
    }
