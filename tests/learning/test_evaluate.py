import math

import pytest
import torch
from problems import points_task
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.learning.draws import EpisodeRange, draw_block
from metalearn_cli.learning.evaluate import Evaluation, evaluate
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.scores import has_diverged, is_better, summarise
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import TaskDistribution
from metalearn_cli.tasks.sinusoid import Sinusoid

MODE = BatchNorm.transductive


def run(episodes: int, chunk: int | None = None, seed: int = 0, episodes_seed: int = 0) -> Evaluation:
    task = Sinusoid()
    learner = small_learner(task, chunk, seed)
    return evaluate(learner, task, EpisodeRange("test", episodes, episodes_seed), [MODE])


def small_learner(task: TaskDistribution, chunk: int | None = None, seed: int = 0) -> Learner:
    rng = torch.Generator().manual_seed(seed)
    return Learner(MAML(test_steps=2), MLP(task.spec), Optimizer(), rng, Execution(tasks_per_chunk=chunk))


def test_the_first_episodes_are_the_same_however_many_and_in_whatever_chunks() -> None:
    long, short, cut = run(150), run(70), run(70, chunk=9)
    torch.testing.assert_close(long.scores[MODE].metric[:70], short.scores[MODE].metric)
    torch.testing.assert_close(cut.scores[MODE].metric, short.scores[MODE].metric)
    assert short.scores[MODE].metric.shape == (70, 3)
    assert short.episodes_sha256 == cut.episodes_sha256 != long.episodes_sha256


def test_no_episode_comes_twice() -> None:
    assert len(run(200).scores[MODE].loss[:, 0].unique()) == 200


def test_episodes_depend_on_their_own_seed_and_not_on_trainings() -> None:
    assert run(10).episodes_sha256 == run(10, seed=1).episodes_sha256
    assert run(10).episodes_sha256 != run(10, episodes_seed=1).episodes_sha256


def test_the_episodes_of_a_test_are_others_than_those_of_a_validation() -> None:
    validation, test = draw_block(Sinusoid(), "val", 0, 0), draw_block(Sinusoid(), "test", 0, 0)
    assert not torch.isin(validation["phase"], test["phase"]).any()


@pytest.mark.row("D6")
def test_the_interval_covers_the_truth_in_95_of_100_tests() -> None:
    """1,000 simulated tests of 600 episodes of 75 queries, true accuracy 0.6 with a spread between episodes."""
    rng = torch.Generator().manual_seed(0)
    ability = (0.6 + 0.1 * torch.randn(1000, 600, generator=rng)).clamp(0, 1)
    accuracy = torch.binomial(torch.full_like(ability, 75.0), ability, generator=rng) / 75
    covered = 0
    for test in accuracy:
        summary = summarise(test, torch.zeros(600))
        assert summary.mean is not None
        assert summary.ci95 is not None
        covered += abs(summary.mean - 0.6) <= summary.ci95
    assert 935 <= covered <= 965


def test_figures_are_those_of_the_definition() -> None:
    summary = summarise(torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([False, False, False, True]))
    assert summary.mean == 4.0
    assert summary.median == 2.5
    assert summary.diverged == 0.25
    assert summary.ci95 == 1.96 * math.sqrt((9 + 4 + 1 + 36) / 4) / 2


def test_diverged_episodes_stay_in_the_mean_and_are_counted() -> None:
    summary = summarise(torch.tensor([1.0, float("inf"), 2.0]), torch.tensor([False, True, False]))
    assert summary == (None, None, 2.0, 1 / 3)
    nan = float("nan")
    values = torch.tensor([[1.0, 10.5], [3.0, 9.0], [3.0, nan]])
    assert has_diverged("mse", values, values[:, 0]).tolist() == [[False, True], [False, False], [False, True]]
    classes = torch.tensor([[1.0, 10.5], [3.0, 29.0]])
    assert has_diverged("accuracy", classes, classes[:, 0]).tolist() == [[False, True], [False, False]]


def test_better_is_higher_for_accuracy_and_lower_for_errors() -> None:
    assert is_better("accuracy", 0.9, 0.8)
    assert is_better("mse", 0.8, 0.9)
    assert not is_better("mse", 0.9, 0.9)
    assert is_better("mse", 0.9, None)
    assert not is_better("accuracy", None, 0.1)


def test_sinusoids_are_what_the_paper_says() -> None:
    task = points_task(Sinusoid, shot=7, query=9, train_query=3)
    draw = task.draw(5000, "train", torch.Generator().manual_seed(0))
    batch = task.gather(draw, torch.device("cpu"))
    assert batch.support_x.shape == (5000, 7, 1)
    assert batch.query_x.shape == (5000, 3, 1)
    assert task.draw(1, "test", torch.Generator())["query_x"].shape == (1, 9, 1)

    def spread(values: Tensor, low: float, high: float) -> None:
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)

    spread(draw["amplitude"], 0.1, 5.0)
    spread(draw["phase"], 0.0, math.pi)
    spread(batch.support_x, -5.0, 5.0)
    torch.testing.assert_close(batch.query_y, draw["amplitude"] * torch.sin(batch.query_x - draw["phase"]))
    assert len(batch.key.unique()) == 5000
