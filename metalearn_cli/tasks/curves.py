"""One-dimensional regression: what all families of curves share.

`Points` holds the keys that every family has, and draws the inputs, x ~ U(-5, 5) unless a family says otherwise; a
family adds which curves there are. (Its fields stand among the task's own keys, `task.shot=5`, see tasks/episodes.py.)

`task.noise` is the standard deviation of Gaussian noise on the targets, of support and query points alike: that is how
the papers with noise have their data. No predictor's expected error is below its square, which is what the test reports
as `oracle`, the curve without the noise. The three splits are three independent streams of tasks from the same family.

Shapes: T tasks, S support points, Q query points.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.system.limits import Count, NonNegative, check_limits
from metalearn_cli.tasks.base import Batch, Columns, Draw, Range, Spec, Split, draw_keys, on_device

SPEC = Spec(input_shape=(1,), outputs=1, train_outputs=1, kind="values")
COLUMNS = Columns(("x",), ("y",), x_range=Range((-5.0,), (5.0,)))

# (the coefficients of T tasks, each [T, 1, 1], x [T, B, 1]) -> y [T, B, 1].
Curve = Callable[[Draw, Tensor], Tensor]


@dataclass(frozen=True)
class Points:
    shot: Count = 10  # support points of a validation or test task
    query: Count = 100  # query points of a validation or test task: they measure, so more of them cost only time
    train_shot: Count | None = None  # of a training task; null: the same as `shot`
    train_query: Count | None = 10  # of a training task; null: the same as `query`
    noise: NonNegative = 0.0  # standard deviation of the noise on all targets

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    def draw(self, tasks: int, split: Split, rng: torch.Generator, gaussian: bool = False) -> Draw:
        """support_x [T, S, 1] and query_x [T, Q, 1] from U(-5, 5), or N(0, 1), the keys [T], and with noise that of
        each target. It is drawn last, so that with and without it the tasks are the same."""
        shot, query = self.shot, self.query
        if split == "train":
            shot, query = self.train_shot or shot, self.train_query or query

        def inputs(number: int) -> Tensor:
            if gaussian:
                return torch.randn(tasks, number, 1, generator=rng)
            return 10 * torch.rand(tasks, number, 1, generator=rng) - 5

        draw = {"support_x": inputs(shot), "query_x": inputs(query), "key": draw_keys(tasks, rng)}
        if self.noise:
            draw["support_noise"] = self.noise * torch.randn(tasks, shot, 1, generator=rng)
            draw["query_noise"] = self.noise * torch.randn(tasks, query, 1, generator=rng)
        return draw

    def fingerprint(self, family: str) -> str:
        """The name of the data: the family's formula and ranges, and the noise where there is any."""
        return f"{family}, noise of sd {self.noise:g}" if self.noise else family


def gather_points(draw: Draw, device: torch.device, curve: Curve) -> Batch:
    """The tasks of a draw with their noise, where there is any."""
    at = on_device(draw, device)
    support_y, query_y = curve(at, at["support_x"]), curve(at, at["query_x"])
    if "support_noise" in at:
        support_y, query_y = support_y + at["support_noise"], query_y + at["query_noise"]
    return Batch(at["support_x"], support_y, at["query_x"], query_y, at["key"])


def true_values(draw: Draw, device: torch.device, curve: Curve) -> Tensor:
    """The curves themselves at the query points, [T, Q, 1]."""
    at = on_device(draw, device)
    return curve(at, at["query_x"])


def uniform(tasks: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """A coefficient of each task from U(low, high), [T, 1, 1]."""
    return low + (high - low) * torch.rand(tasks, 1, 1, generator=rng)
