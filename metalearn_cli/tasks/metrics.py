"""What a test is measured by: every metric with its direction, its unit and its range. Nothing here needs torch."""

import math
from collections.abc import Iterable
from typing import Annotated, NamedTuple

from metalearn_cli.system.limits import Limit


class Metric(NamedTuple):
    about: str  # what it is, for `metalearn list metric`
    title: str  # of an axis
    example: str  # a bound that a script may expect
    is_higher_better: bool = False
    lowest: float = 0.0
    highest: float = math.inf
    unit: str = ""  # "%": a person sees it in percent, files hold it in 0..1

    @property
    def factor(self) -> int:
        """By what a value is multiplied for a person."""
        return 100 if self.unit else 1

    @property
    def sign(self) -> int:
        """1 where a larger value is a better one, else -1."""
        return 1 if self.is_higher_better else -1

    @property
    def worst(self) -> float:
        """The value beyond every bound, for which a NaN is taken."""
        return -self.sign * math.inf

    @property
    def is_ratio(self) -> bool:
        """Whether values have 0 as their end and no other, so that they may stand on a logarithmic axis."""
        return (self.lowest, self.highest) == (0, math.inf)

    def best(self, values: Iterable[float]) -> float:
        """The best of some values."""
        return max(values) if self.is_higher_better else min(values)


METRICS = {
    "accuracy": Metric(
        "share of query examples that are classified correctly, 0..1",
        title="accuracy",
        example="accuracy>=0.95",
        is_higher_better=True,
        highest=1.0,
        unit="%",
    ),
    "mse": Metric(
        "squared error of the query values",
        title="squared error (mse)",
        example="mse<=0.75",
    ),
    "log_likelihood": Metric(
        "log of the probability, or the density, that a query example's target was given, in nats",
        title="log-likelihood",
        example="log_likelihood>=-0.5",
        is_higher_better=True,
        lowest=-math.inf,
    ),
    "brier": Metric(
        "squared error of the classes' probabilities, summed over classes, 0..2 (Brier 1950)",
        title="Brier score",
        example="brier<=0.2",
        highest=2.0,
    ),
    "ece": Metric(
        "size of confidence minus accuracy, mean over 15 bins of confidence, 0..1 (Guo et al. 2017)",
        title="calibration error",
        example="ece<=0.05",
        highest=1.0,
        unit="%",
    ),
}
MetricName = Annotated[str, Limit(f"one of {', '.join(METRICS)}", METRICS.__contains__)]
