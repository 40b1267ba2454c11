"""Sinusoids and lines in one family: each task is one of them, and which one is not told.

PLATIPUS (Finn, Xu and Levine 2018, arXiv 1806.02817), the ambiguous regression problem:

    y = A sin(x - phi) + e,  A ~ U(0.1, 5), phi ~ U(0, pi)      or, as likely,
    y = a x + b + e,         a, b ~ U(-3, 3)                    with x ~ U(-5, 5), e ~ N(0, 0.3^2)

The ranges are those that torchmeta's code (toy/sinusoid_line.py) gives for the paper; that half of the tasks are lines,
and the noise of 0.3, are from memory, not verified in the paper. Bayesian MAML (Yoon et al. 2018, arXiv 1806.03836) has
sinusoids only, of other ranges: not this family.

Lines reach 18 where sinusoids end at 5: an error above 10, from which on a task counts as diverged, is nothing unusual
before adapting.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Batch, Columns, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.curves import COLUMNS, SPEC, Points, gather_points, true_values, uniform


@dataclass(frozen=True)
class SinusoidOrLine(TaskDistribution):
    points: Points = Points(noise=0.3)

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
        sinusoid = "y = A sin(x - phi), A in [0.1, 5], phi in [0, pi]"
        family = f"sinusoid_or_line: {sinusoid}, or y = a x + b, a and b in [-3, 3], x in [-5, 5]"
        return self.points.fingerprint(family)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return {
            "is_line": torch.rand(tasks, 1, 1, generator=rng) < 0.5,
            "amplitude": uniform(tasks, 0.1, 5, rng),
            "phase": uniform(tasks, 0, math.pi, rng),
            "slope": uniform(tasks, -3, 3, rng),
            "intercept": uniform(tasks, -3, 3, rng),
            **self.points.draw(tasks, split, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_points(draw, device, _curve)

    def oracle(self, draw: Draw, device: torch.device) -> Tensor:
        return true_values(draw, device, _curve)


def _curve(at: Draw, x: Tensor) -> Tensor:
    sinusoid = at["amplitude"] * torch.sin(x - at["phase"])
    return torch.where(at["is_line"], at["slope"] * x + at["intercept"], sinusoid)
