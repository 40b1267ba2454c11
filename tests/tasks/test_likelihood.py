"""Losses and scores of likelihoods, beside torch's distributions and hand computations.

Shapes: T tasks, B examples, V values, W classes.
"""

import math

import pytest
import torch
from problems import DOUBLE, images, points_task
from torch import Tensor
from torch.autograd import gradcheck
from torch.distributions import Categorical as Classes
from torch.distributions import Independent, Normal

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.losses import task_scores
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.learning.baselines import baselines
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.scores import figures_beside, has_diverged
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.calibration import BINS, LEVELS, calibration, central
from metalearn_cli.tasks.likelihood import (
    EXACT,
    Bars,
    Categorical,
    Density,
    Gaussian,
    Likelihood,
    Link,
    OfValues,
    SquaredError,
    ValuesLikelihood,
)
from metalearn_cli.tasks.metrics import COVERAGES
from metalearn_cli.tasks.sinusoid import Sinusoid

GAUSSIAN_KEYS = ValuesLikelihood(OfValues.gaussian)
GAUSSIANS = [Gaussian(), Gaussian(0.05), Gaussian(0.0, Link.exp), Gaussian(0.3, Link.exp)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(tasks: int, examples: int, way: int) -> Tensor:
    return torch.randint(way, (tasks, examples), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("likelihood", GAUSSIANS)
def test_a_gaussian_is_torchs_normal_distribution(likelihood: Gaussian) -> None:
    out, y = drawn(3, 5, 4), drawn(3, 5, 2, seed=1)
    mean, raw = out[..., :2], out[..., 2:]
    positive = raw.exp() if likelihood.link is Link.exp else (1 + raw.exp()).log()
    deviation = likelihood.floor + (1 - likelihood.floor) * positive
    expected = Independent(Normal(mean, deviation), 1).log_prob(y)
    torch.testing.assert_close(likelihood.loss(out, y), -expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(likelihood.moments(out), (mean, deviation), rtol=1e-12, atol=0)
    scores = likelihood.scores(out, y)
    torch.testing.assert_close(scores["log_likelihood"], expected, rtol=1e-12, atol=0)
    assert torch.equal(scores["mse"], (mean - y).square().mean(-1))
    assert Spec((1,), 4, 4, likelihood).targets == 2


def test_scores_of_a_mixture_are_those_of_its_samples_and_of_its_density() -> None:
    """Of 3 components and 2 values, beside 400,000 samples; with equal components, what one normal distribution has."""
    likelihood, out, y = Gaussian(), drawn(1, 2, 3, 4), drawn(1, 2, 2, seed=1)
    means, deviations = likelihood.components(out)
    rng = torch.Generator().manual_seed(0)
    number, pairs = 400_000, torch.arange(2)[:, None]
    chosen = torch.randint(3, (2, number), generator=rng)
    normal = torch.randn(2, number, 2, generator=rng, dtype=torch.float64)
    samples = means[0][pairs, chosen] + deviations[0][pairs, chosen] * normal  # [B, N, V]
    mean, deviation = likelihood.moments(out)
    torch.testing.assert_close(mean[0], samples.mean(1), rtol=0, atol=0.02)
    torch.testing.assert_close(deviation[0], samples.std(1), rtol=0.01, atol=0)
    density = Independent(Normal(means, deviations), 1).log_prob(y.unsqueeze(2)).exp().mean(2)
    torch.testing.assert_close(likelihood.loss(out, y), -density.log(), rtol=1e-10, atol=0)
    scores, apart = likelihood.scores(out, y), (samples[:, ::2] - samples[:, 1::2]).abs().mean(1)
    crps = (samples - y[0].unsqueeze(1)).abs().mean(1) - 0.5 * apart
    torch.testing.assert_close(scores["crps"][0], crps.mean(-1), rtol=0.02, atol=0)
    below = (samples < y[0].unsqueeze(1)).double().mean(1)
    for share in COVERAGES:
        assert (
            scores[f"coverage_{share}"][0].tolist() == ((2 * below - 1).abs() <= share / 100).double().mean(1).tolist()
        )
    alone, alike = out[:, :, 0], out[:, :, :1].expand(-1, -1, 3, -1)
    for name, value in likelihood.scores(alone, y).items():
        torch.testing.assert_close(likelihood.scores(alike, y)[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("likelihood", GAUSSIANS)
def test_outputs_of_means_and_deviations_and_coverage_and_crps_of_a_normal_distribution(likelihood: Gaussian) -> None:
    out = drawn(200, 100, 2)
    torch.testing.assert_close(likelihood.outputs(*likelihood.moments(out)), out, rtol=1e-6, atol=1e-6)
    mean, deviation = likelihood.moments(out)
    y = mean + deviation * drawn(200, 100, 1, seed=3) / 2
    scores = likelihood.scores(out, y)
    for share in COVERAGES:
        assert scores[f"coverage_{share}"].mean().item() == pytest.approx(share / 100, abs=0.015)
    z = (y - mean) / deviation
    normal = Normal(torch.zeros((), dtype=y.dtype), 1)
    closed = deviation * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    torch.testing.assert_close(scores["crps"], closed[..., 0], rtol=1e-9, atol=1e-12)
    assert figures_beside({"mse": scores["mse"].mean(1)})["rmse"].mean == pytest.approx(
        (mean - y).square().mean() ** 0.5
    )


def test_classes_are_torchs_categorical_distribution() -> None:
    out, y = drawn(3, 7, 4), labels(3, 7, 4)
    expected = Classes(logits=out).log_prob(y)
    scores = Categorical().scores(out, y)
    torch.testing.assert_close(Categorical().loss(out, y), -expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(scores["log_likelihood"], expected, rtol=1e-12, atol=0)
    chances = out.softmax(-1)
    for t in range(3):
        for b in range(7):
            brier = sum((chances[t, b, c].item() - (y[t, b] == c).item()) ** 2 for c in range(4))
            assert scores["brier"][t, b].item() == pytest.approx(brier, rel=1e-12)


@pytest.mark.parametrize("bars", [Bars(3), Bars(8, 0.5), Bars(100)])
def test_bars_are_a_density_whose_integrals_are_what_they_say(bars: Bars) -> None:
    """Two values, each with its own bars: total, moments, and the probability of less than y, by a fine sum."""
    out, borders = drawn(1, 1, 2 * bars.bars), bars.edges(torch.zeros(1, dtype=torch.float64))[0]
    grid = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    width = grid[1] - grid[0]
    for value in range(2):
        alone = out.view(1, 1, 2, -1)[:, :, value]
        density = (-bars.loss(alone.expand(1, len(grid), -1), grid.view(1, -1, 1))).exp()[0]
        assert (density * width).sum().item() == pytest.approx(1, abs=1e-3)
        mean, deviation = (moment[0, 0, value].item() for moment in bars.moments(out))
        assert mean == pytest.approx((density * grid * width).sum().item(), abs=2e-3)
        assert deviation == pytest.approx((density * (grid - mean).square() * width).sum().item() ** 0.5, abs=5e-3)
        for y in (-2.7, borders[0].item() - 0.1, 0.03, borders[-1].item() + 0.2):
            below = bars.below(alone, torch.full((1, 1, 1), y)).item()
            assert below == pytest.approx((density * width)[grid < y].sum().item(), abs=1e-3)
    y = drawn(1, 1, 2, seed=1)
    apart = [bars.loss(out.view(1, 1, 2, -1)[:, :, value], y[..., value : value + 1]) for value in range(2)]
    torch.testing.assert_close(bars.loss(out, y), apart[0] + apart[1])


@pytest.mark.parametrize("likelihood", [*GAUSSIANS, Bars(3), Bars(8, 0.5), Bars(100)])
def test_quantiles_undo_the_probability_below_and_improvements_are_the_mean_beyond(likelihood: Density) -> None:
    """Both beside a fine sum of the density, for two values, on both sides of every border."""
    out = 0.5 * drawn(1, 1, 2 * likelihood.width)
    grid = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    for value in range(2):
        alone = out.view(1, 1, -1, 2)[..., value] if isinstance(likelihood, Gaussian) else out.chunk(2, -1)[value]
        mass = (-likelihood.loss(alone.expand(1, len(grid), -1), grid.view(1, -1, 1))).exp()[0] * (grid[1] - grid[0])
        for share in (1e-4, 0.05, 0.3, 0.5, 0.95, 0.9999):
            at = likelihood.quantile(out, torch.full((1, 1, 2), share, dtype=torch.float64))[0, 0, value].item()
            assert mass[grid < at].sum().item() == pytest.approx(share, abs=1e-3)
        for best in (-3.0, -0.4, 0.0, 0.7, 2.5):
            gain = likelihood.improvement(out, torch.full((1, 1, 1), best, dtype=torch.float64))[0, 0, value].item()
            assert gain == pytest.approx(((grid - best).clamp(min=0) * mass).sum().item(), abs=3e-3, rel=3e-3)


def test_the_calibration_error_of_values_is_that_of_a_hand_computation() -> None:
    """Four values, with probabilities of 0.02, 0.3, 0.31 and 1 below them: in the parts 1, 6, 7 and 20 of twenty."""
    below = torch.tensor([0.02, 0.3, 0.31, 1.0], dtype=torch.float64)
    pit = central(below.view(1, 4, 1))["pit"]
    assert pit.shape == (1, 4, LEVELS)
    assert pit[0].argmax(-1).tolist() == [0, 5, 6, 19]
    expected = sum(abs((below <= level / 20).double().mean().item() - level / 20) for level in range(1, 20)) / 19
    shown = figures_beside({"pit": pit.mean(1)})["calibration_error"]
    assert shown.mean == pytest.approx(expected)
    assert (shown.ci95, shown.median) == (None, None)
    halves = torch.cat([pit[:, :2].mean(1), pit[:, 2:].mean(1)])  # of two tasks, which each err more
    assert figures_beside({"pit": halves})["calibration_error"].mean == pytest.approx(expected)


def test_calibrated_values_have_little_error_and_deviations_of_half_the_size_as_much_as_they_boast() -> None:
    out = drawn(200, 100, 2)
    mean, deviation = EXACT.moments(out)
    y = mean + deviation * drawn(200, 100, 1, seed=3) / 2

    def error(likelihood: Gaussian, out: Tensor) -> float:
        value = figures_beside(task_scores(Spec((1,), 2, 2, likelihood), out, y))["calibration_error"].mean
        assert value is not None
        return value

    assert error(EXACT, out) < 0.005
    level = torch.arange(1, 20, dtype=torch.float64) / 20
    boasted = (torch.special.ndtr(0.5 * torch.special.ndtri(level)) - level).abs().mean().item()
    assert error(EXACT, out - torch.tensor([0.0, math.log(2)])) == pytest.approx(boasted, abs=0.005)


def test_equal_bars_are_the_histogram_of_a_normal_distribution() -> None:
    """Each has as many of its samples, and with many bars the density is the distribution's own."""
    bars, rng = Bars(40, 0.5), torch.Generator().manual_seed(0)
    y = 0.5 * torch.randn(100_000, 1, 1, generator=rng, dtype=torch.float64)
    borders = bars.edges(y)[0]
    counts = torch.searchsorted(borders, y.flatten()).bincount(minlength=40).double()
    assert (counts / 2500 - 1).abs().max() < 0.1
    out = torch.zeros(100_000, 1, 40, dtype=torch.float64)
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert bars.loss(out, y).mean().item() == pytest.approx(entropy, abs=0.02)
    scores = bars.scores(out, y)
    for share in COVERAGES:
        assert scores[f"coverage_{share}"].mean().item() == pytest.approx(share / 100, abs=0.01)


@pytest.mark.parametrize("likelihood", [Categorical(), SquaredError(), Bars(4), *GAUSSIANS])
def test_the_gradient_of_a_loss_is_its_slope(likelihood: Likelihood) -> None:
    out = drawn(2, 3, 4).requires_grad_()
    y = labels(2, 3, 4) if likelihood.kind == "classes" else drawn(2, 3, 4 // likelihood.width, seed=1)
    assert gradcheck(lambda out: likelihood.loss(out, y), out)


def test_masks_and_absent_classes_leave_padding_out_of_every_score() -> None:
    spec, out, y = Spec((2,), 4, 4, Categorical(), padded=True), drawn(2, 5, 4), labels(2, 5, 3)
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    out[0, 3:] = math.nan  # of no real example
    way = torch.tensor([3, 3])
    scores = task_scores(spec, out, y, mask, way)
    for t, real in enumerate((3, 5)):
        whole = task_scores(spec, out[t : t + 1, :real, :3], y[t : t + 1, :real])
        for name, value in whole.items():
            score = scores[name][t, :3] if name == "by_label" else scores[name][t]
            torch.testing.assert_close(score, value[0], rtol=1e-12, atol=1e-12)


def test_the_calibration_error_of_a_hand_computation() -> None:
    """Confidences of 0.9, 0.9, 0.6 and, on the border of the ninth bin, of 0.6 again; three in bins apart."""
    chances = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    y = torch.tensor([[0, 1, 0, 1]])
    sums = calibration(chances.log()[None], y, None)
    assert sums.shape == (1, 3, BINS)
    assert sums[0, 0, 13] == 2  # 13/15 < 0.9 <= 14/15
    assert sums[0, 0].sum() == 4
    assert sums[0, 2].tolist() == [0] * 8 + sums[0, 2, 8:10].tolist() + [0] * 3 + [1, 0]
    # |1.8 - 1| of the two at 0.9 and |1.2 - 2| of the two at 0.6, over four examples
    ece = figures_beside({"calibration": sums})["ece"]
    assert ece.mean == pytest.approx(1.6 / 4)
    assert (ece.ci95, ece.median) == (None, None)
    halves = torch.cat([calibration(chances.log()[None, part], y[:, part], None) for part in (slice(2), slice(2, 4))])
    assert figures_beside({"calibration": halves})["ece"].mean == pytest.approx(1.6 / 4)  # over all, not by episode


def test_calibrated_predictions_have_little_error_and_confident_ones_as_much_as_they_boast() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 1.5 * torch.randn(100, 400, 5, generator=rng, dtype=torch.float64)
    y = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1, generator=rng).view(100, 400)

    def error(out: Tensor) -> float:
        value = figures_beside({"calibration": calibration(out, y, None)})["ece"].mean
        assert value is not None
        return value

    assert error(logits) < 0.01
    accuracy = task_scores(Spec((1,), 5, 5, Categorical()), logits, y)["accuracy"].mean().item()
    assert error(1000 * logits) == pytest.approx(1 - accuracy, abs=0.005)


def test_a_learner_scores_its_last_step_by_every_metric() -> None:
    spec, batch = images()
    net = MLP(spec, hidden=(6,), batch_norm=True)
    learner = Learner(MAML(test_steps=2), net, Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    modes = [BatchNorm.transductive, BatchNorm.inductive]
    first, other = learner.evaluate(batch, modes).values()
    assert first.loss.shape == (3, 3)
    assert other.loss.shape == (3, 1)
    out = learner.adapt(batch.support)(batch.query_x, modes[0])
    torch.testing.assert_close(first.beside["log_likelihood"], -first.loss[:, -1])
    brier = (out.softmax(-1) - torch.eye(3)[batch.query_y]).square().sum(-1).mean(1)
    torch.testing.assert_close(first.beside["brier"], brier)
    torch.testing.assert_close(first.beside["calibration"][:, 2].sum(1), first.metric[:, -1] * batch.query_y.shape[1])


def test_a_log_likelihood_diverges_by_ten_below_that_before_and_a_nan_is_the_worst() -> None:
    losses = torch.tensor([[-2.0, 7.9, 8.1], [5.0, 15.1, math.nan]])
    assert has_diverged("log_likelihood", losses, losses[:, 0]).tolist() == [[False, False, True], [False, True, True]]
    values = torch.tensor([1.0, math.nan, -2.0])
    assert figures_beside({"log_likelihood": values})["log_likelihood"] == (None, None, -2.0)
    assert figures_beside({"brier": values})["brier"] == (None, None, 1.0)


def test_an_oracle_is_a_distribution_where_the_noise_is_known() -> None:
    """The log-likelihood of the curve with its noise is that of the noise, -1/2 - log d - log(2 pi) / 2 on average."""
    where = EpisodeRange("test", 300, 0), torch.device("cpu")
    noisy = baselines(points_task(Sinusoid, noise=0.3, values=GAUSSIAN_KEYS), *where)
    assert noisy.keys() == {"constant", "constant_mse", "oracle", "oracle_mse", "oracle_floored"}
    assert torch.equal(noisy["oracle"], noisy["oracle_floored"])  # whose floor is below the noise
    expected = -0.5 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    assert noisy["oracle"].mean().item() == pytest.approx(expected, abs=0.02)
    assert noisy["oracle_mse"].mean().item() == pytest.approx(0.09, abs=0.003)
    assert baselines(points_task(Sinusoid, values=GAUSSIAN_KEYS), *where).keys() == {
        "constant",
        "constant_mse",
        "oracle_mse",
    }
