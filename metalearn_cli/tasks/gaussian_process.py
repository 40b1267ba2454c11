"""Functions drawn from Gaussian processes, whose exact posterior is the oracle.

Transformer Neural Processes (Nguyen and Grover 2022, arXiv 2207.04179), with the ranges of the authors' code:

    y ~ N(0, a^2 k(x, x') + noise^2 [x = x']),   a ~ U(0.1, 1),  l ~ U(0.1, 0.6),  p ~ U(0.1, 0.5),  x ~ U(-2, 2)
    rbf:       k = exp(-r^2 / 2)                                  r = |x - x'| / l
    matern52:  k = (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)
    periodic:  k = exp(-2 sin(pi |x - x'| / p)^2 / l^2)
    mixture:   each task is one of the three, and nothing says which

The sizes of the sets are drawn (drawn_sizes.py). The test may have another kernel than training and validation. The
oracle knows the kernel, a, l and p.

Shapes: T tasks, S support points, Q query points, N = S + Q, P points anywhere.
"""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames, Range
from metalearn_cli.seeding import normals
from metalearn_cli.system.limits import Count, Limit, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, Support, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.curves import draw_uniform
from metalearn_cli.tasks.drawn_sizes import Total, draw_sizes
from metalearn_cli.tasks.likelihood import EXACT, Likelihood, OfValues, SquaredError, ValuesLikelihood, in_turn

JITTER, _FUNCTION = 1e-8, -7  # of the covariance of many points, as a share of a^2; the salt of a function's values

Noise = Annotated[float, Limit("a number from 0.001 to 1000", lambda value: 1e-3 <= value <= 1e3)]


class Kernel(Enum):
    rbf = 0
    matern52 = 1
    periodic = 2
    mixture = 3


@dataclass(frozen=True)
class GaussianProcess(TaskDistribution):
    kernel: Kernel = Kernel.rbf
    test_kernel: Kernel | None = None  # None: as `kernel`
    noise: Noise = 0.02  # standard deviation
    max_points: Total = 50  # support and query are fewer together
    bucket: Count = 1  # sets are padded to a multiple of this: few shapes, for compile=true and cuda_graph=true
    values: ValuesLikelihood = ValuesLikelihood(OfValues.gaussian)

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    def spec(self) -> Spec:
        likelihood = self.values.chosen
        return Spec((1,), likelihood.width, likelihood.width, likelihood, padded=True)

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def columns(self) -> ColumnNames:
        return ColumnNames(("x",), ("y",), x_range=Range((-2.0,), (2.0,)))

    @property
    def fingerprint(self) -> str:
        return f"gaussian_process: a in [0.1, 1], l in [0.1, 0.6], p in [0.1, 0.5], noise of sd {self.noise:g}"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        sizes = draw_sizes(tasks, split, self.max_points, self.bucket, rng)
        kernel = (self.test_kernel or self.kernel) if split == "test" else self.kernel
        if kernel is Kernel.mixture:
            kind = torch.randint(Kernel.mixture.value, (tasks, 1, 1), generator=rng)
        else:
            kind = torch.full((tasks, 1, 1), kernel.value)
        draw = {"kind": kind}
        for name, low, high in (("scale", 0.1, 1.0), ("length", 0.1, 0.6), ("period", 0.1, 0.5)):
            draw[name] = draw_uniform(tasks, low, high, rng)
        for name, number in zip(("support", "query"), sizes.most, strict=True):
            draw[f"{name}_x"] = 4 * torch.rand(tasks, number, 1, generator=rng) - 2
            draw[f"{name}_normal"] = torch.randn(tasks, number, 1, generator=rng)
        return draw | sizes.masks | {"key": draw_keys(tasks, rng)}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)
        normal = torch.cat([at["support_normal"], at["query_normal"]], 1).double()
        support_y, query_y = (self._factor(at, None) @ normal).float().tensor_split([at["support_x"].shape[1]], dim=1)
        masks = at.get("support_mask"), at.get("query_mask")
        return Batch(at["support_x"], support_y, at["query_x"], query_y, at["key"], *masks)

    def oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor]:
        """Compute the posterior of each query value by itself, given the support set."""
        factor, y, shot = self._posterior(draw, device)
        mean = factor[:, shot:, :shot] @ torch.linalg.solve_triangular(
            factor[:, :shot, :shot], y[:, :shot], upper=False
        )
        if self.spec.metric == SquaredError.metric:
            return SquaredError(), mean
        return EXACT, torch.cat([mean, factor[:, shot:, shot:].norm(dim=-1, keepdim=True).log()], -1)

    def joint_oracle(self, draw: Draw, device: torch.device) -> tuple[Likelihood, Tensor]:
        """Compute the posterior of each query value given the support set and the query values before it."""
        factor, y, shot = self._posterior(draw, device)
        return EXACT, in_turn(torch.zeros_like(y), factor, y)[:, shot:]

    def functions(self, draw: Draw, x: Tensor) -> tuple[Tensor, float]:
        """Draw each task's function at x [T, P, 1] without noise, [T, P, 1], and the noise's deviation."""
        at, x = on_device(draw, x.device), x.double()
        jitter = JITTER * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky_ex(self._kernel(at, x, x) + at["scale"].double().square() * jitter).L
        normal = normals(at["key"], _FUNCTION, count=x.shape[1]).unsqueeze(-1)
        return (factor @ normal.double()).float(), self.noise

    def posterior(self, draw: Draw, support: Support, x: Tensor) -> tuple[Likelihood, Tensor]:
        """Compute the posterior of a value at each x [T, P, 1] by itself, given any values of the tasks' functions."""
        at, known, x = on_device(draw, x.device), support.x.double(), x.double()
        noise = self.noise**2 * torch.eye(known.shape[1], dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky_ex(self._kernel(at, known, known) + noise).L
        beside = torch.cat([support.y.double(), self._kernel(at, known, x)], 2)
        normal, across = torch.linalg.solve_triangular(factor, beside, upper=False).split([1, x.shape[1]], 2)
        variance = at["scale"].double().square() + self.noise**2 - across.square().sum(1).unsqueeze(-1)
        return EXACT, torch.cat([across.mT @ normal, 0.5 * variance.clamp(min=self.noise**2).log()], -1)

    def _posterior(self, draw: Draw, device: torch.device) -> tuple[Tensor, Tensor, int]:
        """L [T, N, N], y [T, N, 1] and S: each point depends on those before it by a row of L. The support set comes
        first; queries beyond the real ones are last, so that no real one depends on them."""
        batch, at = self.gather(draw, device), on_device(draw, device)
        y = torch.cat([batch.support_y, batch.query_y], 1).double()
        return self._factor(at, batch.support_mask), y, batch.support_y.shape[1]

    def _factor(self, at: Draw, support_mask: Tensor | None) -> Tensor:
        """The Cholesky factor L [T, N, N] of the covariance; by itself stands what the mask [T, S] leaves out."""
        x = torch.cat([at["support_x"], at["query_x"]], 1).double()
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        covariance = self._kernel(at, x, x) + self.noise**2 * identity
        if support_mask is not None:
            real = torch.cat([support_mask, torch.ones_like(at["query_x"][..., 0], dtype=torch.bool)], 1)
            covariance = covariance.where(real.unsqueeze(1) & real.unsqueeze(2), identity)
        factor: Tensor = torch.linalg.cholesky_ex(covariance).L  # no host waits for it
        return factor

    def _kernel(self, at: Draw, x: Tensor, other: Tensor) -> Tensor:
        """a^2 k between x [T, N, 1] and other [T, M, 1] float64, [T, N, M]."""
        scale, length, period = (at[name].double() for name in ("scale", "length", "period"))
        distance = (x - other.mT).abs()
        ratio = distance / length
        rbf = (-0.5 * ratio.square()).exp()
        matern = (1 + math.sqrt(5) * ratio + 5 / 3 * ratio.square()) * (-math.sqrt(5) * ratio).exp()
        periodic = (-2 * (torch.sin(math.pi * distance / period) / length).square()).exp()
        kernel = rbf.where(at["kind"] == Kernel.rbf.value, matern.where(at["kind"] == Kernel.matern52.value, periodic))
        return scale.square() * kernel
