"""Step functions: -1 or 1, changing at a few places.

ALPaCA (Harrison, Sharma and Pavone 2018, arXiv 1807.08912):

    y = 1 where an odd number of s_1, ... s_J lie below x, else -1,   s_j ~ U(-2.5, 2.5), x ~ U(-5, 5)

J = 3, the ranges and the formula are those of the authors' code (main/dataset.py, configs/multistep-config.yml), not
verified in the paper. Their data have noise of variance 0.05: `task.noise=0.2236`; here there is none by default.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.system.limits import Count, check_limits
from metalearn_cli.tasks.base import Batch, Columns, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.curves import COLUMNS, SPEC, Points, gather_points, true_values


@dataclass(frozen=True)
class Steps(TaskDistribution):
    points: Points = Points()
    jumps: Count = 3  # J

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
        family = f"steps: y is -1 or 1 and changes at {self.jumps} places in [-2.5, 2.5], x in [-5, 5]"
        return self.points.fingerprint(family)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        places = 5 * torch.rand(tasks, 1, self.jumps, generator=rng) - 2.5
        return {"places": places, **self.points.draw(tasks, split, rng)}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_points(draw, device, _curve)

    def oracle(self, draw: Draw, device: torch.device) -> Tensor:
        return true_values(draw, device, _curve)


def _curve(at: Draw, x: Tensor) -> Tensor:
    below = (at["places"] < x).sum(-1, keepdim=True)  # [T, B, J] -> [T, B, 1]
    return 2.0 * (below % 2) - 1
