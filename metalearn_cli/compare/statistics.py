"""Differences with their 95% intervals and p-values: Student's t, Wilcoxon's ranks, Holm's correction.

SciPy is imported where it is called: that takes most of a second, which no other command should wait for.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from metalearn_cli.run_folder.read import Values
from metalearn_cli.tasks.metrics import METRICS

# Two shares of at most so many are further apart than twice the error of one in float32: which share it was is certain.
_MOST, _ERROR = 2048, 2**-23


def t_quantile(df: float, p: float = 0.05) -> float:
    """The t beyond which, on both sides together, lies p: the half width of an interval in standard errors."""
    from scipy.special import stdtrit

    return float(-stdtrit(df, p / 2))


class Estimate(NamedTuple):
    """A mean with the half width of its 95% interval, and the two-sided p-value of its being 0."""

    mean: float
    half: float
    p: float
    df: float  # degrees of freedom of Student's t
    variance: float  # of the mean

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(mean: float, variance: float, df: float) -> Estimate:
    from scipy.special import stdtr

    if variance == 0:
        return Estimate(mean, 0.0, 1.0 if mean == 0 else 0.0, df, 0.0)
    error = math.sqrt(variance)
    return Estimate(mean, t_quantile(df) * error, float(2 * stdtr(df, -abs(mean / error))), df, variance)


def gains(metric: str, first: Values, second: Values) -> Values:
    """The mean of `second` [R, N] minus that of `first` [S, N], [N].

    Of accuracies, which are kept in float32, exactly: where all are shares (7 of 25 queries) of at most 2,048, they are
    taken for these shares, so that equal differences are equal and those of nothing are 0, also between means.
    """
    plain: Values = second.mean(0) - first.mean(0)
    if not METRICS[metric].unit or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return plain
    values, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    shares: list[Fraction] = []
    for value in values.tolist():
        shares.append(Fraction(value).limit_denominator(_MOST))
        if abs(shares[-1] - Fraction(value)) > _ERROR:
            return plain
    whole = math.lcm(*(share.denominator for share in shares))
    counts = np.array([int(share * whole) for share in shares], dtype=object)[place].reshape(-1, first.shape[1])
    mine, other = (part.sum(0) for part in np.split(counts, [len(first)]))
    exact: Values = ((len(first) * other - len(second) * mine) / (whole * len(first) * len(second))).astype(np.float64)
    return exact


def paired(differences: Values) -> Estimate:
    """The estimate of a mean from its differences [N], N at least 2."""
    number = len(differences)
    return estimate(float(differences.mean()), float(differences.var(ddof=1)) / number, number - 1)


def unpaired(first: Values, second: Values) -> Estimate:
    """The mean of `second` minus that of `first`, as if they had nothing to do with each other: Welch's t."""
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (first, second)]
    variance, squares = sum(part for part, _ in parts), sum(part**2 / df for part, df in parts)
    df = variance**2 / squares if squares else float(sum(df for _, df in parts))
    return estimate(float(second.mean() - first.mean()), variance, df)


def together(over_seeds: Estimate, over_episodes: Estimate) -> Estimate:
    """The estimate of one mean with two sources of noise.

    The half widths are added as squares: the degrees of freedom that a sum of variances has by Satterthwaite give too
    narrow an interval where a few seeds decide. p belongs to the widest interval without 0. What seeds and episodes
    share is counted twice, which makes the interval a little too wide rather than too narrow.
    """
    parts = over_seeds, over_episodes
    mean, df = over_episodes.mean, over_seeds.df

    def half(p: float) -> float:
        return math.sqrt(sum(t_quantile(part.df, p) ** 2 * part.variance for part in parts if part.variance))

    variance = sum(part.variance for part in parts)
    if variance == 0:
        return estimate(mean, 0.0, df)
    low, high = -30.0, 0.0  # p as a power of ten
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if half(10**middle) < abs(mean) else (middle, high)
    return Estimate(mean, half(0.05), 10**high, df, variance)


def wilcoxon(differences: Values) -> float | None:
    """The p-value of Wilcoxon's signed ranks, by the normal approximation with its correction for ties. Zeros are left
    out; None where fewer than 20 remain."""
    kept = differences[differences != 0]
    if len(kept) < 20:
        return None
    from scipy.stats import wilcoxon as signed_ranks

    return float(signed_ranks(kept, correction=False, method="approx").pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Each p-value as it must be read where the smallest of them is looked for (Holm 1979)."""
    adjusted = np.array(p_values)
    order = adjusted.argsort()
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(order), 0, -1) * adjusted[order]))
    return list(adjusted.tolist())
