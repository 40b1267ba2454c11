"""One-dimensional regression: what all families of curves share.

A family has a formula, and draws the coefficients of each task. `Points` holds the keys that every family has; its
fields are on one level with the family's own keys (`task.shot=5`), as in tasks/episodes.py.

`task.noise` is the standard deviation of Gaussian noise on the targets of support and query points, as in the papers
with noise. No predictor's expected error is below its square, which the test reports as `oracle`, the error of the
curve without the noise; with `task.likelihood=gaussian` it is the log-likelihood under the curve and its noise. The
three splits are three independent streams of tasks from the same family.

Shapes: T tasks, S support points, Q query points, B points of either, D inputs of a point.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames, Range
from metalearn_cli.system.limits import Count, NonNegative, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.likelihood import Gaussian, Likelihood, Link, SquaredError, ValuesLikelihood


@dataclass(frozen=True)
class Points:
    shot: Count = 10  # support points of a validation or test task
    query: Count = 100  # query points of a validation or test task: they only measure, so more of them only cost time
    train_shot: Count | None = None  # of a training task; null: the same as `shot`
    train_query: Count | None = 10  # of a training task; null: the same as `query`
    noise: NonNegative = 0.0  # standard deviation of the noise on all targets
    values: ValuesLikelihood = ValuesLikelihood()

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    def draw(self, tasks: int, split: Split, rng: torch.Generator, middle: Tensor | None = None) -> Draw:
        """Draw support_x [T, S, 1] and query_x [T, Q, 1] from U(-5, 5), or [T, S, D] and [T, Q, D] from N(middle, I)
        with a middle [T, 1, D], the keys [T], and the noise of each target: last, so that the tasks with and without
        noise are the same."""
        shot, query = self.shot, self.query
        if split == "train":
            shot, query = self.train_shot or shot, self.train_query or query

        def inputs(number: int) -> Tensor:
            if middle is not None:
                return middle + torch.randn(tasks, number, middle.shape[-1], generator=rng)
            return 10 * torch.rand(tasks, number, 1, generator=rng) - 5

        draw = {"support_x": inputs(shot), "query_x": inputs(query), "key": draw_keys(tasks, rng)}
        if self.noise:
            draw["support_noise"] = self.noise * torch.randn(tasks, shot, 1, generator=rng)
            draw["query_noise"] = self.noise * torch.randn(tasks, query, 1, generator=rng)
        return draw


class CurveTask(TaskDistribution):
    """A family of curves. A final class is a frozen dataclass with `points` and its own keys."""

    middles: ClassVar[tuple[float, float] | None] = None  # x ~ N(m, 1) with m from this range; None: x ~ U(-5, 5)
    points: Points

    splits = ("train", "val", "test")

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    @abstractmethod
    def formula(self) -> str:
        """The family's name, formula and ranges."""

    @abstractmethod
    def coefficients(self, tasks: int, rng: torch.Generator) -> Draw:
        """Draw the coefficients of T = `tasks` curves, by name, [T, 1, number] each."""

    @abstractmethod
    def curve(self, at: Draw, x: Tensor) -> Tensor:
        """Compute the curves with the coefficients `at`: x [T, B, 1] -> y [T, B, 1]."""

    @property
    def spec(self) -> Spec:
        likelihood = self.points.values.chosen
        return Spec((1,), likelihood.width, likelihood.width, likelihood)

    @property
    def columns(self) -> ColumnNames:
        # With middles, three deviations more on each side: all but 0.01% of the inputs lie there.
        low, high = (self.middles[0] - 3.0, self.middles[1] + 3.0) if self.middles else (-5.0, 5.0)
        return ColumnNames(("x",), ("y",), x_range=Range((low,), (high,)))

    @property
    def fingerprint(self) -> str:
        noise = self.points.noise
        return f"{self.formula}, noise of sd {noise:g}" if noise else self.formula

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        coefficients = self.coefficients(tasks, rng)
        middle = draw_uniform(tasks, *self.middles, rng) if self.middles else None
        return coefficients | self.points.draw(tasks, split, rng, middle)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)
        return with_noise(at, self.curve(at, at["support_x"]), self.curve(at, at["query_x"]))

    def oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor]:
        """Compute the curves without noise at the query points; of a Gaussian with the noise's deviation, if any."""
        at = on_device(draw, device)
        curve = self.curve(at, at["query_x"])
        if self.spec.metric == SquaredError.metric or not self.points.noise:
            return SquaredError(), curve
        deviation = torch.full_like(curve, self.points.noise)
        return Gaussian(floor=0.0, link=Link.exp), torch.cat([curve, deviation.log()], -1)

    def functions(self, draw: Draw, x: Tensor) -> tuple[Tensor, float]:
        """Compute the curves without noise at x [T, B, 1], [T, B, 1], and the noise's deviation."""
        return self.curve(on_device(draw, x.device), x), self.points.noise


def with_noise(at: Draw, support_y: Tensor, query_y: Tensor) -> Batch:
    """The tasks with these values, [T, S, 1] and [T, Q, 1], and the noise of their draw, if any."""
    if "support_noise" in at:
        support_y, query_y = support_y + at["support_noise"], query_y + at["query_noise"]
    return Batch(at["support_x"], support_y, at["query_x"], query_y, at["key"])


def draw_uniform(tasks: int, low: float, high: float, rng: torch.Generator, number: int = 1) -> Tensor:
    """Draw `number` coefficients of each task from U(low, high), [T, 1, number]."""
    return low + (high - low) * torch.rand(tasks, 1, number, generator=rng)
