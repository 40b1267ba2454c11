"""The figures of a page, drawn from run folders. Series i is the i-th run of the page, also in the legend."""

from bisect import bisect_left

import numpy as np

from metalearn_cli.report.charts import Line, line_chart, ridges
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.results import read_episodes
from metalearn_cli.run_folder.series import Curve

MOST_POINTS = 1000  # of a curve on the page, which is 440 wide
BANDS = 4  # of more curves the bands would hide each other
BASELINES = {"constant": "mean of the support", "oracle": "the task itself"}

Figures = list[tuple[str, str]]  # a caption, and the SVG


def by_task(runs: list[RunFolder]) -> dict[tuple[str, str], list[tuple[int, RunFolder]]]:
    """The runs with their numbers, by task and metric; without those that were never tested nor validated."""
    groups: dict[tuple[str, str], list[tuple[int, RunFolder]]] = {}
    for i, run in enumerate(runs):
        validated = [metric for metric in ("accuracy", "mse") if f"val/{metric}" in run.metrics.curves]
        for metric in [run.results.metric] if run.results else validated[:1]:
            groups.setdefault((task_name(run), metric), []).append((i, run))
    return groups


def task_name(run: RunFolder) -> str:
    return (run.results and run.results.task) or run.environment.choices.get("task", "task")


def factor(metric: str) -> int:
    """How many times as large a value is shown."""
    return 100 if metric == "accuracy" else 1


def unit(metric: str) -> str:
    return "accuracy, %" if metric == "accuracy" else "squared error (mse)"


def learning_curves(runs: list[RunFolder]) -> Figures:
    """Training loss and validation over meta-iterations; evaluations have none."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        losses, validations = [], []
        for i, run in members:
            tested = run.results.step if run.results else None
            if points := thinned(run.metrics.curves.get("train/loss")):
                losses.append(Line(i, points, str(i + 1)))
            if points := thinned(run.metrics.curves.get(f"val/{metric}"), tested):
                points = [(step, factor(metric) * value) for step, value in points]
                validations.append(Line(i, points, str(i + 1), ring=tested, dots=len(points) < 12))
        if losses:
            caption = f"{task}, training: the query loss after adapting, mean over a step's meta-batch"
            figures.append((caption, line_chart(losses, caption, ("meta-iterations", "loss"), is_wide(losses))))
        if validations:
            is_log = metric == "mse" and is_wide(validations)
            is_ringed = any(line.ring in dict(line.points) for line in validations)
            ring = "; the ring is the checkpoint that was tested" if is_ringed else ""
            caption = f"{task}, validation after the last inner step{ring}"
            figures.append((caption, line_chart(validations, caption, ("meta-iterations", unit(metric)), is_log)))
    return figures


def thinned(curve: Curve | None, kept: int | None = None) -> list[tuple[float, float]]:
    """The finite points of a curve; of very many those that are seen: the first, the last, the lowest and the highest
    of each few steps, and that of the step that is to be kept."""
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
    """The test after each inner step, step 0 before adapting, with 95% intervals over episodes; a figure for each task
    and metric, with what learns nothing and with the published figure."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        curves, levels, scale = [], {}, factor(metric)
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
                if baseline.mean is not None and (name != "oracle" or baseline.mean > 0):
                    levels[BASELINES.get(name, name)] = baseline.mean
            if (published := results.published) is not None:
                levels["published"] = scale * published.mean
        if not curves:
            continue
        bands = "; bands are 95% intervals over episodes" if len(curves) <= BANDS else ""
        curves = curves if bands else [line._replace(band=()) for line in curves]
        caption = f"{task}: test after each inner step, 0 before adapting{bands}"
        is_log = metric == "mse" and is_wide(curves)
        first = max(line.points[0][1] for line in curves)
        top = 3 * first if metric == "mse" and not is_log else np.inf  # one that runs away leaves the rest readable
        figures.append((caption, line_chart(curves, caption, ("inner steps", unit(metric)), is_log, levels, top)))
    return figures


def distributions(runs: list[RunFolder]) -> Figures:
    """The distributions over test episodes, one value for each."""
    figures: Figures = []
    for (task, metric), members in by_task(runs).items():
        rows = []
        for i, run in members:
            if run.results is not None:
                values = read_episodes(run.folder, run.results)["metric"][:, -1].astype(np.float64)
                rows.append((i, str(i + 1), np.where(np.isnan(values), np.inf, values) * factor(metric)))
        if rows:
            caption = f"{task}: one value for each test episode. Bar: the middle half; line: median; dot: mean"
            figures.append((caption, ridges(rows, caption, unit(metric))))
    return figures
