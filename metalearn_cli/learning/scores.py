"""The reported figures of one value per episode, what a script may expect of them, and how a person reads them."""

import math
import operator
import re
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Fraction


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


def summarise(metric: Tensor, diverged: Tensor) -> Summary:
    """One value per episode [E], and which ones diverged [E] bool -> the figures, and the share that diverged."""
    return Summary(*figures(metric), diverged.double().mean().item())


def figures(metric: Tensor) -> Figures:
    """One value per episode [E] -> the figures; None where one is not finite.

    ci95 is the half width of the 95% interval, 1.96 sd / sqrt(E), with the standard deviation over episodes (ddof 0) as
    the field reports it. It tells the noise of sampling episodes for one trained model, not that of training.
    Diverged episodes stay in every figure.
    """
    metric = metric.double()
    metric = metric.where(~metric.isnan(), math.inf)  # only an error can be NaN, and then it is beyond every bound
    ci95 = 1.96 * metric.std(correction=0) / math.sqrt(len(metric))
    return Figures(_finite(metric.mean()), _finite(ci95), _finite(metric.quantile(0.5)))


def has_diverged(kind: str, loss: Tensor, before: Tensor) -> Tensor:
    """Loss [E, *] -> [E, *] bool: not finite, or above 10 (values) or ten times the loss `before` [E] (classes)."""
    limit = torch.tensor(10.0, dtype=loss.dtype) if kind == "values" else 10 * before[:, None]
    return ~torch.isfinite(loss) | (loss > limit)


def is_better(metric_name: str, value: float | None, than: float | None) -> bool:
    """Accuracy is better higher, every error lower; anything is better than nothing."""
    if value is None or than is None:
        return value is not None
    return value > than if metric_name == "accuracy" else value < than


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
        example = "accuracy>=0.95" if metric == "accuracy" else "mse<=0.75"
        raise UserError(f"expect={text!r} must compare the test's {metric} with a number, e.g. expect={example!r}")
    if match[2] is not None and int(match[2]) > steps:
        raise UserError(f"expect={text!r} asks for inner step {match[2]}, and the test takes {steps} (algo.test_steps)")
    expectation = Expectation(None if match[2] is None else int(match[2]), match[3], float(match[4]))
    highest = 1.0 if metric == "accuracy" else math.inf
    if (at_lowest := expectation.met(0.0)) == expectation.met(highest):
        where = "from 0 to 1, where the screen shows percent" if metric == "accuracy" else "0 or above"
        percent = metric == "accuracy" and 1 < expectation.bound <= 100
        hint = f": did you mean {text.replace(match[4], f'{expectation.bound / 100:g}')}?" if percent else ""
        raise UserError(f"expect={text!r} is {'always' if at_lowest else 'never'} met: {metric} is {where}{hint}")
    return expectation


def _finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None


def text_of(value: float | None, metric: str, sign: bool = False) -> str:
    """A value of the metric for a person: accuracies in percent, and "-" for one that is not finite."""
    if value is None:
        return "-"
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f}" if metric == "accuracy" else f"{value:{plus}.4g}"


def with_interval(mean: float | None, ci95: float | None, metric: str) -> str:
    """A mean with the half width of its interval, where it has one."""
    return text_of(mean, metric) + ("" if ci95 is None else f" +- {text_of(ci95, metric)}")


def in_unit(metric: str) -> str:
    """The metric's name with the unit of its figures."""
    return f"{metric} in %" if metric == "accuracy" else metric


def after_steps(inner_steps: int | None) -> str:
    """The words for the inner step that a figure belongs to; empty for what takes no inner steps."""
    return f" after {inner_steps} inner step{'s' * (inner_steps > 1)}" if inner_steps else ""
