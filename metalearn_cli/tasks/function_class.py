"""Functions of many inputs: linear, sparse linear, decision trees and networks of two layers.

Shivam Garg, Dimitris Tsipras, Percy Liang, Gregory Valiant: "What Can Transformers Learn In-Context? A Case Study of
Simple Function Classes", NeurIPS 2022, arXiv 2208.01066, with the sizes of the authors' code:

    linear:         y = w'x,                        x ~ N(0, I), w ~ N(0, I)
    sparse_linear:  the same with all but 3 of w's numbers 0                           (`nonzero`)
    tree:           y is a number from N(0, 1) at a leaf of a tree of depth 4, each of whose nodes goes to the right
                    where one of the inputs, drawn for that node, is above 0           (`depth`)
    network:        y = sqrt(2 / H) a' relu(W x),   W and a normal, H = 100            (`hidden`)

Yardsticks without noise, for w'x: the error of predicting 0 is D, that of least squares after k examples max(D - k, 0).
`least_squares` stands beside every test: the shortest of the linear functions that are nearest to the support set. For
linear functions there is an `oracle` too, the posterior of y given the support set, of which least squares is the mean
where there is no noise. It is none of sparse ones, whose posterior knows that most of w is 0; for these, for trees and
for networks there is none.

Shapes: T tasks, S support points, Q query points, B points of either, D inputs of a point, H hidden units.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames, Range
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Count, Limit, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, on_device
from metalearn_cli.tasks.curves import Points, with_noise
from metalearn_cli.tasks.likelihood import EXACT, Likelihood, SquaredError

Depth = Annotated[int, Limit("a whole number from 1 to 16", lambda value: 1 <= value <= 16)]


class Kind(Enum):
    linear = "linear"
    sparse_linear = "sparse_linear"
    tree = "tree"
    network = "network"


@dataclass(frozen=True)
class FunctionClass(TaskDistribution):
    points: Points = Points(shot=40, query=10)
    kind: Kind = Kind.linear
    dimension: Count = 20  # D
    nonzero: Count = 3  # of sparse_linear: the inputs that count
    depth: Depth = 4  # of tree
    hidden: Count = 100  # H, of network

    splits = ("train", "val", "test")

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        if self.kind is Kind.sparse_linear and self.nonzero > self.dimension:
            raise UserError(f"task.nonzero={self.nonzero} must be at most task.dimension={self.dimension}")

    @property
    def spec(self) -> Spec:
        likelihood = self.points.values.chosen
        return Spec((self.dimension,), likelihood.width, likelihood.width, likelihood)

    @property
    def columns(self) -> ColumnNames:
        names = tuple(f"x{number}" for number in range(1, self.dimension + 1))
        reach = (3.0,) * self.dimension  # 99.7% of the numbers of x lie there
        return ColumnNames(names, ("y",), x_range=Range(tuple(-end for end in reach), reach))

    @property
    def fingerprint(self) -> str:
        size = {Kind.sparse_linear: f" {self.nonzero}", Kind.tree: f" {self.depth}", Kind.network: f" {self.hidden}"}
        formula = f"function_class: {self.kind.name}{size.get(self.kind, '')} of {self.dimension} inputs"
        return f"{formula}, noise of sd {self.points.noise:g}" if self.points.noise else formula

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        function = self._draw_functions(tasks, rng)
        return function | self.points.draw(tasks, split, rng, torch.zeros(tasks, 1, self.dimension))

    def _draw_functions(self, tasks: int, rng: torch.Generator) -> Draw:
        if self.kind is Kind.tree:
            leaves = 2**self.depth
            coordinate = torch.randint(self.dimension, (tasks, leaves - 1), generator=rng)
            return {"coordinate": coordinate, "leaf": torch.randn(tasks, leaves, generator=rng)}
        if self.kind is Kind.network:
            layer = torch.randn(tasks, self.dimension, self.hidden, generator=rng)
            return {"layer": layer, "w": math.sqrt(2 / self.hidden) * torch.randn(tasks, self.hidden, 1, generator=rng)}
        w = torch.randn(tasks, self.dimension, 1, generator=rng)
        if self.kind is Kind.sparse_linear:
            rank = torch.rand(w.shape, generator=rng, dtype=torch.float64).argsort(1).argsort(1)
            w = w.masked_fill(rank >= self.nonzero, 0)
        return {"w": w}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)
        return with_noise(at, self._values(at, at["support_x"]), self._values(at, at["query_x"]))

    def _values(self, at: Draw, x: Tensor) -> Tensor:
        """x [T, B, D] -> y [T, B, 1] without noise."""
        if self.kind is Kind.tree:
            node = torch.zeros_like(x[..., 0], dtype=torch.int64)  # [T, B], numbered from the root, level by level
            for _ in range(self.depth):
                tested = x.gather(2, at["coordinate"].gather(1, node).unsqueeze(-1)).squeeze(-1)
                node = 2 * node + 1 + (tested > 0).long()
            return at["leaf"].gather(1, node - (2**self.depth - 1)).unsqueeze(-1)
        return (x @ at["layer"]).relu() @ at["w"] if self.kind is Kind.network else x @ at["w"]

    def least_squares(self, draw: Draw, device: torch.device) -> Tensor:
        """Compute the values at the query points of the shortest w that minimises the support set's squared error."""
        return _posterior(self.gather(draw, device), 0.0)[0]

    def oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor] | None:
        """Compute the posterior of each query value given the support set; without noise its mean alone."""
        if self.kind is not Kind.linear:
            return None
        noise = self.points.noise
        mean, deviation = _posterior(self.gather(draw, device), noise)
        if self.spec.metric == SquaredError.metric or not noise:
            return SquaredError(), mean
        return EXACT, torch.cat([mean, deviation.log()], -1)


def _posterior(batch: Batch, noise: float) -> tuple[Tensor, Tensor]:
    """The means and deviations [T, Q, 1] of y = w'x + noise at the query points, for w ~ N(0, I). From X = U diag(s) V'
    of the support set: E w = V diag(s / (s^2 + noise^2)) U'y, Cov w = I - V diag(s^2 / (s^2 + noise^2)) V'."""
    support_x, support_y, x = (value.double() for value in (batch.support_x, batch.support_y, batch.query_x))
    u, s, v = torch.linalg.svd(support_x, full_matrices=False)  # [T, S, M], [T, M] and [T, M, D], M = min(S, D)
    s, along = s.unsqueeze(-1), x @ v.mT  # [T, M, 1], [T, Q, M]
    total = s.square() + noise**2
    unknown = x.square().sum(-1, keepdim=True) - along.square() @ (s.square() / total)
    return along @ (s / total * (u.mT @ support_y)), (unknown + noise**2).clamp(min=0).sqrt()
