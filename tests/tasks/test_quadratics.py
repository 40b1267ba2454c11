import math

import pytest
import torch

from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.linear import Linear
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import draw_slice
from metalearn_cli.tasks.quadratics import Entries, Quadratics

CPU = torch.device("cpu")


@pytest.mark.parametrize("entries", Entries)
@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_the_squared_error_of_the_linear_model_is_f(entries: Entries, dimension: int) -> None:
    task = Quadratics(dimension=dimension, entries=entries)
    draw = task.draw(5, "test", generator(0))
    batch = task.gather(draw, CPU).to(torch.float64)
    theta = torch.randn(5, dimension, dtype=torch.float64, generator=generator(1))
    out, _ = Linear(task.spec)({"head.weight": theta[:, None]}, batch.query_x)
    for t in range(5):
        expected = (draw["w"][t].double() @ theta[t] - draw["y"][t, :, 0].double()).square().sum()
        torch.testing.assert_close(task_loss(task.spec, out, batch.query_y)[t], expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("entries", "anchor"), [(Entries.gaussian, 10.0), (Entries.uniform, 10 / 3)])
def test_f_of_0_is_10_or_3_33_on_average(entries: Entries, anchor: float) -> None:
    task = Quadratics(entries=entries)
    batch = task.gather(task.draw(20000, "train", generator(0)), CPU)
    at_zero = task_loss(task.spec, torch.zeros_like(batch.query_y), batch.query_y)
    assert abs(at_zero.mean() - anchor) < 4 * at_zero.std() / math.sqrt(20000)
    assert at_zero.std() / math.sqrt(20000) < 0.004 * anchor


def test_the_entries_of_w_are_of_their_distribution() -> None:
    for entries, mean, std in ((Entries.gaussian, 0.0, 1.0), (Entries.uniform, 0.5, 12**-0.5)):
        w = Quadratics(entries=entries).draw(2000, "train", generator(0))["w"]
        assert w.mean().item() == pytest.approx(mean, abs=0.01)
        assert w.std().item() == pytest.approx(std, abs=0.01)


def test_support_and_query_are_the_same_and_a_slice_is_a_slice() -> None:
    task = Quadratics(dimension=4)
    draw = task.draw(6, "val", generator(0))
    whole, part = task.gather(draw, CPU), task.gather(draw_slice(draw, 2, 5), CPU)
    assert torch.equal(whole.support_x, whole.query_x)
    assert torch.equal(whole.support_y, whole.query_y)
    whole_and_part = zip(whole.tensors().values(), part.tensors().values(), strict=True)
    assert all(torch.equal(a[2:5], b) for a, b in whole_and_part)
    assert whole.support_x.shape == (6, 4, 4)
    assert whole.support_y.shape == (6, 4, 1)


def test_a_dimension_below_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"task.dimension=0 must be a whole number, 1 or above"):
        Quadratics(dimension=0)
