"""The distribution over test episodes, a row for each run; and points by category, for sweeps."""

from typing import NamedTuple

import numpy as np

from metalearn_cli.pictures.axis import Axis, axis_of
from metalearn_cli.report.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    path,
    svg,
    text,
)
from metalearn_cli.run_folder.read import Values

ROW, BINS = 46, 40


def ridges(rows: list[tuple[int, str, Values]], title: str, x_label: str) -> str:
    """A histogram of each row's values [E] over one axis, with its quartiles, median and mean; what lies beyond the
    axis is counted at its right."""
    every = np.concatenate([values[np.isfinite(values)] for _, _, values in rows])
    low, high = (float(end) for end in np.quantile(every, [0.0, 1.0])) if len(every) else (0.0, 1.0)
    if len(every) and (bulk := float(np.quantile(every, 0.97))) < low + 0.5 * (high - low):
        high = bulk  # a few that diverged would leave nothing to see
    x = axis_of([low, high], LEFT, WIDTH - RIGHT - 26, margin=0.02)
    edges = np.linspace(x.low, x.high, BINS + 1)
    height = TOP + ROW * len(rows) + BOTTOM
    parts = [axes(x, None, x_label, "", height - BOTTOM)]
    for number, (series, label, values) in enumerate(rows):
        bottom, kind = TOP + ROW * (number + 1) - 12, f"s{series % COLOURS}"
        count = np.histogram(values[np.isfinite(values)], edges)[0]
        tall = (ROW - 16) / max(1, int(count.max()))
        outline = [(x.at(float(edges[0])), float(bottom))]
        for i, number_in_bin in enumerate(count.tolist()):
            level = bottom - tall * number_in_bin
            outline += [(x.at(float(edges[i])), level), (x.at(float(edges[i + 1])), level)]
        outline.append((x.at(float(edges[-1])), float(bottom)))
        parts.append(f'<path class="area {kind}" d="{path(outline)}Z"/>')
        parts.append(text(LEFT - 8, bottom - 4, label, f"end {kind}", "end"))
        parts.append(_summary(values, x, bottom + 5, kind))
        beyond = int((~(values <= x.high)).sum())
        if beyond:
            parts.append(text(WIDTH - RIGHT + 22, bottom, f"+{beyond}", "tick", "end"))
    about = "; ".join(f"{label}: median {np.median(values):.4g} of {len(values)} episodes" for _, label, values in rows)
    return svg("".join(parts), title, about, height)


def _summary(values: Values, x: Axis, y: float, kind: str) -> str:
    """Under its histogram: the middle half as a bar, the median as a tick, the mean as a dot."""
    with np.errstate(invalid="ignore"):
        lower, median, upper = (x.at(float(q)) for q in np.nan_to_num(np.quantile(values, [0.25, 0.5, 0.75])))
    parts = [f'<line class="quartiles {kind}" x1="{lower:.1f}" x2="{upper:.1f}" y1="{y}" y2="{y}"/>']
    parts.append(f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{y - 5}" y2="{y + 5}"/>')
    if np.isfinite(mean := float(values.mean())):
        parts.append(f'<circle class="mean" cx="{x.at(mean):.1f}" cy="{y}" r="3"/>')
    return "".join(parts)


class Spread(NamedTuple):
    """The results of a setting's seeds: their mean, the lowest and the highest."""

    mean: float
    low: float
    high: float


NO_SPREAD = Spread(np.nan, np.nan, np.nan)


def category_chart(names: list[str], points: list[tuple[int, Spread]], title: str, x_label: str, y_label: str) -> str:
    """A dot for each setting (category, its spread), beside one another, with the mean of each category as a bar."""
    bottom = HEIGHT - BOTTOM
    x = Axis(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    y = axis_of([end for _, spread in points for end in spread], bottom, TOP + 14, margin=0.08)
    every = -(-len(names) // 8)
    short = [name if len(name) <= 14 else f"{name[:12]}…" for name in names]
    shown = [name if i % every == 0 else "" for i, name in enumerate(short)]
    parts = [axes(x, y, x_label, y_label, bottom, shown)]
    for category in range(len(names)):
        drawn = [spread for place, spread in points if place == category and np.isfinite(spread.mean)]
        if drawn:
            mean, at = y.at(float(np.mean([spread.mean for spread in drawn]))), x.at(category)
            half = 14 + 6 * (len(drawn) - 1)
            parts.append(
                f'<line class="median" x1="{at - half:.1f}" x2="{at + half:.1f}" y1="{mean:.1f}" y2="{mean:.1f}"/>'
            )
        apart = min(12.0, 0.6 * (x.at(1) - x.at(0)) / max(1, len(drawn)))
        parts += [
            _dot(x.at(category) + apart * (i - (len(drawn) - 1) / 2), spread, y) for i, spread in enumerate(drawn)
        ]
    return svg("".join(parts), title, f"{len(points)} settings by {x_label}")


def _dot(x: float, spread: Spread, y: Axis) -> str:
    """A mean over seeds, and a thin line from the lowest to the highest."""
    line = (
        f'<line class="spread s0" x1="{x:.1f}" x2="{x:.1f}" y1="{y.at(spread.low):.1f}" y2="{y.at(spread.high):.1f}"/>'
    )
    return f'{line}<circle class="dot s0" cx="{x:.1f}" cy="{y.at(spread.mean):.1f}" r="4"/>'


def scatter(points: list[tuple[float, Spread]], title: str, x_label: str, y_label: str) -> str:
    """A dot for each setting (number, its spread); the axis is logarithmic where the numbers span a factor of 30."""
    bottom = HEIGHT - BOTTOM
    numbers = [number for number, _ in points]
    is_log = min(numbers) > 0 and max(numbers) >= 30 * min(numbers)
    x = axis_of(numbers, LEFT, WIDTH - RIGHT, is_log)
    y = axis_of([end for _, spread in points for end in spread], bottom, TOP + 14, margin=0.08)
    parts = [axes(x, y, x_label, y_label, bottom)]
    parts += [_dot(x.at(number), spread, y) for number, spread in points if np.isfinite(spread.mean)]
    return svg("".join(parts), title, f"{len(points)} settings by {x_label}")


def best_so_far(spreads: list[Spread], judged: list[float], lower: bool, title: str, y_label: str) -> str:
    """The result of each setting of a sweep in its order, and that of the best until then by `judged`."""
    bottom = HEIGHT - BOTTOM
    x = Axis(-0.5, len(spreads) - 0.5, LEFT, WIDTH - RIGHT)
    y = axis_of([end for spread in spreads for end in spread], bottom, TOP + 14, margin=0.08)
    every = -(-len(spreads) // 12)
    names = [str(i + 1) if i % every == 0 else "" for i in range(len(spreads))]
    parts = [axes(x, y, "setting of the sweep, in its order", y_label, bottom, names)]
    best: list[float] = []
    for i in range(len(spreads)):
        known = [j for j in range(i + 1) if np.isfinite(spreads[j].mean) and np.isfinite(judged[j])]
        chosen = (min if lower else max)(known, key=lambda j: judged[j]) if known else None
        best.append(float("nan") if chosen is None else spreads[chosen].mean)
    steps = [(x.at(i + side), y.at(one)) for i, one in enumerate(best) for side in (-0.5, 0.5) if np.isfinite(one)]
    parts.append(f'<path class="line s1" d="{path(steps)}"/>')
    parts += [_dot(x.at(i), spread, y) for i, spread in enumerate(spreads) if np.isfinite(spread.mean)]
    return svg("".join(parts), title, f"the best of {len(spreads)} settings: {best[-1]:.4g}")
