"""Against figures that stand here: of whole tests by scipy 1.17.1 (ttest_rel, ttest_ind, wilcoxon), of Student's t as
mpmath has them."""

import numpy as np
import pytest

from metalearn_cli.compare.comparison import Side, difference
from metalearn_cli.compare.statistics import estimate, gains, holm, paired, t_quantile, together, unpaired, wilcoxon

D = np.array([((i * 37) % 101 - 45) / 8 for i in range(40)])
A = np.array([((i * 53) % 97) / 10 for i in range(40)])


@pytest.mark.parametrize(
    ("df", "quantile", "p"),
    [
        (1, 12.706204736174694, 0.24223788318168682),
        (2, 4.302652729749462, 0.12961172022151082),
        (30, 2.0422724563012378, 0.01811564906806669),
        (599, 1.9639322489452784, 0.012685599856850754),
        (1e6, 1.959966356814107, 0.012419489502163254),
        (7.3, 2.345066736547703, 0.03965023466560043),
    ],
)
def test_students_t(df: float, quantile: float, p: float) -> None:
    for mean in (2.5, -2.5):
        computed = estimate(mean, 1.0, df)
        assert (computed.half, computed.p) == pytest.approx((quantile, p), rel=1e-9)
    assert estimate(40, 1.0, 599).p == pytest.approx(2.658918435565544e-171, rel=1e-9)


def test_the_paired_t_and_welchs() -> None:
    computed = paired(D)
    assert (computed.mean, computed.p) == pytest.approx((0.60625, 0.31066650534589646), rel=1e-9)
    assert (computed.low, computed.high) == pytest.approx((-0.5875632874237298, 1.8000632874237297), rel=1e-7)
    computed = unpaired(A[:25], A + D)
    assert (computed.mean, computed.p) == pytest.approx((0.7802500000000014, 0.4283780154934606), rel=1e-9)
    assert computed.df == pytest.approx(62.77336702476839, rel=1e-9)
    assert (computed.low, computed.high) == pytest.approx((-1.1759019358898521, 2.7364019358898553), rel=1e-7)
    for constant, p in ((np.zeros(5), 1.0), (np.ones(5), 0.0)):  # no noise at all
        assert (paired(constant).p, paired(constant).half) == (p, 0.0)


def test_wilcoxons_ranks_without_and_with_ties_and_zeros() -> None:
    assert wilcoxon(D) == pytest.approx(0.33645470071950234, rel=1e-9)
    ties = np.round(D)
    assert (ties == 0).sum() == 3
    assert wilcoxon(ties) == pytest.approx(0.28249790341830927, rel=1e-9)
    assert wilcoxon(D[:19]) is None
    largest = np.abs(D) == np.abs(D).max()
    assert wilcoxon(np.where(largest, np.copysign(np.inf, D), D)) == wilcoxon(D)


def shares(counts: list[int], queries: int | list[int] = 25) -> np.ndarray:
    """The accuracies of so many right answers, as a run keeps them: float32, [1, E]."""
    return (np.array([counts]) / queries).astype(np.float32).astype(np.float64)


def test_accuracies_are_compared_by_their_counts() -> None:
    """In float32, 24/25 - 23/25 is not 23/25 - 22/25."""
    first, second = shares([24, 23, 22, 21] * 8), shares([23, 24, 23, 22] * 8)
    assert set(gains("accuracy", first, second)) == {-1 / 25, 1 / 25}
    assert wilcoxon(gains("accuracy", first, second)) == pytest.approx(0.0046777349810472576, rel=1e-9)
    assert len(set(gains("mse", first, second))) == 3


def test_the_counts_of_queries_whose_number_varies() -> None:
    """1/3 - 1/4 and 7/12 - 3/6 are one difference, and so are the shares that a GPU rounds once more."""
    queries = np.array([3, 4, 12, 6, 2047, 2048])
    first, second = shares([1, 1, 3, 3, 1000, 77], [4, 3, 12, 6, 2047, 2048]), shares([1, 1, 7, 1, 1000, 77], queries)
    second[0, 4:] = np.float32([1000, 77]) * np.float32(1 / queries[4:])
    expected = [1 / 12, -1 / 12, 1 / 3, -1 / 3, 0, 0]
    assert gains("accuracy", first, second).tolist() == expected


def test_means_of_several_seeds_are_compared_by_their_counts() -> None:
    """3 + 8 + 22 right answers are as many as 9 + 4 + 20, and two seeds may stand against three."""
    first = np.concatenate([shares(row) for row in ([3, 7, 21], [8, 7, 22], [22, 7, 23])])
    second = np.concatenate([shares(row) for row in ([20, 7, 24], [9, 7, 25], [4, 7, 23])])
    assert gains("accuracy", first, second).tolist() == [0, 0, 2 / 25]
    assert gains("accuracy", first, second[:2]).tolist() == [3.5 / 25, 0, 2.5 / 25]
    assert gains("mse", first, second)[0] != 0


def test_accuracies_that_are_not_shares_stay_as_they_are() -> None:
    first, second = np.array([[0.5**0.5, 0.5]]), np.array([[0.75, 0.5]])
    assert gains("accuracy", first, second)[0] == 0.75 - 0.5**0.5
    assert gains("accuracy", first, np.array([[np.inf, 0.5]])).tolist() == [np.inf, 0.0]


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_sources_of_noise_together() -> None:
    """One alone is itself; both are wider than each, and p is that of the interval that ends at 0."""
    seeds, episodes = estimate(2.0, 0.5, 3), estimate(2.0, 0.3, 199)
    assert together(estimate(2.0, 0.0, 3), episodes).half == pytest.approx(episodes.half)
    assert together(estimate(2.0, 0.0, 3), episodes).p == pytest.approx(episodes.p, rel=1e-3)
    both = together(seeds, episodes)
    assert both.half == pytest.approx(np.hypot(seeds.half, episodes.half))
    ends = np.hypot(t_quantile(3, both.p) * 0.5**0.5, t_quantile(199, both.p) * 0.3**0.5)
    assert ends == pytest.approx(2.0, rel=1e-3)


def test_the_interval_covers() -> None:
    """Seeds and episodes as independent sources: 95% of the intervals hold the truth, and those of episodes alone do
    not where the seeds differ."""
    rng = np.random.default_rng(0)
    both, alone = [], []
    for _ in range(300):
        seeds, episodes = rng.normal(0, 1, (4, 1)), rng.normal(0, 3, (1, 50))
        gain = 0.7 + seeds + episodes + rng.normal(0, 0.5, (4, 50))
        zeros = Side("first", [0, 1, 2, 3], np.zeros((4, 50)), None, {}, 1)
        computed = difference("mse", zeros, Side("second", [0, 1, 2, 3], gain, None, {}, 1))
        assert computed.both is not None
        assert computed.episodes is not None
        both.append(computed.both.low <= 0.7 <= computed.both.high)
        alone.append(computed.episodes.low <= 0.7 <= computed.episodes.high)
    assert 0.94 <= np.mean(both) <= 0.99
    assert np.mean(alone) < 0.85
