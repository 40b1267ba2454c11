"""What a test is measured by: every metric with its direction, range and unit. Nothing here needs torch."""

import math
from typing import Literal, NamedTuple


class Metric(NamedTuple):
    sign: int  # 1 where a larger value is a better one, else -1
    lowest: float
    highest: float
    unit: str  # "%": a person sees it in percent, files have it in 0..1
    example: str  # a bound that a script may expect
    about: str  # what it is, for `metalearn list metric`

    @property
    def factor(self) -> int:
        """By what a value is multiplied for a person."""
        return 100 if self.unit else 1

    @property
    def worst(self) -> float:
        """What is beyond every bound, for which a NaN is taken."""
        return -self.sign * math.inf

    @property
    def is_ratio(self) -> bool:
        """Whether values have an end at 0 and no other, so that a logarithmic axis suits them."""
        return (self.lowest, self.highest) == (0, math.inf)

    def best(self, values: list[float]) -> float:
        return max(values, key=lambda value: self.sign * value)


COVERAGES = (50, 90, 95)  # percent, of central intervals
METRICS = {
    "accuracy": Metric(1, 0, 1, "%", "accuracy>=0.95", "share of query examples that are classified correctly, 0..1"),
    "mse": Metric(-1, 0, math.inf, "", "mse<=0.75", "squared error of the query values"),
    "log_likelihood": Metric(
        *(1, -math.inf, math.inf, "", "log_likelihood>=-0.5"),
        "log of the probability, or the density, of a query example's target, in nats",
    ),
    "joint_log_likelihood": Metric(
        *(1, -math.inf, math.inf, "", "joint_log_likelihood>=-0.5"),
        "log of the density of all query targets of a task together, divided by their number",
    ),
    "oracle_gap": Metric(
        *(-1, -math.inf, math.inf, "", "oracle_gap<=0.5"),
        "log-likelihood of the task itself minus the model's, on the same episodes",
    ),
    "rmse": Metric(-1, 0, math.inf, "", "rmse<=0.5", "root of the squared error of all query values of the test"),
    "crps": Metric(
        *(-1, 0, math.inf, "", "crps<=0.2"),
        "continuous ranked probability score: the absolute error of a prediction without uncertainty (Gneiting 2007)",
    ),
    **{
        f"coverage_{share}": Metric(
            *(1, 0, 1, "%", f"coverage_{share}>={share / 100}"),
            f"share of query values inside the central interval of {share}%, which it should be, 0..1",
        )
        for share in COVERAGES
    },
    "calibration_error": Metric(
        *(-1, 0, 1, "%", "calibration_error<=0.05"),
        "size of the share of query values below their q-quantile minus q, mean over 19 q, 0..1 (Kuleshov et al. 2018)",
    ),
    "brier": Metric(
        *(-1, 0, 2, "", "brier<=0.2"),
        "squared error of the classes' probabilities, summed over classes, 0..2 (Brier 1950)",
    ),
    "ece": Metric(
        *(-1, 0, 1, "%", "ece<=0.05"),
        "size of confidence minus accuracy, mean over 15 bins of confidence, 0..1 (Guo et al. 2017)",
    ),
}
Headline = Literal["accuracy", "mse", "log_likelihood"]  # the first metric of a likelihood
