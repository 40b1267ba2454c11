"""Translate Hydra's grammar of sweeps into Optuna's distributions.

choice(a,b) or a,b          one of them
interval(0.1,1)             a number between; tag(log,interval(0.001,1)) by its order of magnitude
int(interval(1,8))          a whole number between, both ends included; int(tag(log,interval(1,64)))
range(1,9,2)                as everywhere in Hydra: 1, 3, 5, 7
"""

import math

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from metalearn_cli.errors import UserError


def distribution(override: Override) -> BaseDistribution:
    """Translate one override. Raises UserError where there is nothing to choose from."""
    swept, given = override.value(), override.input_line
    if unknown := sorted(swept.tags - {"log", "int"}) if isinstance(swept, IntervalSweep | RangeSweep) else []:
        raise UserError(f"{given}: a search knows the tags log and int, not {unknown[0]}")
    if isinstance(swept, IntervalSweep):
        return _interval(given, swept)
    if isinstance(swept, RangeSweep) and not swept.shuffle:
        return _range(given, swept)
    if isinstance(swept, ChoiceSweep | RangeSweep):
        swept.shuffle = False  # the order means nothing to a search, and must be the same in every command
    return CategoricalDistribution(list(dict.fromkeys(map(str, override.sweep_string_iterator()))))


def choice(values: list[str]) -> BaseDistribution:
    return CategoricalDistribution(values)


def _interval(given: str | None, swept: IntervalSweep) -> BaseDistribution:
    low, high, is_log = swept.start, swept.end, "log" in swept.tags
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{given}: an interval goes from one finite number to another")
    is_whole = "int" in swept.tags or (isinstance(low, int) and isinstance(high, int))
    low, high = (int(low), int(high)) if is_whole else (float(low), float(high))
    if not low < high:
        whole = f", and {low} to {high} in whole numbers does not" if is_whole else ""
        raise UserError(f"{given}: an interval goes from a lower number to a higher one{whole}")
    if is_log and low <= 0:
        raise UserError(
            f"{given}: tag(log) needs an interval above 0{', in whole numbers from 1 on' if is_whole else ''}"
        )
    return IntDistribution(int(low), int(high), log=is_log) if is_whole else FloatDistribution(low, high, log=is_log)


def _range(given: str | None, swept: RangeSweep) -> BaseDistribution:
    if not all(end is not None and math.isfinite(end) for end in (swept.start, swept.stop, swept.step)):
        raise UserError(f"{given}: a range goes from one finite number to another")
    values = sorted(swept.range())
    if not values:
        raise UserError(f"{given} is empty")
    low, high, step, is_log = values[0], values[-1], abs(swept.step), "log" in swept.tags
    if is_log and (low <= 0 or step != 1):
        raise UserError(f"{given}: tag(log) needs a range of whole numbers above 0 in steps of 1, or an interval")
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, high, step=1 if is_log else step, log=is_log)
    return FloatDistribution(_round(low), _round(high), step=_round(step))


def shortened(value: object, of: BaseDistribution) -> object:
    """Round a float to six digits, as it will stand in the name of a folder: what is recorded is what is trained."""
    if not isinstance(value, float) or not isinstance(of, FloatDistribution):
        return value
    return min(max(_round(value), of.low), of.high)


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def ends(of: BaseDistribution) -> list[str]:
    """The values that are checked before the first trial: every choice, and both ends of numbers."""
    if isinstance(of, CategoricalDistribution):
        return list(map(str, of.choices))
    assert isinstance(of, FloatDistribution | IntDistribution)
    return [str(of.low), str(of.high)]
