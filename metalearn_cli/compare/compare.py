"""`metalearn compare`: is the second better than the first, on the same test episodes?"""

import json
import textwrap
from pathlib import Path

import numpy as np

from metalearn_cli.compare.comparison import Comparison, Difference, make_comparison
from metalearn_cli.compare.conclusions import cautions, conclusions
from metalearn_cli.compare.groups import differences, parts
from metalearn_cli.compare.statistics import Estimate
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import figure
from metalearn_cli.run_folder.read import RunFolder, find_runs
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import printable
from metalearn_cli.system.text_table import aligned, finite
from metalearn_cli.system.typed_json import Json


def compare(folders: list[str], out: Path | None, mode: str | None, step: int | None) -> None:
    """Print the differences between the runs in these folders, and write them to `out`."""
    found = [part for argument in folders for part in parts(argument)]
    for job, sentence in {job: why for argument in folders for job, why in find_runs(argument).failed.items()}.items():
        tell(printable(f"note: {job} failed, and is left out: {sentence}"))
    if len(found) < 2:
        what = f"{found[0].name} is one configuration" if found else "no folder was given"
        raise UserError(f"{what}, and a comparison needs two: metalearn compare outputs/a outputs/b")
    comparison = make_comparison(found, mode, step)
    settings = setting_lines([part.runs[0] for part in found])
    show("\n".join(map(printable, comparison_lines(comparison, settings))))
    if out is not None:
        write_durably(out, (json.dumps(as_json(comparison), indent=2, allow_nan=False) + "\n").encode())


def setting_lines(some: list[RunFolder], most: int = 8) -> list[str]:
    """The keys that differ between the sides, with the value of each."""
    keys = differences(some)
    said = [f"  {key}: {' / '.join(map(str, values))}" for key, values in list(keys.items())[:most]]
    return said + ([f"  and {len(keys) - most} keys more"] if len(keys) > most else [])


def comparison_lines(comparison: Comparison, settings: list[str]) -> list[str]:
    metric = comparison.metric
    steps = {side.inner_steps for side in comparison.sides} if comparison.step is None else {comparison.step}
    last = f"inner step {steps.pop()}" if len(steps) == 1 else "the last inner step of each side"
    said = [
        f"{metric}{' in %' if metric == 'accuracy' else ''} after {last}, on the same {comparison.episodes} test "
        f"episodes ({comparison.sha256[:16]})",
        "",
    ]
    rows = [["side", "seeds", "inner steps", "mean", "median", "batch norm"]]
    for side in comparison.sides:
        mean, median = (figure(float(value), metric) for value in (side.values.mean(), np.median(side.values.mean(0))))
        steps_taken = str(side.inner_steps if comparison.step is None else comparison.step)
        rows.append([side.name, ",".join(map(str, side.seeds)), steps_taken, mean, median, side.batch_norm or "none"])
    said += aligned(rows, "lrrrrl")
    if settings:
        said += ["", "they differ in", *settings]
    for difference, p, sentence in zip(
        comparison.differences, comparison.p_values, conclusions(comparison), strict=True
    ):
        said += [
            "",
            f"{difference.second.name} minus {difference.first.name}",
            *_difference_lines(difference, p, comparison),
        ]
        said += textwrap.wrap(f"{sentence}.", 100, initial_indent="  ", subsequent_indent="  ")
    if said_too := cautions(comparison):
        said += ["", *(line for caution in said_too for line in textwrap.wrap(f"note: {caution}", 100))]
    return said


def _difference_lines(difference: Difference, p: float | None, comparison: Comparison) -> list[str]:
    metric = comparison.metric
    rows: list[list[str]] = []

    def add(name: str, estimate: Estimate, how: str) -> None:
        low, high = (figure(end, metric, True) for end in (estimate.low, estimate.high))
        rows.append(
            [
                f"  {name}",
                figure(estimate.mean, metric, True),
                f"{low} to {high}",
                f"p {estimate.p:.2g}",
                how.format(f"{estimate.df:.4g}"),
            ]
        )

    if difference.episodes is not None and difference.as_if_unpaired is not None:
        add("over test episodes", difference.episodes, "paired t, {} degrees of freedom")
        half = difference.episodes.half
        wider = f", {difference.as_if_unpaired.half / half:.2g} times as wide" if half else ""
        add("the same, unpaired", difference.as_if_unpaired, f"Welch's t{wider}")
    if difference.seeds is not None and difference.both is not None:
        add(
            "over training seeds",
            difference.seeds,
            ("paired t, by seed" if difference.seeds_paired else "Welch's t") + ", {} degrees of freedom",
        )
        add("over both", difference.both, "both half widths, added as squares")
    said = aligned([["", "difference", "95% interval", "", ""], *rows], "lrlll") if rows else []
    ranks = "" if difference.wilcoxon is None else f"; Wilcoxon's signed ranks: p {difference.wilcoxon:.2g}"
    said.append(f"  better on {difference.better_on:.1%} of the episodes, worse on {difference.worse_on:.1%}{ranks}")
    if len(comparison.differences) > 1 and p is not None:
        said.append(f"  p {p:.2g} after Holm's correction")
    return said


def as_json(comparison: Comparison) -> Json:
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
                "episodes": _estimate(difference.episodes, "paired t"),
                "unpaired": _estimate(difference.as_if_unpaired, "Welch's t"),
                "seeds": _estimate(difference.seeds, "paired t, by seed" if difference.seeds_paired else "Welch's t"),
                "both": _estimate(difference.both, "half widths over seeds and over episodes, added as squares"),
                "wilcoxon_p": difference.wilcoxon,
                "better_on": difference.better_on,
                "worse_on": difference.worse_on,
                "p_holm": p,
                "conclusion": sentence,
            }
            for difference, p, sentence in zip(
                comparison.differences, comparison.p_values, conclusions(comparison), strict=True
            )
        ],
        "notes": cautions(comparison),
    }


def _estimate(estimate: Estimate | None, method: str) -> Json | None:
    if estimate is None:
        return None
    figures = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "p": estimate.p, "df": estimate.df}
    return {**figures, "method": method}
