"""The figures of a page, drawn from run folders. Series i is the i-th run of the page, also in the legend."""

import math
from bisect import bisect_left

import numpy as np

from metalearn_cli.compare.best_setting import mean_validation
from metalearn_cli.compare.groups import Part, swept
from metalearn_cli.learning.baselines import BASELINES
from metalearn_cli.learning.scores import is_better
from metalearn_cli.pictures.axis import Axis, axis_of
from metalearn_cli.report.charts import INK, LEFT, RIGHT, Line, Spread, line_chart, ridges, spread_chart
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.results import read_episodes
from metalearn_cli.run_folder.series import Curve
from metalearn_cli.run_folder.unfinished import read_outcome
from metalearn_cli.tasks.metrics import METRICS

MOST_POINTS = 1000  # of a curve on the page, which is 440 wide
MOST_CATEGORIES = 6  # values of a key that stand beside one another; more numbers have an axis
BANDS = 4  # of more curves the bands would hide each other

Figures = list[tuple[str, str]]  # a caption, and the SVG


def by_task(runs: list[RunFolder]) -> dict[tuple[str, str], list[tuple[int, RunFolder]]]:
    """Group the runs, with their numbers, by task and metric; those that were never scored are left out."""
    groups: dict[tuple[str, str], list[tuple[int, RunFolder]]] = {}
    for i, run in enumerate(runs):
        validated = [metric for metric in METRICS if f"val/{metric}" in run.metrics.curves]
        for metric in [run.results.metric] if run.results else validated[:1]:
            groups.setdefault((task_name(run), metric), []).append((i, run))
    return groups


def task_name(run: RunFolder) -> str:
    return (run.results and run.results.task) or run.environment.choices.get("task", "task")


def axis_name(metric: str) -> str:
    return ", ".join(filter(None, (metric, METRICS[metric].unit)))


def learning_curves(runs: list[RunFolder]) -> Figures:
    """Draw training loss and validation over meta-iterations; evaluations have none."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        losses, validations = [], []
        for i, run in members:
            tested = run.results.step if run.results else None
            if points := thinned(run.metrics.curves.get("train/loss")):
                losses.append(Line(i, points, str(i + 1)))
            if points := thinned(run.metrics.curves.get(f"val/{metric}"), tested):
                points = [(step, METRICS[metric].factor * value) for step, value in points]
                validations.append(Line(i, points, str(i + 1), ring=tested, dots=len(points) < 12))
        if losses:
            caption = f"{task}, training: the query loss after adapting, mean over a step's meta-batch"
            figures.append((caption, line_chart(losses, caption, ("meta-iterations", "loss"), is_wide(losses))))
        if validations:
            is_log = METRICS[metric].is_ratio and is_wide(validations)
            is_ringed = any(line.ring in dict(line.points) for line in validations)
            ring = "; the ring is the checkpoint that was tested" if is_ringed else ""
            caption = f"{task}, validation after the last inner step{ring}"
            figures.append((caption, line_chart(validations, caption, ("meta-iterations", axis_name(metric)), is_log)))
    return figures


def thinned(curve: Curve | None, kept: int | None = None) -> list[tuple[float, float]]:
    """Return the finite points of a curve, of very many those that are seen: the first, the last, the lowest and the
    highest of each few steps, and that of the step that is to be kept."""
    if curve is None:
        return []
    values, chosen = np.asarray(curve.values), np.arange(len(curve.values))
    if len(values) > MOST_POINTS:
        parts = np.array_split(chosen, MOST_POINTS // 2 - 2)
        ends = [part[0] + place(values[part]) for part in parts for place in (np.argmin, np.argmax)]
        at = bisect_left(curve.steps, kept or 0)
        chosen = np.unique([0, *ends, len(values) - 1, *([at] if at < len(values) else [])])
    return [(float(curve.steps[i]), float(values[i])) for i in chosen.tolist() if np.isfinite(values[i])]


def is_wide(lines: list[Line]) -> bool:
    """Whether the values need a logarithmic axis."""
    values = [value for line in lines for _, value in line.points]
    return min(values) > 0 and max(values) > 30 * min(values)


def inner_steps(runs: list[RunFolder]) -> Figures:
    """Draw the test after each inner step, step 0 before adapting, with 95% intervals over episodes, beside baselines
    and the published figure; a chart for each task and metric."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        curves, levels, scale = [], {}, METRICS[metric].factor
        for i, run in members:
            if (results := run.results) is None:
                continue
            steps = [(float(row.step), row.mean, row.ci95 or 0.0) for row in results.per_step if row.mean is not None]
            if len(steps) < 2:
                continue
            points = [(step, scale * mean) for step, mean, _ in steps]
            upper, lower = ([(step, scale * (mean + sign * half)) for step, mean, half in steps] for sign in (1, -1))
            curves.append(Line(i, points, str(i + 1), upper + lower[::-1], dots=len(points) <= 12))
            for name, baseline in results.baselines.items():
                if baseline.mean is not None and name in BASELINES and (metric != "mse" or baseline.mean > 0):
                    levels[BASELINES[name].words] = scale * baseline.mean
            if (published := results.published) is not None:
                levels["published"] = scale * published.mean
        if not curves:
            continue
        bands = "; bands are 95% intervals over episodes" if len(curves) <= BANDS else ""
        curves = curves if bands else [line._replace(band=()) for line in curves]
        caption = f"{task}: test after each inner step, 0 before adapting{bands}"
        is_log = METRICS[metric].is_ratio and is_wide(curves)
        first = max(line.points[0][1] for line in curves)
        top = (
            3 * first if METRICS[metric].is_ratio and not is_log else np.inf
        )  # one that runs away leaves the rest readable
        figures.append((caption, line_chart(curves, caption, ("inner steps", axis_name(metric)), is_log, levels, top)))
    return figures


def distributions(runs: list[RunFolder]) -> Figures:
    """Draw the distributions over test episodes, one value for each."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        rows = []
        for i, run in members:
            if run.results is not None:
                values = read_episodes(run.folder, run.results)["metric"][:, -1].astype(np.float64)
                rows.append(
                    (i, str(i + 1), np.where(np.isnan(values), METRICS[metric].worst, values) * METRICS[metric].factor)
                )
        if rows:
            caption = f"{task}: one value for each test episode. Bar: the middle half; line: median; dot: mean"
            figures.append((caption, ridges(rows, caption, axis_name(metric))))
    return figures


def sweep_figures(parts: list[Part]) -> Figures:
    """Draw the results of a sweep's settings in their order, and by each key that was swept."""
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
    """The test results of a setting's seeds; None where one of them diverged."""
    means = [METRICS[metric].factor * run.results.mean for run in runs if run.results and run.results.mean is not None]
    return Spread(float(np.mean(means)), min(means), max(means)) if len(means) == len(runs) else None


def _best_so_far(settings: list[list[RunFolder]], spreads: list[Spread | None], metric: str) -> tuple[str, str]:
    """Draw each setting in its order, and the best until then, chosen on validation where every setting has one."""
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
    labels = "setting of the sweep, in its order", axis_name(metric)
    shown = [(place, spread) for place, spread in enumerate(spreads) if spread is not None]
    return title, spread_chart(shown, [Line(1, steps, "the best")], _beside(names), title, labels, names)


def _by_key(key: str, settings: list[tuple[str, Spread | None]], metric: str) -> tuple[str, str]:
    """Draw the settings by a key's value: many numbers on an axis, else beside one another with a bar at their mean."""
    title = f"By {key}: a dot for each setting, its mean over seeds, which the thin line spans"
    numbers = [_as_number(value)[0] for value, _ in settings]
    names = sorted({value for value, _ in settings}, key=_as_number)
    if len(names) > MOST_CATEGORIES and all(map(math.isfinite, numbers)):
        x = axis_of(numbers, LEFT, RIGHT, min(numbers) > 0 and max(numbers) >= 30 * min(numbers))
        shown = [(number, spread) for number, (_, spread) in zip(numbers, settings, strict=True) if spread is not None]
        return title, spread_chart(shown, [], x, title, (key, axis_name(metric)))
    title += "; the bar is their mean"
    shown, bars = [], []
    for place, name in enumerate(names):
        spreads = [spread for value, spread in settings if value == name and spread is not None]
        shown += [(place + 0.4 * ((i + 0.5) / len(spreads) - 0.5), spread) for i, spread in enumerate(spreads)]
        mean = float(np.mean([spread.mean for spread in spreads])) if spreads else math.nan
        bars += [Line(INK, [(place - 0.25, mean), (place + 0.25, mean)], name)] if spreads else []
    short = _sparse([name if len(name) <= 14 else f"{name[:12]}…" for name in names], 8)
    return title, spread_chart(shown, bars, _beside(names), title, (key, axis_name(metric)), short)


def _sparse(names: list[str], most: int) -> list[str]:
    """Keep so many of the names, for which there is room; the others become empty."""
    return [name if place % math.ceil(len(names) / most) == 0 else "" for place, name in enumerate(names)]


def _beside(names: list[str]) -> Axis:
    return Axis(-0.5, len(names) - 0.5, LEFT, RIGHT)


def _as_number(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return math.inf, name
