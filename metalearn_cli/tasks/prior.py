"""Functions from a prior of a user's own, whose class says how they are drawn; sizes and splits are the program's.

A network that reads the support set of such tasks learns the posterior of their prior (Mueller et al. 2022, arXiv
2112.10510). The three splits are three independent streams of tasks.

Shapes: T tasks, P points of a task, F inputs.
"""

import hashlib
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.system.limits import Count, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.drawn_sizes import Total, draw_sizes
from metalearn_cli.tasks.likelihood import OfValues, ValuesLikelihood


@dataclass(frozen=True)
class Prior(TaskDistribution):
    """A final class is a frozen dataclass with its own keys beside these."""

    inputs: Count = 1  # F
    max_points: Total = 50  # support and query are fewer together
    values: ValuesLikelihood = ValuesLikelihood(OfValues.gaussian)

    splits = ("train", "val", "test")

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @abstractmethod
    def sample(self, tasks: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw T = `tasks` functions at P = `points` places each: x [T, P, F] and y [T, P, 1], with their noise."""

    @property
    def spec(self) -> Spec:
        likelihood = self.values.chosen
        return Spec((self.inputs,), likelihood.width, likelihood.width, likelihood, padded=True)

    @property
    def columns(self) -> ColumnNames:
        names = [f"x{number}" for number in range(1, self.inputs + 1)]
        return ColumnNames(("x",) if self.inputs == 1 else tuple(names), ("y",))

    @property
    def fingerprint(self) -> str:
        drawn = torch.cat(self._checked(2, 8, generator("prior")), 2)
        return f"{type(self).__name__}: {hashlib.sha256(drawn.numpy().tobytes()).hexdigest()[:16]}"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        sizes = draw_sizes(tasks, split, self.max_points, 1, rng)
        draw = dict(sizes.masks)
        for name, values in zip("xy", self._checked(tasks, sum(sizes.most), rng), strict=True):
            draw[f"support_{name}"], draw[f"query_{name}"] = values.tensor_split([sizes.most[0]], dim=1)
        return draw | {"key": draw_keys(tasks, rng)}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return Batch(**on_device(draw, device))

    def _checked(self, tasks: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What `sample` draws, as float32. Raises UserError where it has another shape, or is not finite."""
        x, y = (values.float() for values in self.sample(tasks, points, rng))
        for name, values, last in (("x", x, self.inputs), ("y", y, 1)):
            if values.shape != (tasks, points, last) or not values.isfinite().all():
                raise UserError(
                    f"{type(self).__name__}.sample({tasks}, {points}, rng) made {name} of shape {list(values.shape)}: "
                    f"finite numbers of shape {[tasks, points, last]} are expected"
                )
        return x, y
