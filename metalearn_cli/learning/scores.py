"""The reported figures of one value per episode, what a script may expect of them, and how a person reads them."""

import math
import operator
import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Fraction
from metalearn_cli.tasks.metrics import METRICS


class Figures(NamedTuple):
    """What is reported of one value per episode; each is None where it is not finite."""

    mean: float | None
    ci95: float | None
    median: float | None


class Summary(NamedTuple):
    """Figures, and the share of episodes that diverged."""

    mean: float | None
    ci95: float | None
    median: float | None
    diverged: Fraction


def summarise(values: Tensor, diverged: Tensor, worst: float = math.inf) -> Summary:
    """One value per episode [E], and which ones diverged [E] bool -> the figures, and the share that diverged."""
    return Summary(*figures(values, worst), diverged.double().mean().item())


def figures(values: Tensor, worst: float = math.inf) -> Figures:
    """One value per episode [E] -> the figures; None where one is not finite. A NaN is beyond every bound, the `worst`.

    ci95 is the half width of the 95% interval, 1.96 sd / sqrt(E), with the standard deviation over episodes (ddof 0) as
    the field reports it. It tells the noise of sampling episodes for one trained model, not that of training.
    Diverged episodes stay in every figure.
    """
    values = values.double()
    values = values.where(~values.isnan(), worst)
    ci95 = 1.96 * values.std(correction=0) / math.sqrt(len(values))
    return Figures(_finite(values.mean()), _finite(ci95), _finite(values.quantile(0.5)))


def figures_beside(arrays: Mapping[str, Tensor]) -> dict[str, Figures]:
    """What is kept of each episode, [E, ...] by name -> the figures of the metrics in it.

    The calibration error is the sum over bins of |sum of confidences - number of right ones| over the number of all
    examples, of values the mean over q = 1/20 ... 19/20 of |share of values below their q-quantile - q|, and rmse the
    root of the mean squared error: no means over episodes, so that they have neither interval nor median.
    """
    shown = {name: figures(values, METRICS[name].worst) for name, values in arrays.items() if name in METRICS}
    if (sums := arrays.get("calibration")) is not None:
        number, confidence, right = sums.double().sum(0)  # [E, 3, 15] -> [15] each
        shown["ece"] = Figures(_finite((confidence - right).abs().sum() / number.sum()), None, None)
    if (places := arrays.get("pit")) is not None:
        below = places.double().mean(0).cumsum(0)[:-1]  # [E, 20] -> [19]
        levels = torch.arange(1, len(below) + 1, dtype=below.dtype) / (len(below) + 1)
        shown["calibration_error"] = Figures(_finite((below - levels).abs().mean()), None, None)
    if (errors := arrays.get("mse")) is not None:
        shown["rmse"] = Figures(_finite(errors.double().mean().sqrt()), None, None)
    return shown


def has_diverged(metric: str, loss: Tensor, before: Tensor) -> Tensor:
    """Loss [E, *] -> [E, *] bool: not finite, or beyond a limit: ten times the loss `before` [E] for classes, 10 for
    squared errors, 10 above `before` for log-likelihoods."""
    limits = {"accuracy": 10 * before, "mse": torch.full_like(before, 10.0), "log_likelihood": 10 + before}
    return ~torch.isfinite(loss) | (loss > limits[metric][:, None])


def is_better(metric_name: str, value: float | None, than: float | None) -> bool:
    """Tell it by the metric's direction; anything is better than nothing."""
    if value is None or than is None:
        return value is not None
    return value > than if METRICS[metric_name].sign > 0 else value < than


def steps_to_show(last: int) -> list[int]:
    """The inner steps, of 0 to `last`, that a person is shown: all of a few, about a dozen of many."""
    every = math.ceil(last / 10)
    return [step for step in range(last + 1) if last <= 12 or step in (1, 2, 3, 5, last) or step % every == 0]


class Expectation(NamedTuple):
    """What a script expects of the final test, e.g. accuracy>=0.95, or mse_step1<=0.75 after the first inner step."""

    step: int | None  # None: the last one
    sign: str
    bound: float

    def met(self, mean: float | None) -> bool:
        """Tell whether a mean is as expected; one that is not finite (None) never is."""
        compare = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}[self.sign]
        return mean is not None and bool(compare(mean, self.bound))


def parse_expectation(text: str, metric: str, steps: int) -> Expectation:
    """Raises UserError where `text` is not about this metric and these inner steps."""
    number = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    match = re.fullmatch(rf"(\w+?)(?:_step(\d+))?\s*(>=|<=|>|<)\s*({number})", text.strip(), re.ASCII)
    if match is None or match[1] != metric or math.isinf(float(match[4])):
        example = f"expect={METRICS[metric].example!r}"
        raise UserError(f"expect={text!r} must compare the test's {metric} with a number, e.g. {example}")
    if match[2] is not None and int(match[2]) > steps:
        raise UserError(f"expect={text!r} asks for inner step {match[2]}, and the test takes {steps} (algo.test_steps)")
    expectation = Expectation(None if match[2] is None else int(match[2]), match[3], float(match[4]))
    _, lowest, highest, unit, *_ = METRICS[metric]
    if (at_lowest := expectation.met(lowest)) == expectation.met(highest):
        where = "from 0 to 1, where the screen shows percent" if unit else "0 or above"
        percent = unit and 1 < expectation.bound <= 100
        hint = f": did you mean {text.replace(match[4], f'{expectation.bound / 100:g}')}?" if percent else ""
        raise UserError(f"expect={text!r} is {'always' if at_lowest else 'never'} met: {metric} is {where}{hint}")
    return expectation


def _finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None


def text_of(value: float | None, metric: str, sign: bool = False) -> str:
    """A value of the metric for a person: shares in percent, and "-" for one that is not finite."""
    if value is None:
        return "-"
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f}" if METRICS[metric].unit else f"{value:{plus}.4g}"


def with_interval(mean: float | None, ci95: float | None, metric: str) -> str:
    """A mean with the half width of its interval, where it has one."""
    return text_of(mean, metric) + ("" if ci95 is None else f" +- {text_of(ci95, metric)}")


def with_names(rows: Mapping[str, Figures]) -> str:
    """The figures of some metrics in a line."""
    return ", ".join(f"{in_unit(name)} {with_interval(row.mean, row.ci95, name)}" for name, row in rows.items())


def with_labels(rows: Mapping[str, Figures], metric: str, episodes: int | None) -> str:
    """The figures of some predictors, all in this metric and on so many episodes (None: on all), in a line."""
    line = ", ".join(f"{name}: {with_interval(row.mean, row.ci95, metric)}" for name, row in rows.items())
    return f"{line} (on the first {episodes} episodes)" if episodes else line


def in_unit(metric: str) -> str:
    """The metric's name with the unit of its figures."""
    return f"{metric} in {unit}" if (unit := METRICS[metric].unit) else metric


def after_steps(inner_steps: int | None) -> str:
    """The words for the inner step that a figure belongs to; empty for what takes no inner steps."""
    return f" after {inner_steps} inner step{'s' * (inner_steps > 1)}" if inner_steps else ""
