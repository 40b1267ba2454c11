"""How the outputs of a network are a prediction: its loss, what it is scored by, and the values that it stands for.

Categorical:    -log p(y) = -log softmax(out)_y
SquaredError:   mean over the values of (out - y)^2
Gaussian:       -log p(y) = sum over the values of (y - m)^2 / (2 d^2) + log d + log(2 pi) / 2,  d = f + (1 - f) link(r)
                for outputs m, r. Conditional Neural Processes (Garnelo et al. 2018, arXiv 1807.01613) have f = 0.1 and
                softplus in the authors' code, Transformer Neural Processes (Nguyen and Grover 2022, arXiv 2207.04179)
                f = 0 and exp.

Shapes: T tasks, B examples, V values of an example, W classes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.system.limits import Share, check_limits

BINS = 15  # of confidence, for the calibration error


class Likelihood(ABC):
    """A final class is a frozen dataclass."""

    kind: ClassVar[Literal["classes", "values"]]  # of the targets
    metric: ClassVar[str]  # the headline, a name in METRICS

    @abstractmethod
    def outputs(self, number: int) -> int:
        """The outputs of a network for so many classes, or values of an example."""

    @abstractmethod
    def targets(self, outputs: int) -> int:
        """The numbers in the target of an example, for a network with so many outputs."""

    @abstractmethod
    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, [T, B]: out [T, B, outputs], y [T, B] for classes and [T, B, V] for values."""

    @abstractmethod
    def score(self, out: Tensor, y: Tensor) -> Tensor:
        """The headline metric of each example, [T, B]."""

    @abstractmethod
    def scores_beside(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The other metrics of each example, [T, B] by their names."""

    @abstractmethod
    def point(self, out: Tensor) -> Tensor:
        """The class [T, B], or the values [T, B, V], that a prediction stands for."""

    @abstractmethod
    def deviation(self, out: Tensor) -> Tensor | None:
        """The standard deviation of each value, [T, B, V]; None where nothing is said of it."""


@dataclass(frozen=True)
class Categorical(Likelihood):
    kind = "classes"
    metric = "accuracy"

    def outputs(self, number: int) -> int:
        return number

    def targets(self, outputs: int) -> int:
        return 1

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return (out.argmax(-1) == y).to(out.dtype)

    def scores_beside(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        brier = (out.softmax(-1) - F.one_hot(y, out.shape[-1])).square().sum(-1)
        return {"log_likelihood": -self.loss(out, y), "brier": brier}

    def point(self, out: Tensor) -> Tensor:
        return out.argmax(-1)

    def deviation(self, out: Tensor) -> None:
        return None


@dataclass(frozen=True)
class SquaredError(Likelihood):
    kind = "values"
    metric = "mse"

    def outputs(self, number: int) -> int:
        return number

    def targets(self, outputs: int) -> int:
        return outputs

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        return (out - y).square().mean(-1)

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return self.loss(out, y)

    def scores_beside(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {}

    def point(self, out: Tensor) -> Tensor:
        return out

    def deviation(self, out: Tensor) -> None:
        return None


class Link(Enum):
    """How an output becomes a positive number."""

    softplus = "softplus"  # log(1 + e^r)
    exp = "exp"

    def __call__(self, raw: Tensor) -> Tensor:
        return F.softplus(raw) if self is Link.softplus else raw.exp()


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Independent normal distributions of the values: the first half of the outputs are means, the other half raw
    deviations."""

    floor: Share = 0.1  # f
    link: Link = Link.softplus

    kind = "values"
    metric = "log_likelihood"

    def outputs(self, number: int) -> int:
        return 2 * number

    def targets(self, outputs: int) -> int:
        return outputs // 2

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        deviation = self.deviation(out)
        distance = (y - self.point(out)) / deviation
        return (0.5 * distance.square() + deviation.log() + 0.5 * math.log(2 * math.pi)).sum(-1)

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        return -self.loss(out, y)

    def scores_beside(self, out: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"mse": SquaredError().loss(self.point(out), y)}

    def point(self, out: Tensor) -> Tensor:
        return out.chunk(2, -1)[0]

    def deviation(self, out: Tensor) -> Tensor:
        return self.floor + (1 - self.floor) * self.link(out.chunk(2, -1)[1])


class OfValues(Enum):
    squared_error = "squared_error"
    gaussian = "gaussian"


@dataclass(frozen=True)
class ValuesLikelihood:
    """The keys by which a task of values chooses its likelihood."""

    likelihood: OfValues = OfValues.squared_error
    deviation_floor: Share = 0.1  # f, of a gaussian
    deviation_link: Link = Link.softplus  # of a gaussian

    def __post_init__(self) -> None:
        check_limits(self, "task.")

    @property
    def chosen(self) -> Likelihood:
        is_gaussian = self.likelihood is OfValues.gaussian
        return Gaussian(self.deviation_floor, self.deviation_link) if is_gaussian else SquaredError()


def calibration(out: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """What a calibration error is made of (Guo et al. 2017, arXiv 1706.04599): of the examples of each task whose
    highest probability lies in ((i - 1) / 15, i / 15] their number, the sum of that probability, and how many are
    right. Logits out [T, B, W], y [T, B], mask [T, B] -> [T, 3, 15]."""
    confidence, predicted = out.softmax(-1).max(-1)
    place = (BINS * confidence.nan_to_num()).ceil().long().sub(1).clamp(0, BINS - 1)
    parts = torch.stack([torch.ones_like(confidence), confidence, (predicted == y).to(out.dtype)], 1)  # [T, 3, B]
    parts = parts if mask is None else parts.where(mask[:, None], 0)
    return (parts[..., None] * F.one_hot(place, BINS)[:, None]).sum(2)
