"""Sinusoids and lines in one family: each task is one of them, and nothing says which.

PLATIPUS (Finn, Xu and Levine 2018, arXiv 1806.02817), the ambiguous regression problem:

    y = A sin(x - phi) + e,  A ~ U(0.1, 5), phi ~ U(0, pi)      or, as likely,
    y = a x + b + e,         a, b ~ U(-3, 3)                    with x ~ U(-5, 5), e ~ N(0, 0.3^2)

The ranges are those of torchmeta's code for the paper (toy/sinusoid_line.py). That half of the tasks are lines, and the
noise of 0.3, are from memory, not verified in the paper. Bayesian MAML (Yoon et al. 2018, arXiv 1806.03836) has another
family: sinusoids only, with other ranges.

Lines reach 18 where sinusoids end at 5: an error above 10, from which a task counts as diverged, is not unusual before
adapting.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.curves import CurveTask, Points, draw_uniform


@dataclass(frozen=True)
class SinusoidOrLine(CurveTask):
    points: Points = Points(noise=0.3)

    formula = (
        "sinusoid_or_line: y = A sin(x - phi), A in [0.1, 5], phi in [0, pi], or y = a x + b, a and b in [-3, 3], "
        "x in [-5, 5]"
    )

    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        return {
            "is_line": torch.rand(tasks, 1, 1, generator=rng) < 0.5,
            "amplitude": draw_uniform(tasks, 0.1, 5, rng),
            "phase": draw_uniform(tasks, 0, math.pi, rng),
            "slope": draw_uniform(tasks, -3, 3, rng),
            "intercept": draw_uniform(tasks, -3, 3, rng),
        }

    def curve(self, at: Draw, x: Tensor) -> Tensor:
        sinusoid = at["amplitude"] * torch.sin(x - at["phase"])
        return torch.where(at["is_line"], at["slope"] * x + at["intercept"], sinusoid)
