"""Sentences on what follows from a comparison, and what does not."""

from metalearn_cli.compare.comparison import Comparison, Difference
from metalearn_cli.learning.scores import figure, is_better


def conclusion(comparison: Comparison, difference: Difference) -> str:
    """What follows from a difference; p, which is corrected where there are several, decides."""
    metric, first, second = comparison.metric, difference.first.name, difference.second.name
    decisive, p = difference.decisive, difference.p
    if decisive is None or p is None:
        return (
            f"The mean of {first} or of {second} is not finite, so that there is no difference of means: look at the "
            f"shares of episodes{'' if difference.wilcoxon is None else ', and at Wilcoxon'}"
        )
    if difference.better_on == difference.worse_on == 0.0:
        return f"{first} and {second} have the same result on every episode"
    unit = " points" if metric == "accuracy" else ""
    if p < 0.05:
        is_gain = is_better(metric, decisive.mean, 0.0)
        least, most = (figure(size, metric) for size in sorted(map(abs, (decisive.low, decisive.high))))
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
        low, high = (figure(end, metric, True) for end in (decisive.low, decisive.high))
        sentence += f": the difference may be anything from {low} to {high}{unit}"
        if difference.both and difference.episodes and difference.episodes.p < 0.05:
            sentence += ", though these very models differ: trained again, it could be the other way round"
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
    first, *others = comparison.sides
    counts = sorted({len(side.seeds) for side in comparison.sides})
    sentences = []
    if len({side.batch_norm for side in comparison.sides} - {None}) > 1:
        modes = ", ".join(f"{side.name}: {side.batch_norm}" for side in comparison.sides)
        sentences.append(
            f"they were tested in different batch-norm modes ({modes}): batch_norm=MODE compares them in one"
        )
    sentences += [
        f"{first.name} and {side.name} are one configuration: what parts them is the noise of training, and no setting "
        "of it is better than itself"
        for side in others
        if side.settings == first.settings != ""
    ]
    if len(others) > 1:
        sentences.append(
            f"p after Holm's correction for {len(others)} comparisons with {first.name}; each interval is a 95% "
            "interval by itself"
        )
    if len(counts) > 1:
        sentences.append(f"the sides have different numbers of seeds: {' and '.join(map(str, counts))}")
    return sentences
