"""`metalearn compare`: is the second better than the first, on the same test episodes?"""

import json
import textwrap
from pathlib import Path

import numpy as np

from metalearn_cli.compare.comparison import Comparison, Difference, make_comparison
from metalearn_cli.compare.conclusions import cautions, conclusion
from metalearn_cli.compare.groups import differences, parts
from metalearn_cli.compare.statistics import Estimate
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import figure, in_unit
from metalearn_cli.run_folder.find import find_runs
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import printable
from metalearn_cli.system.text_table import aligned, finite
from metalearn_cli.system.typed_json import Json

MOST_KEYS = 8  # in which the sides differ, that are shown


def compare(folders: list[str], out: Path | None, mode: str | None, step: int | None) -> None:
    """Print the differences between the runs in these folders, and write them to `out`."""
    sides = [part for argument in folders for part in parts(argument)]
    for job, sentence in {job: why for argument in folders for job, why in find_runs(argument).failed.items()}.items():
        tell(printable(f"note: {job} failed, and is left out: {sentence}"))
    if len(sides) < 2:
        what = f"{sides[0].name} is one configuration" if sides else "no folder was given"
        raise UserError(f"{what}, and a comparison needs two: metalearn compare outputs/a outputs/b")
    comparison = make_comparison(sides, mode, step)
    keys = differences([part.runs[0] for part in sides])
    settings = [f"  {key}: {' / '.join(map(str, values))}" for key, values in list(keys.items())[:MOST_KEYS]]
    settings += [f"  and {len(keys) - MOST_KEYS} keys more"] if len(keys) > MOST_KEYS else []
    show("\n".join(map(printable, _lines(comparison, settings))))
    if out is not None:
        write_durably(out, (json.dumps(_as_json(comparison), indent=2, allow_nan=False) + "\n").encode())


def _lines(comparison: Comparison, settings: list[str]) -> list[str]:
    """What is printed; `settings` are lines on the keys in which the sides differ."""
    metric = comparison.metric
    steps = {side.inner_steps for side in comparison.sides} if comparison.step is None else {comparison.step}
    last = f"inner step {steps.pop()}" if len(steps) == 1 else "the last inner step of each side"
    lines = [
        f"{in_unit(metric)} after {last}, on the same {comparison.episodes} test episodes ({comparison.sha256[:16]})",
        "",
    ]
    rows = [["side", "seeds", "inner steps", "mean", "median", "batch norm"]]
    for side in comparison.sides:
        mean, median = (figure(float(value), metric) for value in (side.values.mean(), np.median(side.values.mean(0))))
        steps_taken = str(side.inner_steps if comparison.step is None else comparison.step)
        rows.append([side.name, ",".join(map(str, side.seeds)), steps_taken, mean, median, side.batch_norm or "none"])
    lines += aligned(rows, "lrrrrl")
    if settings:
        lines += ["", "they differ in", *settings]
    for difference in comparison.differences:
        lines += [
            "",
            f"{difference.second.name} minus {difference.first.name}",
            *_difference_lines(difference, comparison),
        ]
        sentence = f"{conclusion(comparison, difference)}."
        lines += textwrap.wrap(sentence, 100, initial_indent="  ", subsequent_indent="  ")
    notes = [line for caution in cautions(comparison) for line in textwrap.wrap(f"note: {caution}", 100)]
    return [*lines, "", *notes] if notes else lines


def _estimates(difference: Difference) -> list[tuple[str, str, Estimate | None, str]]:
    """The name of each estimate in the file and for a person, the estimate, and its method."""
    by_seed = "paired t, by seed" if difference.seeds_paired else "Welch's t"
    both = "half widths over seeds and over episodes, added as squares"
    return [
        ("episodes", "over test episodes", difference.episodes, "paired t"),
        ("unpaired", "the same, unpaired", difference.as_if_unpaired, "Welch's t"),
        ("seeds", "over training seeds", difference.seeds, by_seed),
        ("both", "over both", difference.both, both),
    ]


def _difference_lines(difference: Difference, comparison: Comparison) -> list[str]:
    metric = comparison.metric
    rows = [["", "difference", "95% interval", "", ""]]
    for key, name, estimate, method in _estimates(difference):
        if estimate is None:
            continue
        if key in ("episodes", "seeds"):
            method += f", {estimate.df:.4g} degrees of freedom"
        if key == "unpaired" and difference.episodes and difference.episodes.half:
            method += f", {estimate.half / difference.episodes.half:.2g} times as wide"
        mean, low, high = (figure(value, metric, True) for value in (estimate.mean, estimate.low, estimate.high))
        rows.append([f"  {name}", mean, f"{low} to {high}", f"p {estimate.p:.2g}", method])
    lines = aligned(rows, "lrlll") if len(rows) > 1 else []
    ranks = "" if difference.wilcoxon is None else f"; Wilcoxon's signed ranks: p {difference.wilcoxon:.2g}"
    lines.append(f"  better on {difference.better_on:.1%} of the episodes, worse on {difference.worse_on:.1%}{ranks}")
    if len(comparison.differences) > 1 and difference.p is not None:
        lines.append(f"  p {difference.p:.2g} after Holm's correction")
    return lines


def _as_json(comparison: Comparison) -> Json:
    """The content of out=FILE: every figure, accuracies in 0..1."""
    return {
        "metric": comparison.metric,
        "inner_step": comparison.step,
        "episodes": comparison.episodes,
        "episodes_sha256": comparison.sha256,
        "sides": [
            {"name": side.name, "seeds": side.seeds, "mean": finite(side.values.mean()), "batch_norm": side.batch_norm}
            for side in comparison.sides
        ],
        "differences": [
            {
                "first": difference.first.name,
                "second": difference.second.name,
                **{key: _estimate(estimate, method) for key, _, estimate, method in _estimates(difference)},
                "wilcoxon_p": difference.wilcoxon,
                "better_on": difference.better_on,
                "worse_on": difference.worse_on,
                "p_holm": difference.p,
                "conclusion": conclusion(comparison, difference),
            }
            for difference in comparison.differences
        ],
        "notes": cautions(comparison),
    }


def _estimate(estimate: Estimate | None, method: str) -> Json | None:
    keys = ("mean", "low", "high", "p", "df")
    return None if estimate is None else {**{key: getattr(estimate, key) for key in keys}, "method": method}
