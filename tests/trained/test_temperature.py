"""The temperature of probabilities, against a search by SciPy and against outputs whose temperature is known."""

import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from metalearn_cli.trained.temperature import STRENGTH, temperature_of


def drawn(number: int, way: int, temperature: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs and labels that are drawn by a softmax of this temperature."""
    rng = torch.Generator().manual_seed(seed)
    out = torch.randn(number, way, generator=rng, dtype=torch.float64)
    return out, torch.multinomial((out / temperature).softmax(1), 1, generator=rng)[:, 0]


@pytest.mark.parametrize(
    ("number", "way", "true", "usual"), [(10, 2, 0.2, 0.5), (25, 5, 0.1, 0.03), (300, 3, 4.0, 1.0)]
)
def test_it_is_the_one_of_the_least_sum(number: int, way: int, true: float, usual: float) -> None:
    out, label = drawn(number, way, true)

    def total(log_sharp: float) -> float:
        ratio = usual * 2.718281828459045**log_sharp
        loss = F.cross_entropy(out * ratio / usual, label, reduction="sum")
        return float(loss) + STRENGTH * (ratio - torch.tensor(ratio).log().item())

    found = minimize_scalar(total, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x
    assert temperature_of(out, label, usual) == pytest.approx(2.718281828459045**-found, rel=1e-5)


def test_with_many_examples_it_is_the_one_of_maximum_likelihood() -> None:
    out, label = drawn(20_000, 4, 0.3)
    found = minimize_scalar(lambda t: float(F.cross_entropy(out / t, label)), bounds=(0.01, 10), method="bounded").x
    assert temperature_of(out, label, 1.0) == pytest.approx(found, rel=0.01)
    assert found == pytest.approx(0.3, rel=0.05)


def test_without_examples_it_is_the_usual_one_and_some_that_are_right_do_not_make_it_sure() -> None:
    assert temperature_of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 0.04) == pytest.approx(0.04)
    sure, label = torch.eye(5), torch.arange(5)
    assert 0.01 < temperature_of(sure, label, 0.05) < 0.05
    assert temperature_of(sure, label.flip(0), 0.05) > 0.05


def test_classes_that_a_task_lacks_change_nothing() -> None:
    out, label = drawn(50, 3, 0.5)
    absent = torch.full((50, 1), torch.finfo(torch.float32).min, dtype=torch.float64)
    assert temperature_of(torch.cat([out, absent], 1), label, 1.0) == pytest.approx(temperature_of(out, label, 1.0))
