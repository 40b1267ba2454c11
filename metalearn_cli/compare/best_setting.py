"""Which setting of a sweep is the best, by its validation; jobs that differ in their seed alone are one setting."""

from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from metalearn_cli.compare.groups import Part, swept
from metalearn_cli.compare.statistics import paired
from metalearn_cli.learning.scores import after_steps, text_of
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.results import Results
from metalearn_cli.tasks.metrics import METRICS


class Setting(NamedTuple):
    name: str  # the swept keys with their values
    means: list[float]  # the test of each seed
    validation: float | None  # mean over seeds
    results: Results  # of its first seed


def best_sentences(parts: list[Part]) -> list[str]:
    """A sentence for each task, metric and set of test episodes with two settings or more."""
    groups: dict[tuple[str | None, str, str], list[Setting]] = {}
    left_out: list[str] = []
    pruned = 0
    keys = swept([part.runs[0] for part in parts])
    for part in parts:
        name = ", ".join(f"{key}={part.runs[0].overrides.get(key, 'its default')}" for key in keys)
        if (setting := _setting(name, part)) is not None:
            results = setting.results
            groups.setdefault((results.task, results.metric, results.episodes_sha256), []).append(setting)
        elif all(run.unfinished is not None and run.unfinished.state == "pruned" for run in part.runs):
            pruned += 1
        else:
            left_out.append(name)
    tail = f" (left out, since a job of it has no figure: {'; '.join(left_out)})" if left_out else ""
    tail += f" (pruned: {pruned})" if pruned else ""
    return [
        f"{f'{task}: ' if len(groups) > 1 else ''}{_sentence(settings, metric)}{tail}"
        for (task, metric, _), settings in groups.items()
        if len(settings) > 1
    ]


def _setting(name: str, part: Part) -> Setting | None:
    """The setting of this part; None where a seed of it failed, is not finished, or has no finite mean."""
    results = [run.results for run in part.runs if run.results is not None and run.unfinished is None]
    means = [result.mean for result in results if result.mean is not None]
    if len(means) < len(part.runs):
        return None
    return Setting(name, means, mean_validation(part.runs), results[0])


def mean_validation(runs: list[RunFolder]) -> float | None:
    """The mean over the seeds of a setting; None where one of them has none."""
    values = [value for value in map(_validation, runs) if value is not None]
    return float(np.mean(values)) if len(values) == len(runs) else None


def _validation(run: RunFolder) -> float | None:
    """The newest validation that is not after the checkpoint that was tested."""
    if run.results is None or (curve := run.metrics.curves.get(f"val/{run.results.metric}")) is None:
        return None
    number = bisect_right(curve.steps, run.results.step)  # of those that are not after it
    return curve.values[number - 1] if number else None


def _sentence(settings: list[Setting], metric: str) -> str:
    validations = [setting.validation for setting in settings if setting.validation is not None]
    by_validation = len(validations) == len(settings)
    values = validations if by_validation else [float(np.mean(setting.means)) for setting in settings]
    best = settings[values.index(METRICS[metric].best(values))]
    seeds, unit = len(best.means), " %" if METRICS[metric].unit else ""
    half, over = best.results.ci95, f"{best.results.episodes:,} test episodes of one seed"
    if seeds > 1:
        half, over = paired(np.array(best.means)).half, f"{seeds} seeds"
    test = text_of(float(np.mean(best.means)), metric) + ("" if half is None else f" ± {text_of(half, metric)}")
    end = f"{best.name}; test {metric} {test}{unit}{after_steps(best.results.last.step)}, over {over}"
    if by_validation:
        return f"best on validation ({metric} {text_of(best.validation, metric)}{unit}): {end}"
    return f"best on the test, which flatters it (some job has no validation to choose by): {end}"
