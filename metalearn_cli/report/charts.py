"""Charts as SVG: colours come from the page's style sheet, so that they follow its light and dark theme.

A series has a number, which chooses colour and dashes and stands at the line's end: nothing is said by colour alone.
"""

import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from metalearn_cli.pictures.axis import Axis, axis_of, tick_label
from metalearn_cli.run_folder.read import Values

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 440, 52, 414, 12, 210  # of a chart, and where its axes end
BELOW = 40  # the axes
COLOURS, INK = 7, 4  # the series whose colour is that of the text
ROW, BINS = 46, 40  # of histograms

Point = tuple[float, float]


class Line(NamedTuple):
    series: int  # from 0 on
    points: Sequence[Point]  # all finite
    label: str = ""  # at its end
    band: Sequence[Point] = ()  # its outline
    ring: float | None = None  # the x of a point that is marked
    dots: bool = False


class Spread(NamedTuple):
    """The results of a setting's seeds: their mean, the lowest and the highest; all finite."""

    mean: float
    low: float
    high: float


def svg(body: list[str], title: str, about: str, bottom: float = BOTTOM) -> str:
    """Draw a whole chart; a screen reader says `title` and `about`."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + BELOW:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>{''.join(body)}</svg>"
    )


def breakable(text: str) -> str:
    """Write a long name as HTML that a browser may break behind its slashes and the like."""
    return re.sub(r"([/,_=-])(?=[\w(])", r"\1<wbr>", escape(text))


def _text(x: float, y: float, content: str, kind: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _circle(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'


def _path(kind: str, points: Sequence[Point], end: str = "") -> str:
    """Draw a line through these points; `end` Z closes it."""
    return f'<path class="{kind}" d="M{"L".join(f"{x:.1f},{y:.1f}" for x, y in points)}{end}"/>'


def _axes(x: Axis, y: Axis | None, labels: tuple[str, str], bottom: float, names: list[str] | None = None) -> list[str]:
    """Draw the grid, ticks and labels; `names`, where given, stand at 0, 1, ... in place of numbers."""
    parts = [_text((LEFT + RIGHT) / 2, bottom + 32, labels[0], "label")]
    if y is not None:
        parts.append(_text(LEFT - 44, TOP - 1, labels[1], "label", "start"))
        for tick in y.ticks():
            parts.append(_rule("grid", LEFT, y.at(tick), RIGHT, y.at(tick)))
            parts.append(_text(LEFT - 6, y.at(tick) + 4, tick_label(tick), "tick", "end"))
    for place, name in enumerate(names) if names else ((tick, tick_label(tick)) for tick in x.ticks()):
        parts.append(_text(x.at(place), bottom + 15, name, "tick"))
    parts.append(_rule("axis", LEFT, bottom, RIGHT, bottom))
    return parts


def line_chart(
    lines: list[Line],
    title: str,
    labels: tuple[str, str],
    is_log: bool = False,
    levels: dict[str, float] | None = None,
    top: float = np.inf,
) -> str:
    """Draw curves with bands; `levels` are horizontal lines with a name, and what lies above `top` is cut off."""
    levels = {name: value for name, value in (levels or {}).items() if value > 0 or not is_log}
    means = [value for line in lines for _, value in line.points]
    lowest = min(means) if is_log else -np.inf  # a band may go down to 0, which has no place on a logarithmic axis
    values = np.clip([*means, *(value for line in lines for _, value in line.band)], lowest, top).tolist()
    x = axis_of([place for line in lines for place, _ in line.points], LEFT + 6, RIGHT, margin=0.0)
    y = axis_of([*values, *levels.values()], BOTTOM, TOP + 14, is_log)
    parts = _axes(x, y, labels, BOTTOM)
    for name, value in levels.items():
        parts.append(_rule("level", LEFT, y.at(value), RIGHT, y.at(value)))
        parts.append(_text(RIGHT, y.at(value) - 4, name, "tick", "end"))
    left, width, height = LEFT - 3, RIGHT - LEFT + 10, BOTTOM - TOP + 3  # what leaves the axes is cut off
    parts.append(
        f'<svg x="{left}" y="{TOP}" width="{width}" height="{height}" viewBox="{left} {TOP} {width} {height}">'
    )
    parts += [*(_line(line, x, y) for line in lines), "</svg>"]
    ends = _apart([min(max(y.at(line.points[-1][1]), TOP + 14), BOTTOM) for line in lines], 12)
    for end, line in zip(ends, lines, strict=True):
        parts.append(_text(x.at(line.points[-1][0]) + 6, end + 4, line.label, f"end s{line.series % COLOURS}", "start"))
    return svg(parts, title, "; ".join(f"{line.label}: ends at {line.points[-1][1]:.4g}" for line in lines))


def _line(line: Line, x: Axis, y: Axis) -> str:
    places, kind = [(x.at(px), y.at(py)) for px, py in line.points], f"s{line.series % COLOURS}"
    parts = []
    if line.band:
        parts.append(_path(f"band {kind}", [(x.at(px), y.at(py)) for px, py in line.band], "Z"))
    parts.append(_path(f"line {kind} dash{line.series // COLOURS % 3}", places))
    if line.dots or len(places) == 1:
        parts += [_circle(f"dot {kind}", *place, 2.5) for place in places]
    parts += [_circle(f"ring {kind}", x.at(px), y.at(py), 5) for px, py in line.points if px == line.ring]
    return "".join(parts)


def _apart(places: list[float], least: float) -> list[float]:
    """Return the places in their order, moved so that no two labels overlap, nor one a number of the axis below."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + least)
    overflow = max([0.0, *(place - (BOTTOM - 4) for place in moved)])
    return [place - overflow for place in moved]


def spread_chart(
    spreads: Sequence[tuple[float, Spread]],
    lines: list[Line],
    x: Axis,
    title: str,
    labels: tuple[str, str],
    names: list[str] | None = None,
) -> str:
    """Draw a dot for the mean of each setting's seeds, with a thin line from the lowest to the highest, and lines."""
    y = axis_of([end for _, spread in spreads for end in spread], BOTTOM, TOP + 14, margin=0.08)
    parts = [*_axes(x, y, labels, BOTTOM, names), *(_line(line, x, y) for line in lines)]
    for place, spread in spreads:
        parts.append(_rule("spread s0", x.at(place), y.at(spread.low), x.at(place), y.at(spread.high)))
        parts.append(_circle("dot s0", x.at(place), y.at(spread.mean), 4))
    about = [f"{line.label}: {line.points[-1][1]:.4g}" for line in lines]
    return svg(parts, title, "; ".join([f"{len(spreads)} settings by {labels[0]}", *about]))


def ridges(rows: list[tuple[int, str, Values]], title: str, x_label: str) -> str:
    """Draw a histogram of each row's values [E] over one axis, with its quartiles, median and mean; what lies beyond
    the axis is counted at its right."""
    finite = np.concatenate([values[np.isfinite(values)] for _, _, values in rows])
    low, bulk, high = np.quantile(finite, [0.0, 0.97, 1.0]).tolist() if len(finite) else (0.0, 1.0, 1.0)
    high = bulk if bulk < low + 0.5 * (high - low) else high  # a few that diverged would leave nothing to see
    x = axis_of([low, high], LEFT, RIGHT - 26, margin=0.02)
    edges = np.linspace(x.low, x.high, BINS + 1)
    parts = _axes(x, None, (x_label, ""), TOP + ROW * len(rows))
    for number, (series, label, values) in enumerate(rows):
        bottom, kind = TOP + ROW * (number + 1) - 12.0, f"s{series % COLOURS}"
        count = np.histogram(values[np.isfinite(values)], edges)[0]
        levels = np.repeat(bottom - (ROW - 16) / max(1, count.max()) * count, 2).tolist()
        outline = zip(map(x.at, np.repeat(edges, 2).tolist()), [bottom, *levels, bottom], strict=True)
        parts.append(_path(f"area {kind}", list(outline), "Z"))
        parts.append(_text(LEFT - 8, bottom - 4, label, f"end {kind}", "end"))
        with np.errstate(invalid="ignore"):
            lower, median, upper = map(x.at, np.nan_to_num(np.quantile(values, [0.25, 0.5, 0.75])).tolist())
        parts.append(_rule(f"quartiles {kind}", lower, bottom + 5, upper, bottom + 5))
        parts.append(_rule("median", median, bottom, median, bottom + 10))
        if np.isfinite(mean := float(values.mean())):
            parts.append(_circle("mean", x.at(mean), bottom + 5, 3))
        if beyond := int((~np.isfinite(values) | (values > x.high)).sum()):
            parts.append(_text(RIGHT + 22, bottom, f"+{beyond}", "tick", "end"))
    about = "; ".join(f"{label}: median {np.median(values):.4g} of {len(values)} episodes" for _, label, values in rows)
    return svg(parts, title, about, TOP + ROW * len(rows))
