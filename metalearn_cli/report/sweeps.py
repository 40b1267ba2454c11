"""The figures of a sweep: its settings in their order, and by each key that was swept."""

import math

import numpy as np

from metalearn_cli.compare.best_setting import mean_validation
from metalearn_cli.compare.groups import Part, swept
from metalearn_cli.learning.scores import is_better
from metalearn_cli.pictures.axis import Axis, axis_of
from metalearn_cli.report.charts import INK, LEFT, RIGHT, Line, Spread, spread_chart
from metalearn_cli.report.figures import Figures, by_task, factor, unit
from metalearn_cli.run_folder.outcome import read_outcome
from metalearn_cli.run_folder.read import RunFolder

MOST_CATEGORIES = 6  # values of a key that stand beside one another; more numbers have an axis


def sweep_figures(parts: list[Part]) -> Figures:
    """The results of a sweep's settings; the seeds of one are its spread."""
    tested = [[run for run in part.runs if run.results is not None] for part in parts]
    settings = sorted(filter(None, tested), key=_number)
    groups = by_task([run for runs in settings for run in runs])
    metrics = {metric for _, metric in groups}
    if len(settings) < 2 or len(metrics) > 1:
        return []
    (metric,) = metrics
    spreads = [_spread(runs, metric) for runs in settings]
    figures = [_best_so_far(settings, spreads, metric)]
    for key in swept([runs[0] for runs in settings]):
        values = [runs[0].overrides.get(key, str(runs[0].config.get(key))) for runs in settings]
        figures.append(_by_key(key, list(zip(values, spreads, strict=True)), metric))
    return figures


def _number(runs: list[RunFolder]) -> int:
    """The place of a setting in its sweep, where the sweep has noted it."""
    outcomes = [outcome for run in runs if (outcome := read_outcome(run.folder)) is not None]
    return min((outcome.number for outcome in outcomes), default=0)


def _spread(runs: list[RunFolder], metric: str) -> Spread | None:
    """The test of a setting's seeds; None where one of them diverged."""
    means = [factor(metric) * run.results.mean for run in runs if run.results and run.results.mean is not None]
    return Spread(float(np.mean(means)), min(means), max(means)) if len(means) == len(runs) else None


def _best_so_far(settings: list[list[RunFolder]], spreads: list[Spread | None], metric: str) -> tuple[str, str]:
    """Each setting in its order, and the best until then, chosen on validation where every setting has one."""
    judged, chosen = list(map(mean_validation, settings)), "on validation"
    if None in [value for value, spread in zip(judged, spreads, strict=True) if spread is not None]:
        judged, chosen = [spread and spread.mean for spread in spreads], "on the test, which flatters it"
    best: tuple[float, Spread] | None = None
    steps: list[tuple[float, float]] = []
    for place, (value, spread) in enumerate(zip(judged, spreads, strict=True)):
        if spread is not None and value is not None and (best is None or is_better(metric, value, best[0])):
            best = value, spread
        steps += [(place + side, best[1].mean) for side in (-0.5, 0.5) if best is not None]
    title = f"The test of each setting, and of the best until then, chosen {chosen}; a thin line spans its seeds"
    names = _sparse([str(number) for number in range(1, len(spreads) + 1)], 12)
    labels = "setting of the sweep, in its order", unit(metric)
    shown = [(place, spread) for place, spread in enumerate(spreads) if spread is not None]
    return title, spread_chart(shown, [Line(1, steps, "the best")], _beside(names), title, labels, names)


def _by_key(key: str, settings: list[tuple[str, Spread | None]], metric: str) -> tuple[str, str]:
    """The settings by the value of a key: many numbers on an axis, else beside one another with a bar at their mean."""
    title = f"By {key}: a dot for each setting, its mean over seeds, which the thin line spans"
    numbers = [_as_number(value)[0] for value, _ in settings]
    names = sorted({value for value, _ in settings}, key=_as_number)
    if len(names) > MOST_CATEGORIES and all(map(math.isfinite, numbers)):
        x = axis_of(numbers, LEFT, RIGHT, min(numbers) > 0 and max(numbers) >= 30 * min(numbers))
        shown = [(number, spread) for number, (_, spread) in zip(numbers, settings, strict=True) if spread is not None]
        return title, spread_chart(shown, [], x, title, (key, unit(metric)))
    title += "; the bar is their mean"
    shown, bars = [], []
    for place, name in enumerate(names):
        spreads = [spread for value, spread in settings if value == name and spread is not None]
        shown += [(place + 0.4 * ((i + 0.5) / len(spreads) - 0.5), spread) for i, spread in enumerate(spreads)]
        mean = float(np.mean([spread.mean for spread in spreads])) if spreads else math.nan
        bars += [Line(INK, [(place - 0.25, mean), (place + 0.25, mean)], name)] if spreads else []
    short = _sparse([name if len(name) <= 14 else f"{name[:12]}…" for name in names], 8)
    return title, spread_chart(shown, bars, _beside(names), title, (key, unit(metric)), short)


def _sparse(names: list[str], most: int) -> list[str]:
    """So many of the names, for which there is room; the others are empty."""
    return [name if place % math.ceil(len(names) / most) == 0 else "" for place, name in enumerate(names)]


def _beside(names: list[str]) -> Axis:
    return Axis(-0.5, len(names) - 0.5, LEFT, RIGHT)


def _as_number(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return math.inf, name
