"""An axis: where a value lies in a picture, and which round numbers stand beside it."""

import math
from typing import NamedTuple


class Axis(NamedTuple):
    low: float
    high: float
    start: float  # where `low` lies on the page
    end: float  # where `high` lies
    is_log: bool = False

    def at(self, value: float) -> float:
        """The place of a value; what is far outside is pulled nearer."""
        low, high = (math.log10(end) for end in (self.low, self.high)) if self.is_log else (self.low, self.high)
        value = math.log10(max(value, 1e-300)) if self.is_log else value
        share = (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(max(share, -2.0), 3.0)

    def ticks(self) -> list[float]:
        """Some round numbers; on a logarithmic axis powers of ten, of a short one also twice and five times those."""
        if not self.is_log:
            unit = 10.0 ** math.floor(math.log10((self.high - self.low) / 3))
            step = next(unit * factor for factor in (5, 2, 1) if unit * factor <= (self.high - self.low) / 3)
            return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        powers = range(first, last + 1, math.ceil((last - first) / 6))
        marks = [factor * 10.0**power for power in powers for factor in factors]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def axis_of(values: list[float], start: float, end: float, is_log: bool = False, margin: float = 0.05) -> Axis:
    """An axis that holds these values, with a share of its length beyond them at either end."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
    low, high = min(finite), max(finite)
    if is_log:
        high = high if high > low else 10 * low
        room = (high / low) ** margin
        return Axis(low / room, high * room, start, end, True)
    room = margin * (high - low) if high > low else 0.5 * abs(high) or 1.0
    return Axis(low - room, high + room, start, end)


def tick_label(value: float) -> str:
    """Write 1000 as 1000, and 60000 as 60k."""
    if 10_000 <= abs(value) < 1e9 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
