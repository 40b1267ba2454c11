"""Sums of two sines, one of twice the other's frequency, each seen through a window of its own.

Lacoste et al. 2018, "Uncertainty in Multitask Transfer Learning", arXiv 1806.07528:

    y = a1 sin(w x + b1) + a2 sin(2 w x + b2),   a1, a2 ~ N(0, 1), b1, b2 ~ U(0, 2 pi), w ~ U(5, 7)
    x ~ N(m, 1),  m ~ U(-4, 4)

All of it is as in torchmeta's code (toy/harmonic.py), not verified in the paper. No noise, as there.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Batch, Columns, Draw, Range, Spec, Split, TaskDistribution
from metalearn_cli.tasks.curves import SPEC, Points, gather_points, true_values, uniform

# The middles with three deviations on each side, where all but 0.01% of the inputs lie.
_COLUMNS = Columns(("x",), ("y",), x_range=Range((-7.0,), (7.0,)))


@dataclass(frozen=True)
class Harmonics(TaskDistribution):
    points: Points = Points()

    @property
    def spec(self) -> Spec:
        return SPEC

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def columns(self) -> Columns:
        return _COLUMNS

    @property
    def fingerprint(self) -> str:
        ranges = "a1 and a2 normal, b1 and b2 in [0, 2 pi], w in [5, 7], x normal around m in [-4, 4]"
        return self.points.fingerprint(f"harmonics: y = a1 sin(w x + b1) + a2 sin(2 w x + b2), {ranges}")

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        draw = {
            "amplitude_1": torch.randn(tasks, 1, 1, generator=rng),
            "amplitude_2": torch.randn(tasks, 1, 1, generator=rng),
            "phase_1": uniform(tasks, 0, 2 * math.pi, rng),
            "phase_2": uniform(tasks, 0, 2 * math.pi, rng),
            "frequency": uniform(tasks, 5, 7, rng),
        }
        middle = uniform(tasks, -4, 4, rng)
        points = self.points.draw(tasks, split, rng, gaussian=True)
        return draw | points | {name: middle + points[name] for name in ("support_x", "query_x")}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_points(draw, device, _curve)

    def oracle(self, draw: Draw, device: torch.device) -> Tensor:
        return true_values(draw, device, _curve)


def _curve(at: Draw, x: Tensor) -> Tensor:
    turned = at["frequency"] * x
    first = at["amplitude_1"] * torch.sin(turned + at["phase_1"])
    return first + at["amplitude_2"] * torch.sin(2 * turned + at["phase_2"])
