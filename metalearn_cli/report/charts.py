"""Charts as SVG, by hand: colours come from the page's style sheet, so that they follow its light and dark theme.

A series has a number, which chooses colour and dashes and stands at the line's end: nothing is said by colour alone.
"""

import math
import re
from html import escape
from itertools import pairwise
from typing import NamedTuple

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 12, 40
COLOURS = 7

Point = tuple[float, float]


class Line(NamedTuple):
    series: int  # from 0 on
    points: list[Point]
    band: list[float] | None = None  # half widths
    label: str = ""  # at its end
    ring: float | None = None  # the x of a point that is marked
    dashed: bool = False
    dots: bool = False


class Scale(NamedTuple):
    """A value -> a place on the page."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        low, high = (math.log10(end) for end in (self.low, self.high)) if self.is_log else (self.low, self.high)
        value = math.log10(max(value, 1e-300)) if self.is_log else value
        share = (value - low) / (high - low)
        return self.start + (self.end - self.start) * min(max(share, -2.0), 3.0)

    def ticks(self) -> list[float]:
        if not self.is_log:
            return ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        factors = (1, 2, 5) if last - first <= 2 else (1,)
        every = math.ceil((last - first) / 6)
        marks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
        return [mark for mark in marks if self.low * 0.999 <= mark <= self.high * 1.001]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers between the two."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(unit * factor for factor in (5, 2, 1) if unit * factor <= (high - low) / 3)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def scale(values: list[float], start: float, end: float, is_log: bool = False, margin: float = 0.05) -> Scale:
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
    low, high = min(finite), max(finite)
    if is_log:
        high = high if high > low else 10 * low
        room = (high / low) ** margin
        return Scale(low / room, high * room, start, end, True)
    room = margin * (high - low) if high > low else 0.5 * abs(high) or 1.0
    return Scale(low - room, high + room, start, end)


def text_of(value: float) -> str:
    """A tick's label: 1000 as 1000, 60000 as 60k."""
    if 10_000 <= abs(value) < 1e9 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def picture(body: str, title: str, about: str, height: float = HEIGHT) -> str:
    """`title` and `about` are what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>{body}</svg>"
    )


def breakable(text: str) -> str:
    """HTML of a long name, which a browser may break behind its slashes and the like."""
    return re.sub(r"([/,_=-])(?=[\w(])", r"\1<wbr>", escape(text))


def clipped(body: str, top: float = TOP, bottom: float = HEIGHT - BOTTOM) -> str:
    """What leaves the axes is cut off."""
    left, width, height = LEFT - 3, WIDTH - RIGHT - LEFT + 10, bottom - top + 3
    box = f"{left} {top} {width} {height}"
    return f'<svg x="{left}" y="{top}" width="{width}" height="{height}" viewBox="{box}">{body}</svg>'


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def axes(x: Scale, y: Scale | None, x_label: str, y_label: str, bottom: float, names: list[str] | None = None) -> str:
    """Grid, ticks and labels; `names` stand at 0, 1, ... instead of numbers."""
    parts = []
    if y is not None:
        for tick in y.ticks():
            at = y.at(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(text(LEFT - 6, at + 4, text_of(tick), "tick", "end"))
        parts.append(text(LEFT - 44, TOP - 1, y_label, "label", "start"))
    for place, name in enumerate(names) if names else ((tick, text_of(tick)) for tick in x.ticks()):
        parts.append(text(x.at(place), bottom + 15, name, "tick"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 32, x_label, "label"))
    return "".join(parts)


def line_chart(
    lines: list[Line],
    title: str,
    x_label: str,
    y_label: str,
    is_log: bool = False,
    levels: dict[str, float] | None = None,
    top: float | None = None,
) -> str:
    """Curves with bands; `levels` are horizontal lines with a name; what lies above `top` is cut off."""
    bottom, head = HEIGHT - BOTTOM, TOP + 14
    levels = {name: value for name, value in (levels or {}).items() if value > 0 or not is_log}
    # On a logarithmic axis a band may go down to 0: what lies below every mean is not shown.
    ends = [y + sign * half for line in lines for (_, y), half in _with_band(line) for sign in (0 if is_log else -1, 1)]
    if top is not None:
        ends = [min(end, top) for end in ends]
    x = scale([px for line in lines for px, _ in line.points], LEFT + 6, WIDTH - RIGHT, margin=0.0)
    y = scale([*ends, *levels.values()], bottom, head, is_log)
    parts = [axes(x, y, x_label, y_label, bottom)]
    for name, value in levels.items():
        at = y.at(value)
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(WIDTH - RIGHT, at - 4, name, "tick", "end"))
    parts.append(clipped("".join(_line(line, x, y) for line in lines)))
    finals = [(min(max(y.at(line.points[-1][1]), head), bottom), line) for line in lines if line.label and line.points]
    for at, (_, line) in zip(apart([at for at, _ in finals], 12), finals, strict=True):
        end = x.at(line.points[-1][0])
        parts.append(text(end + 6, at + 4, line.label, f"end s{line.series % COLOURS}", "start"))
    about = "; ".join(f"{line.label or title}: ends at {line.points[-1][1]:.4g}" for line in lines if line.points)
    return picture("".join(parts), title, about)


def _with_band(line: Line) -> list[tuple[Point, float]]:
    finite = [(point, half) for point, half in zip(line.points, line.band or [0.0] * len(line.points), strict=True)]
    return [(point, half) for point, half in finite if math.isfinite(point[1]) and math.isfinite(half)]


def _line(line: Line, x: Scale, y: Scale) -> str:
    shown = [(x.at(px), y.at(py)) for px, py in line.points if math.isfinite(py)]
    kind = f"s{line.series % COLOURS}"
    dash = (line.series // COLOURS) % 3 if not line.dashed else 1
    parts = []
    if line.band:
        rows = _with_band(line)
        upper = [(x.at(px), y.at(py + half)) for (px, py), half in rows]
        lower = [(x.at(px), y.at(py - half)) for (px, py), half in reversed(rows)]
        parts.append(f'<path class="band {kind}" d="{path(upper + lower)}Z"/>')
    parts.append(f'<path class="line {kind} dash{dash}" d="{path(shown)}"/>')
    if line.dots or len(shown) == 1:
        parts += [f'<circle class="dot {kind}" cx="{px:.1f}" cy="{py:.1f}" r="2.5"/>' for px, py in shown]
    for px, py in line.points:
        if px == line.ring and math.isfinite(py):
            parts.append(f'<circle class="ring {kind}" cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="5"/>')
    return "".join(parts)


def path(points: list[Point]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""


def apart(places: list[float], least: float) -> list[float]:
    """Places moved so that labels do not lie on each other, in their order."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + least)
    overflow = max([0.0, *(place - (HEIGHT - BOTTOM + 4) for place in moved)])
    return [place - overflow for place in moved]
