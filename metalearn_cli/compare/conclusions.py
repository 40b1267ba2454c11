"""What follows from a comparison, and what does not, in sentences."""

from metalearn_cli.compare.comparison import Comparison, Difference
from metalearn_cli.learning.scores import figure, is_better


def conclusions(comparison: Comparison) -> list[str]:
    return [_conclusion(comparison, one, p) for one, p in zip(comparison.differences, comparison.p_values, strict=True)]


def _conclusion(comparison: Comparison, one: Difference, p: float | None) -> str:
    metric, first, second = comparison.metric, one.first.name, one.second.name
    if one.decisive is None or p is None:
        return (
            f"The mean of {first} or of {second} is not finite, so that there is no difference of means: look at the "
            f"shares of episodes{'' if one.wilcoxon is None else ', and at Wilcoxon'}"
        )
    if one.shares == (0.0, 0.0):
        return f"{first} and {second} have the same result on every episode"
    low, high = sorted(abs(end) for end in (one.decisive.low, one.decisive.high))
    unit = " points" if metric == "accuracy" else ""
    size = f"{figure(low, metric)} to {figure(high, metric)}{unit}"
    if p >= 0.05:
        what = "Nothing tells them apart" if one.both else f"These episodes do not tell {second} from {first}"
        if one.decisive.p < 0.05:
            what = f"After Holm's correction {what[0].lower()}{what[1:]}"
            return f"{what} (p {p:.2g}), though the interval of this difference by itself is without 0. {_scope(one)}"
        ends = f"{figure(one.decisive.low, metric, True)} to {figure(one.decisive.high, metric, True)}{unit}"
        sentence = f"{what}: the difference may be anything from {ends}"
        if one.both and one.episodes and one.episodes.p < 0.05:
            sentence += ", though these very models differ: trained anew, it could be the other way round"
    else:
        is_gain = is_better(metric, one.decisive.mean, 0.0)
        sentence = f"{second} is {'better' if is_gain else 'worse'} than {first} by {size}"
        agrees = one.wilcoxon is None or one.wilcoxon < 0.05
        if not agrees or (one.shares[0] > one.shares[1]) != is_gain:
            sentence += "; on most episodes it is not so: a few with large differences decide the mean"
    return f"{sentence}. {_scope(one)}"


def _scope(one: Difference) -> str:
    """For what the sentence holds."""
    seeds = len(one.first.seeds), len(one.second.seeds)
    if one.both:
        return (
            f"The interval holds the noise of training ({seeds[0]} and {seeds[1]} seeds) and of test episodes: it "
            "speaks of models trained anew and of other episodes of this kind"
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
    """In what the sides differ besides their names, and what makes the comparison weaker than it looks."""
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
