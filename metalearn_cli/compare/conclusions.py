"""Sentences on what follows from a comparison, and what does not."""

from metalearn_cli.compare.comparison import Comparison, Difference
from metalearn_cli.learning.scores import figure, is_better


def conclusions(comparison: Comparison) -> list[str]:
    return [
        _conclusion(comparison, difference, p)
        for difference, p in zip(comparison.differences, comparison.p_values, strict=True)
    ]


def _conclusion(comparison: Comparison, difference: Difference, p: float | None) -> str:
    metric, first, second = comparison.metric, difference.first.name, difference.second.name
    if difference.decisive is None or p is None:
        return (
            f"The mean of {first} or of {second} is not finite, so that there is no difference of means: look at the "
            f"shares of episodes{'' if difference.wilcoxon is None else ', and at Wilcoxon'}"
        )
    if difference.better_on == difference.worse_on == 0.0:
        return f"{first} and {second} have the same result on every episode"
    low, high = sorted(abs(end) for end in (difference.decisive.low, difference.decisive.high))
    unit = " points" if metric == "accuracy" else ""
    size = f"{figure(low, metric)} to {figure(high, metric)}{unit}"
    if p >= 0.05:
        what = "Nothing tells them apart" if difference.both else f"These episodes do not tell {second} from {first}"
        if difference.decisive.p < 0.05:
            what = f"After Holm's correction {what[0].lower()}{what[1:]}"
            what += f" (p {p:.2g}), though the interval of this difference by itself is without 0"
            return f"{what}. {_scope(difference)}"
        ends = (
            f"{figure(difference.decisive.low, metric, True)} to {figure(difference.decisive.high, metric, True)}{unit}"
        )
        sentence = f"{what}: the difference may be anything from {ends}"
        if difference.both and difference.episodes and difference.episodes.p < 0.05:
            sentence += ", though these very models differ: trained again, it could be the other way round"
    else:
        is_gain = is_better(metric, difference.decisive.mean, 0.0)
        sentence = f"{second} is {'better' if is_gain else 'worse'} than {first} by {size}"
        agrees = difference.wilcoxon is None or difference.wilcoxon < 0.05
        if not agrees or (difference.better_on > difference.worse_on) != is_gain:
            sentence += "; on most episodes it is not so: a few with large differences decide the mean"
    return f"{sentence}. {_scope(difference)}"


def _scope(difference: Difference) -> str:
    """What the conclusion is about: these models, or models that are trained again."""
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


def cautions(comparison: Comparison) -> list[str]:
    """A sentence for each reason why the comparison is weaker than it looks."""
    modes = {side.batch_norm for side in comparison.sides}
    said = []
    if len(modes - {None}) > 1:
        named = ", ".join(f"{side.name}: {side.batch_norm}" for side in comparison.sides)
        said.append(f"they were tested in different batch-norm modes ({named}): batch_norm=MODE compares them in one")
    for side in comparison.sides[1:]:
        if side.settings == comparison.sides[0].settings != "":
            said.append(
                f"{comparison.sides[0].name} and {side.name} are one configuration: what parts them is the noise of "
                "training, and no setting of it is better than itself"
            )
    counts = sorted({len(side.seeds) for side in comparison.sides})
    if len(comparison.sides) > 2:
        said.append(
            f"p after Holm's correction for {len(comparison.differences)} comparisons with {comparison.sides[0].name}; "
            "each interval is a 95% interval by itself"
        )
    if len(counts) > 1:
        said.append(f"the sides have different numbers of seeds: {' and '.join(map(str, counts))}")
    return said
