"""The sinusoid families are those of their papers."""

import math

import pytest
import torch
from curve_draws import check_ranges, gathered
from problems import points_task

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import draw_sha256
from metalearn_cli.tasks.sinusoid import Sinusoid, SinusoidFrequency


@pytest.mark.parametrize(("turns", "end"), [(0.5, math.pi), (1.0, 2 * math.pi)])
def test_mamls_and_reptiles_family(turns: float, end: float) -> None:
    draw, batch = gathered(points_task(Sinusoid, train_shot=7, train_query=3, turns=turns))
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
    families = [Sinusoid(), Sinusoid(turns=1.0), points_task(Sinusoid, noise=0.1), SinusoidFrequency()]
    assert len({task.fingerprint for task in families}) == 4


def test_episodes_are_those_of_all_versions_before() -> None:
    """Hashes of 25 tasks each, from the commit before there was noise (4a03afb): runs of both can be compared."""
    expected = {
        Sinusoid(): "5b1122ea462d2cdd e072179594fc5806",
        Sinusoid(turns=1.0): "46d384eb9b721be7 3e5cbbfa5fb01be6",
        SinusoidFrequency(): "a6620fe85fd7a1f9 f21bada7b4fd0b3f",
    }
    for task, hashes in expected.items():
        draws = [task.draw(25, split, generator(0, split, 3)) for split in ("train", "test")]
        assert " ".join(draw_sha256([draw], task.fingerprint)[:16] for draw in draws) == hashes


def test_settings_out_of_range_are_refused() -> None:
    for make in (Sinusoid, SinusoidFrequency):
        with pytest.raises(UserError, match=r"task\.train_shot=0 must be a whole number, 1 or above"):
            points_task(make, train_shot=0)
    with pytest.raises(UserError, match=r"task\.turns=nan"):
        Sinusoid(turns=float("nan"))
