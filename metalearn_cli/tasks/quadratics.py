"""Random quadratic functions, the synthetic problem of Andrychowicz et al. 2016 (arXiv 1606.04474, section 4.1).

f(theta) = ||W theta - y||^2 with W [D, D] and y [D]. It is linear regression: the examples are the rows of W and the
targets y, both times sqrt(D), so that the mean squared error of a linear model without bias (`model=linear`) is f
itself. The support and the query set are the same D examples, since the minimum of f is sought.

There is no oracle: almost every W has an inverse, and then the minimum is 0, which says nothing about a hundred steps.

The paper draws W and y from a normal distribution, f(0) = 10 on average; its code from U[0, 1), f(0) = 3.33. The three
splits are three independent streams of tasks from the same family.
"""

import math
from dataclasses import dataclass
from enum import Enum

import torch

from metalearn_cli.system.limits import Count, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.likelihood import SquaredError


class Entries(Enum):
    """The distribution of each number in W and y."""

    gaussian = "gaussian"  # N(0, 1), the paper's
    uniform = "uniform"  # U[0, 1), the authors' code's


@dataclass(frozen=True)
class Quadratics(TaskDistribution):
    dimension: Count = 10  # D
    entries: Entries = Entries.gaussian

    splits = ("train", "val", "test")

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    def spec(self) -> Spec:
        return Spec(input_shape=(self.dimension,), outputs=1, train_outputs=1, likelihood=SquaredError())

    @property
    def fingerprint(self) -> str:
        return f"quadratics: ||W theta - y||^2, {self.entries.name} entries"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        entries = torch.randn if self.entries is Entries.gaussian else torch.rand
        w, y = (entries(tasks, self.dimension, width, generator=rng) for width in (self.dimension, 1))
        return {"w": w, "y": y, "key": draw_keys(tasks, rng)}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)
        w, y = (math.sqrt(self.dimension) * at[name] for name in ("w", "y"))  # the mean over D rows undoes the square
        return Batch(w, y, w, y, at["key"])
