"""The flag `unlike`: of the queries of new classes no more are flagged than is promised."""

import pytest
import torch
from scipy.stats import binomtest

from metalearn_cli.trained.novelty import LEAST, PROMISED, calibrated, upper_end, worth_of


def scores_of(classes: int, queries: int, alike: float, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Queries of classes whose scores have this correlation within a class."""
    rng = torch.Generator().manual_seed(seed)
    of_class = torch.randn(classes, 1, generator=rng, dtype=torch.float64)
    own = torch.randn(classes, queries, generator=rng, dtype=torch.float64)
    scores = alike**0.5 * of_class + (1 - alike) ** 0.5 * own
    return scores.flatten(), [str(number) for number in range(classes) for _ in range(queries)]


@pytest.mark.parametrize(("classes", "queries"), [(4, 100), (16, 100), (64, 40), (400, 6)])
@pytest.mark.parametrize("alike", [0.0, 0.3])
def test_the_promise_holds_for_as_many_new_classes(classes: int, queries: int, alike: float) -> None:
    broken = 0
    for seed in range(40):
        scores, names = scores_of(2 * classes, queries, alike, seed)
        half = classes * queries
        value, share, promised = calibrated(scores[:half], names[:half])
        assert LEAST / 2 <= share <= PROMISED
        assert share == float((scores[:half] > value).double().mean())
        assert promised >= PROMISED or share > LEAST or promised > share
        broken += bool((scores[half:] > value).double().mean() > max(promised, PROMISED))
    assert broken <= 3  # of 40, where one is expected


def test_many_classes_flag_nearly_what_is_promised_and_few_promise_less() -> None:
    _, many, promised = calibrated(*scores_of(2000, 5, 0.1, 0))
    assert 0.035 < many < 0.05
    assert promised <= PROMISED
    _, few, promised = calibrated(*scores_of(4, 500, 0.3, 0))
    assert few == pytest.approx(LEAST)
    assert promised > 0.1
    assert calibrated(*scores_of(1, 500, 0.3, 0))[2] == 1.0
    value, share, _ = calibrated(torch.tensor([3.0, 1.0]), ["a", "b"])
    assert (value, share) == (3.0, 0.0)


def test_the_interval_is_clopper_and_pearsons_where_queries_are_of_classes_of_their_own() -> None:
    exact = binomtest(30, 1000).proportion_ci(0.95, "exact").high
    assert upper_end(0.03, 2 * 1000, 1000, 1000) == pytest.approx(exact, rel=1e-12)
    assert upper_end(0.03, 2 * 1000, 1000, 10) > exact
    assert upper_end(0.03, 1000, 1000, 1000) > exact


def test_what_queries_are_worth() -> None:
    flagged, members = torch.zeros(1000), torch.arange(1000) // 100
    flagged[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:50]] = 1
    assert worth_of(flagged.double(), members) > 300
    of_one = (members == 3).double()
    assert worth_of(of_one, members) == pytest.approx(10)
    assert worth_of(flagged.double(), torch.arange(1000)) == 1000
