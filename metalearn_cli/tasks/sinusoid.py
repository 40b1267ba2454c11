"""Sinusoid regression: the families of MAML, of Meta-SGD and of Reptile.

MAML (Finn et al. 2017, arXiv 1703.03400):       y = A sin(x - phi),  A ~ U(0.1, 5), phi ~ U(0, pi)
Reptile (Nichol et al. 2018, arXiv 1803.02999):  the same with phi ~ U(0, 2 pi): `turns=1`
Meta-SGD (Li et al. 2017, arXiv 1707.09835):     y = A sin(w x + b),  b ~ U(0, pi), w ~ U(0.8, 1.2)

x ~ U(-5, 5) and no noise in all of them. The range of w is from memory, not verified in the paper. The three are
different problems: their errors cannot be compared. Of MAML's family, whoever knows all tasks and not which one it is
predicts -(2 / pi) E[A] cos x, and errs by 3.00 +- 0.03; the mean of each task errs by 4.10 +- 0.04 (40,000 tasks).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.system.limits import NonNegative, check_limits
from metalearn_cli.tasks.base import Batch, Columns, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.curves import COLUMNS, SPEC, Points, gather_points, true_values


@dataclass(frozen=True)
class Sinusoid(TaskDistribution):
    points: Points = Points()
    turns: NonNegative = 0.5  # phi is drawn from 0 to so many whole turns

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    def spec(self) -> Spec:
        return SPEC

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def columns(self) -> Columns:
        return COLUMNS

    @property
    def fingerprint(self) -> str:
        end = "pi" if self.turns == 0.5 else f"{2 * self.turns:g} pi"
        family = f"sinusoid: y = A sin(x - phi), A in [0.1, 5], phi in [0, {end}], x in [-5, 5]"
        return self.points.fingerprint(family)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return {
            "amplitude": 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=rng),
            "phase": 2 * math.pi * self.turns * torch.rand(tasks, 1, 1, generator=rng),
            **self.points.draw(tasks, split, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_points(draw, device, _shifted)

    def oracle(self, draw: Draw, device: torch.device) -> Tensor:
        return true_values(draw, device, _shifted)


@dataclass(frozen=True)
class SinusoidFrequency(TaskDistribution):
    points: Points = Points()

    @property
    def spec(self) -> Spec:
        return SPEC

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def columns(self) -> Columns:
        return COLUMNS

    @property
    def fingerprint(self) -> str:
        family = "sinusoid_frequency: y = A sin(w x + b), A in [0.1, 5], w in [0.8, 1.2], b in [0, pi], x in [-5, 5]"
        return self.points.fingerprint(family)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return {
            "amplitude": 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=rng),
            "frequency": 0.8 + 0.4 * torch.rand(tasks, 1, 1, generator=rng),
            "phase": math.pi * torch.rand(tasks, 1, 1, generator=rng),
            **self.points.draw(tasks, split, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_points(draw, device, _scaled)

    def oracle(self, draw: Draw, device: torch.device) -> Tensor:
        return true_values(draw, device, _scaled)


def _shifted(at: Draw, x: Tensor) -> Tensor:
    return at["amplitude"] * torch.sin(x - at["phase"])


def _scaled(at: Draw, x: Tensor) -> Tensor:
    return at["amplitude"] * torch.sin(at["frequency"] * x + at["phase"])
