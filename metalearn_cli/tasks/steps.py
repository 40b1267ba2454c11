"""Step functions: -1 or 1, changing at a few places.

ALPaCA (Harrison, Sharma and Pavone 2018, arXiv 1807.08912):

    y = 1 where an odd number of s_1, ... s_J lie below x, else -1,   s_j ~ U(-2.5, 2.5), x ~ U(-5, 5)

J = 3, the ranges and the formula are those of the authors' code (main/dataset.py, configs/multistep-config.yml), not
verified in the paper. Their data have noise of variance 0.05: `task.noise=0.2236`. Without this key there is none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.system.limits import Count
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.curves import CurveTask, Points, draw_uniform


@dataclass(frozen=True)
class Steps(CurveTask):
    points: Points = Points()
    jumps: Count = 3  # J

    @property
    def formula(self) -> str:
        return f"steps: y is -1 or 1 and changes at {self.jumps} places in [-2.5, 2.5], x in [-5, 5]"

    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        return {"places": draw_uniform(tasks, -2.5, 2.5, rng, self.jumps)}

    def curve(self, at: Draw, x: Tensor) -> Tensor:
        below = (at["places"] < x).sum(-1, keepdim=True)  # [T, B, J] -> [T, B, 1]
        return 2.0 * (below % 2) - 1
