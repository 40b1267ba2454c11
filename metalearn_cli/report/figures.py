"""The figures of a page, drawn from run folders. Series i is the i-th run of the page, also in the legend."""

import math
from bisect import bisect_left

import numpy as np

from metalearn_cli.compare.best_setting import validation
from metalearn_cli.compare.groups import Part, swept
from metalearn_cli.report.charts import Line, line_chart
from metalearn_cli.report.distributions import NO_SPREAD, Spread, best_so_far, category_chart, ridges, scatter
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.results import read_episodes
from metalearn_cli.run_folder.series import Curve
from metalearn_cli.run_folder.unfinished import read_outcome

MOST_POINTS = 1000  # of a curve on the page, which is 440 wide
MOST_CATEGORIES = 6  # values of a key that stand beside one another; more numbers have an axis

Figures = list[tuple[str, str]]  # a caption, and the SVG
BANDS = 4  # of more curves the bands would hide each other
BASELINES = {"constant": "mean of the support", "oracle": "the task itself"}


def metric_of(run: RunFolder) -> str | None:
    """The metric of a run, which need not be finished: accuracy or mse."""
    if run.results is not None:
        return run.results.metric
    return next((metric for metric in ("accuracy", "mse") if f"val/{metric}" in run.metrics.curves), None)


def unit(metric: str) -> str:
    return "accuracy, %" if metric == "accuracy" else "squared error (mse)"


def learning_curves(every: list[RunFolder]) -> Figures:
    """Training loss and validation over meta-iterations; evaluations have none."""
    groups: dict[tuple[str, str], list[tuple[int, RunFolder]]] = {}
    for i, run in enumerate(every):
        if (metric := metric_of(run)) is not None and not run.is_evaluation:
            groups.setdefault((task_name(run), metric), []).append((i, run))
    found: Figures = []
    for (task, metric), own in groups.items():
        factor, name = (100 if metric == "accuracy" else 1), f"val/{metric}"
        loss, validation = [], []
        for i, run in own:
            points = thinned(run.metrics.curves.get("train/loss"))
            loss += [Line(i, points, label=str(i + 1))] if points else []
            tested = run.results.step if run.results else None
            points = [(step, factor * value) for step, value in thinned(run.metrics.curves.get(name), tested)]
            validation += [Line(i, points, label=str(i + 1), ring=tested, dots=len(points) < 12)] if points else []
        if loss:
            caption = f"{task}, training: the query loss after adapting, mean over a step's meta-batch"
            found.append((caption, line_chart(loss, caption, ("meta-iterations", "loss"), wide(loss))))
        if validation:
            is_log = metric == "mse" and wide(validation)
            is_ringed = any(line.ring in dict(line.points) for line in validation)
            ring = "; the ring is the checkpoint that was tested" if is_ringed else ""
            caption = f"{task}, validation after the last inner step{ring}"
            found.append((caption, line_chart(validation, caption, ("meta-iterations", unit(metric)), is_log)))
    return found


def thinned(curve: Curve | None, kept: int | None = None) -> list[tuple[float, float]]:
    """The points of a curve; of very many those that are seen: the first, the last, the lowest and the highest of each
    few steps, and that of the step that is to be kept."""
    if curve is None:
        return []
    values, chosen = np.asarray(curve.values), np.arange(len(curve.values))
    if len(values) > MOST_POINTS:
        parts = np.array_split(chosen, MOST_POINTS // 2 - 2)
        ends = [part[0] + place(values[part]) for part in parts for place in (np.argmin, np.argmax)]
        at = bisect_left(curve.steps, kept or 0)
        chosen = np.unique([0, *ends, len(values) - 1, *([at] if at < len(values) else [])])
    return [(float(curve.steps[i]), float(values[i])) for i in chosen.tolist()]


def task_name(run: RunFolder) -> str:
    return (run.results and run.results.task) or run.environment.choices.get("task", "task")


def wide(lines: list[Line]) -> bool:
    """Whether the values need a logarithmic axis."""
    values = [y for line in lines for _, y in line.points if np.isfinite(y)]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def inner_steps(every: list[RunFolder]) -> Figures:
    """The test after each inner step, step 0 before adapting, with 95% intervals over episodes; a figure for each task
    and metric, with what learns nothing and with the published figure."""
    found: Figures = []
    for (task, metric), own in by_task(every).items():
        curves, levels = [], {}
        factor = 100 if metric == "accuracy" else 1
        for i, run in own:
            if (results := run.results) is None:
                continue
            rows = [(row.step, row.mean, row.ci95 or 0.0) for row in results.per_step if row.mean is not None]
            if len(rows) < 2:
                continue
            points = [(float(step), factor * mean) for step, mean, _ in rows]
            band = [factor * ci95 for _, _, ci95 in rows]
            curves.append(Line(i, points, band, str(i + 1), dots=len(points) <= 12))
            for name, baseline in results.baselines.items():
                if baseline.mean is not None and (name != "oracle" or baseline.mean > 0):
                    levels[BASELINES.get(name, name)] = baseline.mean
            if (published := results.published) is not None:
                levels["published"] = factor * published.mean
        if not curves:
            continue
        if len(curves) > BANDS:
            curves = [line._replace(band=None) for line in curves]
        bands = "; bands are 95% intervals over episodes" if len(curves) <= BANDS else ""
        caption = f"{task}: test after each inner step, 0 before adapting{bands}"
        is_log = metric == "mse" and wide(curves)
        first = max(line.points[0][1] for line in curves)
        top = 3 * first if metric == "mse" and not is_log else None  # a curve that runs away leaves the rest readable
        found.append((caption, line_chart(curves, caption, ("inner steps", unit(metric)), is_log, levels, top)))
    return found


def by_task(every: list[RunFolder]) -> dict[tuple[str, str], list[tuple[int, RunFolder]]]:
    """The finished runs with their numbers, by task and metric."""
    groups: dict[tuple[str, str], list[tuple[int, RunFolder]]] = {}
    for i, run in enumerate(every):
        if run.results is not None:
            groups.setdefault((task_name(run), run.results.metric), []).append((i, run))
    return groups


def distributions(every: list[RunFolder]) -> Figures:
    """The distributions over test episodes, one value for each."""
    found: Figures = []
    for (task, metric), own in by_task(every).items():
        rows = []
        for i, run in own:
            if run.results is None:
                continue
            values = np.asarray(read_episodes(run.folder, run.results)["metric"][:, -1], dtype=np.float64)
            values = np.where(np.isnan(values), np.inf, values) * (100 if metric == "accuracy" else 1)
            rows.append((i, str(i + 1), values))
        caption = f"{task}: one value for each test episode. Bar: the middle half; line: median; dot: mean"
        found.append((caption, ridges(rows, caption, unit(metric))))
    return found


def sweep_figures(found: list[Part]) -> Figures:
    """The results of a sweep's settings in their order, and by each key that was swept; seeds are the spread."""
    done = [(part, [run for run in part.runs if run.results is not None]) for part in found]
    done = sorted(((part, some) for part, some in done if some), key=lambda one: _number(one[1]))
    metrics = {metric_of(run) for _, some in done for run in some}
    if len(done) < 2 or len(metrics) > 1:
        return []
    metric = str(metrics.pop())
    factor = 100 if metric == "accuracy" else 1
    spreads = []
    for _, some in done:
        means = [factor * mean for run in some if run.results is not None and (mean := run.results.mean) is not None]
        is_whole = len(means) == len(some)  # a seed that diverged is no figure
        spreads.append(Spread(float(np.mean(means)), min(means), max(means)) if is_whole else NO_SPREAD)
    judged, chosen = [one.mean for one in spreads], "on the test, which flatters it"
    validations = np.array([_validation(some) for _, some in done])
    if np.isfinite(validations[np.isfinite(judged)]).all():
        judged, chosen = validations.tolist(), "on validation"
    title = f"The test of each setting, and of the best until then, chosen {chosen}; a thin line spans its seeds"
    found_figures = [(title, best_so_far(spreads, judged, metric == "mse", title, unit(metric)))]
    for key in swept([some[0] for _, some in done]):
        own = [some[0].overrides.get(key, str(some[0].config.get(key))) for _, some in done]
        names = sorted(set(own), key=_as_number)
        title = f"By {key}: a dot for each setting, its mean over seeds, which the thin line spans"
        numbers = [_as_number(name)[0] for name in own]
        if len(names) > MOST_CATEGORIES and all(map(math.isfinite, numbers)):
            drawn = scatter(list(zip(numbers, spreads, strict=True)), title, key, unit(metric))
        else:
            title += "; the bar is their mean"
            points = [(names.index(name), spread) for name, spread in zip(own, spreads, strict=True)]
            drawn = category_chart(names, points, title, key, unit(metric))
        found_figures.append((title, drawn))
    return found_figures


def _validation(some: list[RunFolder]) -> float:
    """The mean over the seeds of a setting; NaN where one of them had none that was finite."""
    values = [value for value in map(validation, some) if value is not None]
    return float(np.mean(values)) if len(values) == len(some) else math.nan


def _number(some: list[RunFolder]) -> int:
    """The place of a setting in its sweep, where the sweep has noted it."""
    outcomes = [outcome for run in some if (outcome := read_outcome(run.folder)) is not None]
    return min((outcome.number for outcome in outcomes), default=0)


def _as_number(name: str) -> tuple[float, str]:
    try:
        return float(name), name
    except ValueError:
        return float("inf"), name
