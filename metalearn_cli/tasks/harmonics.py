"""Sums of two sines, one with twice the frequency of the other, each task with inputs around a middle of its own.

Lacoste et al. 2018, "Uncertainty in Multitask Transfer Learning", arXiv 1806.07528:

    y = a1 sin(w x + b1) + a2 sin(2 w x + b2),   a1, a2 ~ N(0, 1), b1, b2 ~ U(0, 2 pi), w ~ U(5, 7)
    x ~ N(m, 1),  m ~ U(-4, 4)

The formula, the ranges and no noise are those of torchmeta's code (toy/harmonic.py), not verified in the paper.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.curves import CurveTask, Points, draw_uniform


@dataclass(frozen=True)
class Harmonics(CurveTask):
    points: Points = Points()

    middles = (-4, 4)
    formula = (
        "harmonics: y = a1 sin(w x + b1) + a2 sin(2 w x + b2), a1 and a2 normal, b1 and b2 in [0, 2 pi], w in [5, 7], "
        "x normal around m in [-4, 4]"
    )

    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        return {
            "amplitude_1": torch.randn(tasks, 1, 1, generator=rng),
            "amplitude_2": torch.randn(tasks, 1, 1, generator=rng),
            "phase_1": draw_uniform(tasks, 0, 2 * math.pi, rng),
            "phase_2": draw_uniform(tasks, 0, 2 * math.pi, rng),
            "frequency": draw_uniform(tasks, 5, 7, rng),
        }

    def curve(self, at: Draw, x: Tensor) -> Tensor:
        turned = at["frequency"] * x
        first = at["amplitude_1"] * torch.sin(turned + at["phase_1"])
        return first + at["amplitude_2"] * torch.sin(2 * turned + at["phase_2"])
