"""The sinusoid families are those of their papers."""

import math

import pytest
import torch

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, TaskDistribution
from metalearn_cli.tasks.sinusoid import Sinusoid, SinusoidFrequency


def gathered(task: TaskDistribution, tasks: int = 2000) -> tuple[dict[str, torch.Tensor], Batch]:
    draw = task.draw(tasks, "train", generator(0, "train", 0))
    return draw, task.gather(draw, torch.device("cpu"))


def check_ranges(*uniform: tuple[torch.Tensor, float, float]) -> None:
    for values, low, high in uniform:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.parametrize(("turns", "end"), [(0.5, math.pi), (1.0, 2 * math.pi)])
def test_mamls_and_reptiles_family(turns: float, end: float) -> None:
    draw, batch = gathered(Sinusoid(train_shot=7, train_query=3, turns=turns))
    expected = draw["amplitude"] * torch.sin(batch.support_x - draw["phase"])
    assert torch.equal(batch.support_y, expected)
    assert torch.equal(batch.query_y, draw["amplitude"] * torch.sin(batch.query_x - draw["phase"]))
    assert batch.support_x.shape == (2000, 7, 1)
    assert batch.query_x.shape == (2000, 3, 1)
    check_ranges((draw["amplitude"], 0.1, 5), (draw["phase"], 0, end), (batch.support_x, -5, 5))


def test_meta_sgds_family() -> None:
    draw, batch = gathered(SinusoidFrequency())
    curve = draw["amplitude"] * torch.sin(draw["frequency"] * batch.support_x + draw["phase"])
    assert torch.equal(batch.support_y, curve)
    assert torch.equal(batch.query_y, draw["amplitude"] * torch.sin(draw["frequency"] * batch.query_x + draw["phase"]))
    check_ranges((draw["amplitude"], 0.1, 5), (draw["phase"], 0, math.pi), (draw["frequency"], 0.8, 1.2))
    check_ranges((batch.support_x, -5, 5), (batch.query_x, -5, 5))


def test_the_families_and_their_ranges_have_fingerprints_of_their_own() -> None:
    families = [Sinusoid(), Sinusoid(turns=1.0), SinusoidFrequency()]
    assert len({task.fingerprint for task in families}) == 3


def test_settings_out_of_range_are_refused() -> None:
    for make in (Sinusoid, SinusoidFrequency):
        with pytest.raises(UserError, match=r"task\.train_shot=0 must be at least 1"):
            make(train_shot=0)
    with pytest.raises(UserError, match=r"task\.turns=nan"):
        Sinusoid(turns=float("nan"))
