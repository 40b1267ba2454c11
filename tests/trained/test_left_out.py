"""What a support set tells of itself, against algo=ridge on every smaller support and against plain loops."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.features import Normalise
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.algorithms.ridge import Ridge
from metalearn_cli.algorithms.solvers import with_ones
from metalearn_cli.nets.linear import Linear
from metalearn_cli.tasks.base import Spec, Support
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.trained.left_out import (
    conformal_limit,
    copies,
    counted,
    fair_outputs,
    likeness,
    share_interval,
    without,
)

LABEL = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 1])
COPY = torch.tensor([0, 1, 2, 1, 0, 1, 2, 0, 1, 0, 1])  # 1 and 3 are one, and 5 and 10; class 3 has one example
FOLDS = torch.tensor([0, 1, 2, 1, 0, 1, 2, 0, 1, 9, 1])  # 9: it stays where the others leave


def features(numbers: int) -> Tensor:
    x = torch.randn(len(LABEL), numbers, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return F.normalize(x, dim=-1)


def by_ridge(x: Tensor, stays: Tensor) -> Tensor:
    """Outputs of algo=ridge for each example, adapted to the others that stay, [n, n] bool, in one batch of n tasks."""
    spec = Spec((x.shape[1],), 4, 4, Categorical())
    net, algo, number = Linear(spec, bias=True), Ridge(normalise=Normalise.l2, scale=1.0), len(x)
    tasks = x.expand(number, *x.shape), LABEL.expand(number, -1), torch.zeros(number, dtype=torch.int64)
    predictor = final_of(algo.adapt(net, algo.init(net, torch.Generator()), Support(*tasks, mask=stays), 0))
    return predictor(x[:, None], BatchNorm.running)[:, 0]


@pytest.mark.parametrize("numbers", [5, 40])  # fewer than the examples, and more
def test_outputs_without_a_group_are_those_of_a_head_that_never_saw_it(numbers: int) -> None:
    x = features(numbers)
    for group in (torch.arange(len(x)), FOLDS, LABEL):
        found = without(with_ones(x[None])[0], F.one_hot(LABEL), group, 1.0)
        torch.testing.assert_close(found, by_ridge(x, group[:, None] != group), rtol=1e-9, atol=1e-9)
    fair = fair_outputs(with_ones(x[None])[0], LABEL, COPY, 1.0)
    torch.testing.assert_close(fair, by_ridge(x, FOLDS[:, None] != FOLDS), rtol=1e-9, atol=1e-9)


def test_likeness_is_the_cosine_with_the_mean_of_a_class_without_the_copies() -> None:
    x = features(7)
    found = likeness(x, LABEL, COPY)
    for row in range(len(x)):
        for own in range(4):
            is_copy = (LABEL[row] == LABEL) & (COPY[row] == COPY)
            mean = x[(own == LABEL) & ~is_copy].sum(0)
            assert float(found[row, own]) == pytest.approx(float(x[row] @ mean / mean.norm().clamp_min(1e-12)))


def test_copies_are_linked_within_their_class_and_count_once() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 1.0, 0.0, 2.0])  # 0 is like 1, 1 like 2, and 0 not like 2
    x, label = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 0, 1, 2])
    copy = copies(x, label, 0.99)
    assert copy.tolist() == [0, 0, 0, 1, 0, 0]
    assert counted(label, copy).tolist() == [True, False, False, True, False, False]
    assert copies(x, label, 1 - 1e-5).tolist() == [0, 1, 2, 3, 0, 0]
    assert counted(LABEL, COPY).tolist() == [True, True, True, False, True, True, True, True, True, False, False]
    assert not counted(torch.arange(3), torch.zeros(3, dtype=torch.int64)).any()


def test_the_interval_is_wilsons() -> None:
    z = 1.959963984540054
    for right, number in ((0, 4), (21, 25), (25, 25)):
        share = right / number
        centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
        half = z / (1 + z**2 / number) * (share * (1 - share) / number + z**2 / (4 * number**2)) ** 0.5
        assert share_interval(right, number) == pytest.approx((centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("number", "promised"), [(4, 1 / 5), (25, 1 / 26), (39, 2 / 40), (100, 5 / 101)])
def test_as_many_new_examples_as_promised_are_above_the_limit(number: int, promised: float) -> None:
    rng, above, draws = np.random.default_rng(0), 0, 4000
    for _ in range(draws):
        scores = torch.from_numpy(rng.standard_normal(number + 1))
        limit, share = conformal_limit(scores[1:], 0.05)
        assert share == pytest.approx(promised)
        above += int(scores[0] > limit)
    assert above / draws == pytest.approx(promised, abs=4 * (promised / draws) ** 0.5)
