"""Charts as SVG: colours come from the page's style sheet, so that they follow its light and dark theme.

A series has a number, which chooses colour and dashes and stands at the line's end: nothing is said by colour alone.
"""

import math
import re
from html import escape
from itertools import pairwise
from typing import NamedTuple

from metalearn_cli.pictures.axis import Axis, axis_of, tick_label

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


def svg(body: str, title: str, about: str, height: float = HEIGHT) -> str:
    """A whole chart; a screen reader says `title` and `about`."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(about)}</desc>{body}</svg>"
    )


def breakable(text: str) -> str:
    """HTML of a long name, which a browser may break behind its slashes and the like."""
    return re.sub(r"([/,_=-])(?=[\w(])", r"\1<wbr>", escape(text))


def clipped(body: str, top: float = TOP, bottom: float = HEIGHT - BOTTOM) -> str:
    """Cut off what leaves the axes."""
    left, width, height = LEFT - 3, WIDTH - RIGHT - LEFT + 10, bottom - top + 3
    box = f"{left} {top} {width} {height}"
    return f'<svg x="{left}" y="{top}" width="{width}" height="{height}" viewBox="{box}">{body}</svg>'


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'


def axes(x: Axis, y: Axis | None, x_label: str, y_label: str, bottom: float, names: list[str] | None = None) -> str:
    """The grid, ticks and labels; at 0, 1, ... stand `names` instead of numbers, where they are given."""
    parts = []
    if y is not None:
        for tick in y.ticks():
            at = y.at(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(text(LEFT - 6, at + 4, tick_label(tick), "tick", "end"))
        parts.append(text(LEFT - 44, TOP - 1, y_label, "label", "start"))
    for place, name in enumerate(names) if names else ((tick, tick_label(tick)) for tick in x.ticks()):
        parts.append(text(x.at(place), bottom + 15, name, "tick"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 32, x_label, "label"))
    return "".join(parts)


def line_chart(
    lines: list[Line],
    title: str,
    labels: tuple[str, str],
    is_log: bool = False,
    levels: dict[str, float] | None = None,
    top: float | None = None,
) -> str:
    """Curves with bands, over axes with these two labels; `levels` are horizontal lines with a name; what lies above
    `top` is cut off."""
    bottom, head = HEIGHT - BOTTOM, TOP + 14
    levels = {name: value for name, value in (levels or {}).items() if value > 0 or not is_log}
    # On a logarithmic axis a band may go down to 0: what lies below every mean is not shown.
    ends = [y + sign * half for line in lines for (_, y), half in _with_band(line) for sign in (0 if is_log else -1, 1)]
    if top is not None:
        ends = [min(end, top) for end in ends]
    x = axis_of([px for line in lines for px, _ in line.points], LEFT + 6, WIDTH - RIGHT, margin=0.0)
    y = axis_of([*ends, *levels.values()], bottom, head, is_log)
    parts = [axes(x, y, *labels, bottom)]
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
    return svg("".join(parts), title, about)


def _with_band(line: Line) -> list[tuple[Point, float]]:
    finite = [(point, half) for point, half in zip(line.points, line.band or [0.0] * len(line.points), strict=True)]
    return [(point, half) for point, half in finite if math.isfinite(point[1]) and math.isfinite(half)]


def _line(line: Line, x: Axis, y: Axis) -> str:
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
    """The places in their order, moved so that no two labels overlap."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for before, i in pairwise(order):
        moved[i] = max(moved[i], moved[before] + least)
    overflow = max([0.0, *(place - (HEIGHT - BOTTOM + 4) for place in moved)])
    return [place - overflow for place in moved]
