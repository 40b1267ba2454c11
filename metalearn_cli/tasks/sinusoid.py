"""Sinusoid regression: the families of MAML, of Meta-SGD and of Reptile.

MAML (Finn et al. 2017, arXiv 1703.03400):       y = A sin(x - phi),  A ~ U(0.1, 5), phi ~ U(0, pi)
Reptile (Nichol et al. 2018, arXiv 1803.02999):  the same with phi ~ U(0, 2 pi): `turns=1`
Meta-SGD (Li et al. 2017, arXiv 1707.09835):     y = A sin(w x + b),  b ~ U(0, pi), w ~ U(0.8, 1.2)

x ~ U(-5, 5) and no noise in all of them. The range of w is from memory, not verified in the paper. The three are
different problems: their errors cannot be compared. On MAML's family the best prediction without a support set,
-(2 / pi) E[A] cos x, has an error of 3.00 +- 0.03, and the mean of each task one of 4.10 +- 0.04 (40,000 tasks).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.system.limits import NonNegative
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.curves import CurveTask, Points, draw_uniform


@dataclass(frozen=True)
class Sinusoid(CurveTask):
    points: Points = Points()
    turns: NonNegative = 0.5  # phi is drawn from 0 to this number of whole turns

    @property
    def formula(self) -> str:
        end = "pi" if self.turns == 0.5 else f"{2 * self.turns:g} pi"
        return f"sinusoid: y = A sin(x - phi), A in [0.1, 5], phi in [0, {end}], x in [-5, 5]"

    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        return {
            "amplitude": draw_uniform(tasks, 0.1, 5, rng),
            "phase": draw_uniform(tasks, 0, 2 * math.pi * self.turns, rng),
        }

    def curve(self, at: Draw, x: Tensor) -> Tensor:
        return at["amplitude"] * torch.sin(x - at["phase"])


@dataclass(frozen=True)
class SinusoidFrequency(CurveTask):
    points: Points = Points()

    formula = "sinusoid_frequency: y = A sin(w x + b), A in [0.1, 5], w in [0.8, 1.2], b in [0, pi], x in [-5, 5]"

    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        return {
            "amplitude": draw_uniform(tasks, 0.1, 5, rng),
            "frequency": draw_uniform(tasks, 0.8, 1.2, rng),
            "phase": draw_uniform(tasks, 0, math.pi, rng),
        }

    def curve(self, at: Draw, x: Tensor) -> Tensor:
        return at["amplitude"] * torch.sin(at["frequency"] * x + at["phase"])
