"""`metalearn compare`: is the second better than the first, on the same test episodes?"""

import json
import textwrap
from pathlib import Path

import numpy as np

from metalearn_cli.compare.comparison import Comparison, Difference, make_comparison, unbeaten
from metalearn_cli.compare.groups import differences, parts
from metalearn_cli.compare.statistics import Estimate
from metalearn_cli.errors import UserError
from metalearn_cli.learning.baselines import BASELINES
from metalearn_cli.learning.leakage import in_words
from metalearn_cli.learning.scores import in_unit, is_better, text_of
from metalearn_cli.run_folder.read import find_runs
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.text import printable
from metalearn_cli.system.text_table import aligned, finite
from metalearn_cli.system.typed_json import Json
from metalearn_cli.tasks.metrics import METRICS

MOST_KEYS = 8  # in which the sides differ, that are shown


def compare(folders: list[str], out: Path | None, mode: str | None, step: int | None) -> None:
    """Print the differences between the runs in these folders, and write them to `out`."""
    sides = [part for argument in folders for part in parts(argument)]
    for job, sentence in {job: why for argument in folders for job, why in find_runs(argument).failed.items()}.items():
        tell(printable(f"note: {job} failed, and is left out: {sentence}"))
    if len(sides) < 2:
        what = f"{sides[0].name} is one configuration, and a comparison needs two"
        raise UserError(f"{what}: metalearn compare outputs/a outputs/b")
    comparison = make_comparison(sides, mode, step)
    keys = differences([part.runs[0] for part in sides])
    settings = [f"  {key}: {' / '.join(map(str, values))}" for key, values in list(keys.items())[:MOST_KEYS]]
    settings += [f"  and {len(keys) - MOST_KEYS} keys more"] if len(keys) > MOST_KEYS else []
    show("\n".join(map(printable, _lines(comparison, settings))))
    if out is not None:
        write_durably(out, (json.dumps(_as_json(comparison), indent=2, allow_nan=False) + "\n").encode())


def _lines(comparison: Comparison, settings: list[str]) -> list[str]:
    """Write what is printed; `settings` are lines on the keys in which the sides differ."""
    metric = comparison.metric
    steps = {side.inner_steps for side in comparison.sides} if comparison.step is None else {comparison.step}
    last = f"inner step {steps.pop()}" if len(steps) == 1 else "the last inner step of each side"
    lines = [
        f"{in_unit(metric)} after {last}, on the same {comparison.episodes} test episodes ({comparison.sha256[:16]})",
        "",
    ]
    rows = [["side", "seeds", "inner steps", "mean", "median", "batch norm"]]
    for side in comparison.sides:
        mean, median = (text_of(float(value), metric) for value in (side.values.mean(), np.median(side.values.mean(0))))
        steps_taken = str(side.inner_steps if comparison.step is None else comparison.step)
        mode = (side.batch_norm or "none") + ", transductive head" * side.transductive_head
        rows.append([side.name, ",".join(map(str, side.seeds)), steps_taken, mean, median, mode])
    for name, values in comparison.baselines.items():
        mean, median = (text_of(float(value), metric) for value in (values.mean(), np.median(values)))
        first = f", first {len(values)} episodes" * (len(values) < comparison.episodes)
        rows.append([BASELINES[name].words + first, "", "", mean, median, ""])
    lines += aligned(rows, "lrrrrl")
    if settings:
        lines += ["", "they differ in", *settings]
    for difference in comparison.differences:
        lines += [
            "",
            f"{difference.second.name} minus {difference.first.name}",
            *_difference_lines(difference, comparison),
        ]
        sentence = f"{_conclusion(comparison, difference)}."
        lines += textwrap.wrap(sentence, 100, initial_indent="  ", subsequent_indent="  ")
    notes = [line for caution in _cautions(comparison) for line in textwrap.wrap(f"note: {caution}", 100)]
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
        if key == "both":
            method = "both half widths, added as squares"
        if key == "unpaired" and difference.episodes and difference.episodes.half:
            method += f", {estimate.half / difference.episodes.half:.2g} times as wide"
        mean, low, high = (text_of(value, metric, True) for value in (estimate.mean, estimate.low, estimate.high))
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
            {
                **{"name": side.name, "seeds": side.seeds, "mean": finite(side.values.mean())},
                **{"batch_norm": side.batch_norm, "transductive_head": side.transductive_head},
            }
            for side in comparison.sides
        ],
        "baselines": {
            name: {"mean": finite(values.mean()), "episodes": len(values)}
            for name, values in comparison.baselines.items()
        },
        "differences": [
            {
                "first": difference.first.name,
                "second": difference.second.name,
                **{key: _estimate(estimate, method) for key, _, estimate, method in _estimates(difference)},
                "wilcoxon_p": difference.wilcoxon,
                "better_on": difference.better_on,
                "worse_on": difference.worse_on,
                "p_holm": difference.p,
                "conclusion": _conclusion(comparison, difference),
            }
            for difference in comparison.differences
        ],
        "notes": _cautions(comparison),
    }


def _estimate(estimate: Estimate | None, method: str) -> Json | None:
    keys = ("mean", "low", "high", "p", "df")
    return None if estimate is None else {**{key: getattr(estimate, key) for key in keys}, "method": method}


def _conclusion(comparison: Comparison, difference: Difference) -> str:
    """Say what follows from a difference; its p, corrected where there are several, decides."""
    metric, first, second = comparison.metric, difference.first.name, difference.second.name
    decisive, p = difference.decisive, difference.p
    if decisive is None or p is None:
        return (
            f"The mean of {first} or of {second} is not finite, so that there is no difference of means: look at the "
            f"shares of episodes{'' if difference.wilcoxon is None else ', and at Wilcoxon'}"
        )
    if difference.better_on == difference.worse_on == 0.0:
        return f"{first} and {second} have the same result on every episode"
    unit = " points" if METRICS[metric].unit else ""
    if p < 0.05:
        is_gain = is_better(metric, decisive.mean, 0.0)
        least, most = (text_of(size, metric) for size in sorted(map(abs, (decisive.low, decisive.high))))
        sentence = f"{second} is {'better' if is_gain else 'worse'} than {first} by {least} to {most}{unit}"
        agrees = difference.wilcoxon is None or difference.wilcoxon < 0.05
        if not agrees or (difference.better_on > difference.worse_on) != is_gain:
            sentence += "; on most episodes it is not so: a few with large differences decide the mean"
        return f"{sentence}. {_scope(difference)}"
    sentence = "Nothing tells them apart" if difference.both else f"These episodes do not tell {second} from {first}"
    if decisive.p < 0.05:
        sentence = f"After Holm's correction {sentence[0].lower()}{sentence[1:]}"
        sentence += f" (p {p:.2g}), though the interval of this difference by itself is without 0"
    else:
        low, high = (text_of(end, metric, True) for end in (decisive.low, decisive.high))
        sentence += f": the difference may be anything from {low} to {high}{unit}"
        if difference.both and difference.episodes and difference.episodes.p < 0.05:
            sentence += ", though these very models differ: trained again, it could be the other way round"
    return f"{sentence}. {_scope(difference)}"


def _scope(difference: Difference) -> str:
    """Say what the conclusion is about: these models, or models that are trained again."""
    seeds = len(difference.first.seeds), len(difference.second.seeds)
    if difference.both:
        return (
            f"The interval holds the noise of training ({seeds[0]} and {seeds[1]} seeds) and of test episodes: it "
            "speaks of models that are trained again and of other episodes of this kind"
        )
    if max(seeds) > 1:
        return (
            f"One side has a single seed ({seeds[0]} and {seeds[1]}), so that the interval holds the noise of test "
            "episodes only, not of training: train both with several"
        )
    return (
        "With one seed each the interval holds the noise of test episodes only, not of training: it speaks of these "
        "two trained models, and another seed could turn it round"
    )


def _cautions(comparison: Comparison) -> list[str]:
    """A sentence for each reason why the comparison is weaker than it looks."""
    first, *others = comparison.sides
    counts = sorted({len(side.seeds) for side in comparison.sides})
    sentences = []
    if len({side.batch_norm for side in comparison.sides} - {None}) > 1:
        modes = ", ".join(f"{side.name}: {side.batch_norm}" for side in comparison.sides)
        sentences.append(
            f"they were tested in different batch-norm modes ({modes}): batch_norm=MODE compares them in one"
        )
    if len({side.transductive_head for side in comparison.sides}) > 1:
        heads = ", ".join(side.name for side in comparison.sides if side.transductive_head)
        sentences.append(
            f"only some have a transductive head, by which the queries of a task help to classify each other: {heads}"
        )
    sentences += [
        f"{first.name} and {side.name} are one configuration: what parts them is the noise of training, and no setting "
        "of it is better than itself"
        for side in others
        if side.settings == first.settings
    ]
    for side in comparison.sides:
        if words := unbeaten(comparison.metric, side.values, comparison.baselines):
            sentences.append(f"nothing shows on these episodes that {side.name} is better than {words}")
    sentences += [f"{side.name}: {in_words(side.leakage)}" for side in comparison.sides if side.leakage]
    if len(others) > 1:
        sentences.append(
            f"p after Holm's correction for {len(others)} comparisons with {first.name}; each interval is a 95% "
            "interval by itself"
        )
    if len(counts) > 1:
        sentences.append(f"the sides have different numbers of seeds: {' and '.join(map(str, counts))}")
    return sentences
