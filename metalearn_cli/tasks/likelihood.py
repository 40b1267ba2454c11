"""How the outputs of a network are a prediction: its loss, what it is scored by, and the values that it stands for.

Categorical:    -log p(y) = -log softmax(out)_y
SquaredError:   mean over the values of (out - y)^2
Gaussian:       -log p(y) = sum over the values of (y - m)^2 / (2 d^2) + log d + log(2 pi) / 2,  d = f + (1 - f) link(r)
                for outputs m, r. Conditional Neural Processes (Garnelo et al. 2018, arXiv 1807.01613) have f = 0.1 and
                softplus in the authors' code, Transformer Neural Processes (Nguyen and Grover 2022, arXiv 2207.04179)
                f = 0 and exp. Outputs [T, B, Z, 2V] are an equal mixture of Z such distributions.
Bars:           p(y) = softmax(out)_k / width of bar k  for y in bar k of K: Prior-fitted Networks (Mueller et al. 2022,
                arXiv 2112.10510). The bars have equal masses under N(0, s^2), and the two at the ends are halves of
                normal distributions with its medians there. The paper's have equal masses under its prior's samples.

Shapes: T tasks, B examples, V values of an example, W classes, Z components of a mixture, K bars.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.system.limits import Limit, Positive, Share, check_limits
from metalearn_cli.tasks.calibration import central, continuous_ranked_probability, one_hot
from metalearn_cli.tasks.metrics import Headline

Bins = Annotated[int, Limit("a whole number from 3 to 10000", lambda value: 3 <= value <= 10_000)]


class Likelihood(ABC):
    """A final class is a frozen dataclass."""

    kind: ClassVar[Literal["classes", "values"]]  # of the targets: y [T, B] int64, or [T, B, V]
    metric: ClassVar[Headline]
    width: int  # the outputs of a network for each class, or value

    @abstractmethod
    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, [T, B]: out [T, B, outputs]."""

    @abstractmethod
    def scores(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The metrics of each example, [T, B] by their names; of a density also `pit` [T, B, LEVELS], see `central`."""

    @abstractmethod
    def moments(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a prediction stands for, the class [T, B] or the values [T, B, V], and their standard deviations if it
        tells them."""


@dataclass(frozen=True)
class Categorical(Likelihood):
    kind, metric, width = "classes", "accuracy", 1

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        accuracy = (out.argmax(-1) == y).to(out.dtype)
        brier = (out.softmax(-1) - one_hot(y, out.shape[-1])).square().sum(-1)
        return {"accuracy": accuracy, "log_likelihood": -self.loss(out, y), "brier": brier}

    def moments(self, out: Tensor) -> tuple[Tensor, None]:
        return out.argmax(-1), None


@dataclass(frozen=True)
class SquaredError(Likelihood):
    kind, metric, width = "values", "mse", 1

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().mean(-1)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"mse": self.loss(out, y)}

    def moments(self, out: Tensor) -> tuple[Tensor, None]:
        return out, None


class Link(Enum):
    """How an output becomes a positive number."""

    softplus = "softplus"  # log(1 + e^r)
    exp = "exp"


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Independent normal distributions of the values: V means, then V outputs of which deviations are made."""

    floor: Share = 0.1  # f
    link: Link = Link.softplus

    kind, metric, width = "values", "log_likelihood", 2

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        if out.dim() == y.dim():
            return self._surprise(out, y)
        log_density = -self._surprise(out, y.unsqueeze(2))  # [T, B, Z]
        return math.log(out.shape[2]) - torch.logsumexp(log_density, 2)

    def _surprise(self, out: Tensor, y: Tensor) -> Tensor:
        """-log p(y) of each normal distribution: out [..., 2V], y [..., V] -> [...]."""
        mean, deviation = self.components(out)
        return (0.5 * ((y - mean) / deviation).square() + deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        scores = {"log_likelihood": -self.loss(out, y), "mse": SquaredError().loss(self.moments(out)[0], y)}
        mean, deviation = self.components(out if out.dim() > y.dim() else out.unsqueeze(2))  # [T, B, Z, V]
        below = torch.special.ndtr((y.unsqueeze(2) - mean) / deviation).mean(2)  # the probability of less than y
        return scores | central(below) | {"crps": continuous_ranked_probability(mean, deviation, y).mean(-1)}

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = self.components(out)
        if out.dim() < 4:
            return mean, deviation
        return mean.mean(2), (deviation.square().mean(2) + mean.var(2, correction=0)).sqrt()

    def quantile(self, out: Tensor, share: Tensor) -> Tensor:
        """The value below which this share [T, B, V] of the probability lies, [T, B, V]: out [T, B, 2V]."""
        mean, deviation = self.components(out)
        value: Tensor = mean + deviation * torch.special.ndtri(share)
        return value

    def improvement(self, out: Tensor, best: Tensor) -> Tensor:
        """The mean of max(y - best, 0), [T, B, V]: out [T, B, 2V], best [T, 1, 1]."""
        mean, deviation = self.components(out)
        return deviation * _mean_excess((best - mean) / deviation)

    def components(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """The means and deviations of the normal distributions, [..., V] each: out [..., 2V]."""
        mean, raw = out.chunk(2, -1)
        return mean, self.floor + (1 - self.floor) * (raw.exp() if self.link is Link.exp else F.softplus(raw))

    def outputs(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """The outputs [..., 2V] that stand for these means and deviations, [..., V] each and above the floor."""
        linked = ((deviation - self.floor) / (1 - self.floor)).clamp(min=torch.finfo(deviation.dtype).tiny)
        raw = linked.log() if self.link is Link.exp else linked + (-(-linked).expm1()).log()
        return torch.cat([mean, raw], -1)


EXACT = Gaussian(floor=0.0, link=Link.exp)  # what can stand for every normal distribution


def _mean_excess(z: Tensor) -> Tensor:
    """The mean of max(n - z, 0) of a standard normal number n."""
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    excess: Tensor = density - z * torch.special.ndtr(-z)
    return excess


def merged(likelihood: Likelihood, out: Tensor) -> Tensor:
    """Outputs [T, B, 2V] with the means and deviations of a mixture [T, B, Z, 2V]; other outputs as they are."""
    if not isinstance(likelihood, Gaussian) or out.dim() < 4:
        return out
    return likelihood.outputs(*likelihood.moments(out))


def in_turn(mean: Tensor, factor: Tensor, y: Tensor) -> Tensor:
    """The normal distribution of each of N values given those before it, as outputs [T, N, 2] of EXACT: mean and y
    [T, N, 1] of a joint one with the covariance L L', its factor L [T, N, N]."""
    normal = torch.linalg.solve_triangular(factor, y - mean, upper=False)
    deviation = factor.diagonal(dim1=1, dim2=2).unsqueeze(-1)
    return torch.cat([y - deviation * normal, deviation.log()], -1)


@dataclass(frozen=True)
class Bars(Likelihood):
    """A histogram of each value: the logits of K bars."""

    bars: Bins = 100  # K
    bar_spread: Positive = 1.0  # s

    kind, metric = "values", "log_likelihood"

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.bars

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        log_mass, y, (borders, widths, tail) = self._by_value(out), y.unsqueeze(-1), self.edges(out)
        beyond = torch.cat([borders[:1] - y, y - borders[-1:]], -1).clamp(min=0) / tail  # [T, B, V, 2]
        log_tail = 0.5 * math.log(2 / math.pi) - math.log(tail) - 0.5 * beyond.square()
        inner = -widths.log().expand(*y.shape[:-1], -1)
        log_density = log_mass + torch.cat([log_tail[..., :1], inner, log_tail[..., 1:]], -1)
        return -log_density.gather(-1, torch.searchsorted(borders, y.contiguous()))[..., 0].sum(-1)

    def scores(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        scores = {"log_likelihood": -self.loss(out, y), "mse": SquaredError().loss(self.moments(out)[0], y)}
        return scores | central(self.below(out, y))

    def moments(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mass, (borders, widths, tail) = self._by_value(out).exp(), self.edges(out)
        step = math.sqrt(2 / math.pi) * tail
        middle = torch.cat([borders[:1] - step, borders[:-1] + 0.5 * widths, borders[-1:] + step])
        end = borders.new_full((1,), tail**2 - step**2)
        own = torch.cat([end, widths.square() / 12, end])  # variances
        mean = (mass * middle).sum(-1)
        return mean, (mass * (own + (middle - mean.unsqueeze(-1)).square())).sum(-1).sqrt()

    def below(self, out: Tensor, y: Tensor) -> Tensor:
        """The probability of less than y, [T, B, V]."""
        mass, y, (borders, widths, tail) = self._by_value(out).exp(), y.unsqueeze(-1), self.edges(out)
        low, high = (((y - border) / tail / math.sqrt(2)) for border in (borders[0], borders[-1]))
        inside = ((y - borders[:-1]) / widths).clamp(0, 1)  # the share of each bar that is below y
        share: Tensor = torch.cat([1 + low.clamp(max=0).erf(), inside, high.clamp(min=0).erf()], -1)
        return (mass * share).sum(-1)

    def quantile(self, out: Tensor, share: Tensor) -> Tensor:
        """The value below which this share [T, B, V] of the probability lies, [T, B, V]."""
        mass, (borders, widths, tail) = self._by_value(out).exp(), self.edges(out)
        below, share = mass.cumsum(-1), share.unsqueeze(-1)
        place = torch.searchsorted(below, share.contiguous()).clamp(max=self.bars - 1)
        part = ((share - (below - mass).gather(-1, place)) / mass.gather(-1, place)).clamp(0, 1)  # of that bar
        ends = (
            borders[0] + tail * torch.special.ndtri(part / 2),
            borders[-1] + tail * torch.special.ndtri(0.5 + part / 2),
        )
        inner = (place - 1).clamp(0, self.bars - 3)
        value = (borders[inner] + part * widths[inner]).where(place > 0, ends[0])
        return value.where(place < self.bars - 1, ends[1])[..., 0]

    def improvement(self, out: Tensor, best: Tensor) -> Tensor:
        """The mean of max(y - best, 0), [T, B, V]: best [T, 1, 1]."""
        mass, (borders, widths, tail) = self._by_value(out).exp(), self.edges(out)
        above = borders - best.unsqueeze(-1)  # [T, 1, 1, K - 1]
        reached = above.clamp(min=0)
        inner = reached.square().diff() / (2 * widths)
        beyond = 2 * tail * _mean_excess(torch.cat([reached[..., :1], (-above[..., -1:]).clamp(min=0)], -1) / tail)
        low = beyond[..., :1] + reached[..., :1] - math.sqrt(2 / math.pi) * tail
        return (mass * torch.cat([low, inner, beyond[..., 1:] + reached[..., -1:]], -1)).sum(-1)

    def edges(self, like: Tensor) -> tuple[Tensor, Tensor, float]:
        """The borders between bars [K - 1], the widths of those that have two [K - 2], and the deviation of the normal
        distributions at the ends."""
        share = torch.arange(1, self.bars, dtype=torch.float64) / self.bars
        borders: Tensor = self.bar_spread * torch.special.ndtri(share)
        end = self.bar_spread * torch.special.ndtri(share.new_tensor(1 - 0.5 / self.bars)) - borders[-1]
        tail = (end / torch.special.ndtri(share.new_tensor(0.75))).item()
        return borders.to(like), borders.diff().to(like), tail

    def _by_value(self, out: Tensor) -> Tensor:
        """The logarithms of the masses of the bars: out [T, B, V K] -> [T, B, V, K]."""
        return out.view(*out.shape[:-1], -1, self.bars).log_softmax(-1)


Density = Gaussian | Bars


class OfValues(Enum):
    squared_error = "squared_error"
    gaussian = "gaussian"
    bars = "bars"


@dataclass(frozen=True)
class ValuesLikelihood:
    """The keys by which a task of values chooses its likelihood."""

    likelihood: OfValues = OfValues.squared_error
    deviation_floor: Share = 0.1  # of gaussian
    deviation_link: Link = Link.softplus  # of gaussian
    bars: Bins = 100  # of bars
    bar_spread: Positive = 1.0  # of bars

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    def chosen(self) -> Likelihood:
        if self.likelihood is OfValues.bars:
            return Bars(self.bars, self.bar_spread)
        is_gaussian = self.likelihood is OfValues.gaussian
        return Gaussian(self.deviation_floor, self.deviation_link) if is_gaussian else SquaredError()
