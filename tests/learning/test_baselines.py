"""What stands beside a test: predictors that learn nothing, on the very episodes of the test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from cases import image_set
from problems import image_task, points_task

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.learning.baselines import baselines, mean_target, nearest_prototype
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.linear import Linear
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.system.ranks import Ranks
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, Support, TaskDistribution, draw_slice
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations
from metalearn_cli.tasks.images import SetTask
from metalearn_cli.tasks.quadratics import Quadratics
from metalearn_cli.tasks.resized import ResizedImages
from metalearn_cli.tasks.sinusoid import Sinusoid
from metalearn_cli.tasks.sinusoid_or_line import SinusoidOrLine
from metalearn_cli.tasks.thumbnails import Thumbnails

CPU = torch.device("cpu")


def test_baselines_are_those_of_a_hand_computation() -> None:
    """The mean of each support set, and the curve itself, on the very episodes of the test."""
    task = points_task(SinusoidOrLine, shot=4, query=6, noise=0.5)
    errors = baselines(task, EpisodeRange("test", 70, 3), CPU)
    draws = [task.draw(64, "test", generator(3, "test", block)) for block in range(2)]
    expected: dict[str, list[float]] = {"constant": [], "oracle": []}
    for e in range(70):
        draw = draw_slice(draws[e // 64], e % 64, e % 64 + 1)
        one = task.gather(draw, CPU)
        support, query = one.support_y.flatten().tolist(), one.query_y.flatten().tolist()
        mean = sum(support) / 4
        truth = [y - noise for y, noise in zip(query, draw["query_noise"].flatten().tolist(), strict=True)]
        expected["constant"].append(sum((y - mean) ** 2 for y in query) / 6)
        expected["oracle"].append(sum((y - t) ** 2 for y, t in zip(query, truth, strict=True)) / 6)
    for name, values in expected.items():
        assert errors[name].tolist() == pytest.approx(values, rel=1e-5)
    assert errors["oracle"].mean().item() == pytest.approx(0.25, abs=0.05)  # the noise's variance


def test_the_truth_without_noise_has_no_error_and_quadratics_have_no_oracle() -> None:
    assert baselines(Sinusoid(), EpisodeRange("test", 70, 0), CPU)["oracle"].tolist() == [0.0] * 70
    assert set(baselines(Quadratics(), EpisodeRange("test", 3, 0), CPU)) == {"constant"}


def test_the_mean_of_a_support_set_is_that_of_its_real_points() -> None:
    y = torch.tensor([[[1.0], [3.0], [100.0]], [[1.0], [2.0], [6.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    support = Support(torch.zeros(2, 3, 1), y, torch.arange(2), mask)
    assert mean_target(support).flatten().tolist() == [2.0, 3.0]
    assert mean_target(support._replace(mask=None))[0].item() == pytest.approx(104 / 3)


@dataclass(frozen=True)
class Pictures(SetTask):
    """Episodes of all classes of this set."""

    episodes: Episodes
    made: ImageSet
    splits = ("train", "test")

    @property
    def images(self) -> ImageSet:
        return self.made

    @property
    def spec(self) -> Any:
        return self.episodes.spec(tuple(self.images.pixels.shape[1:]), len(self.images.names))

    def classes_of(self, split: Split) -> Classes:
        return Classes(self.images.start, self.images.count)


def blotches(size: int = 16, channels: int = 3) -> ImageSet:
    """Eight classes of six pictures, which are alike within a class but for noise."""
    rng = torch.Generator().manual_seed(0)
    middle = torch.randint(60, 196, (8, 1, channels, size, size), generator=rng)
    pixels = middle + torch.randint(-60, 61, (8, 6, channels, size, size), generator=rng)
    pixels[1::2] = pixels[::2] + torch.randint(-30, 31, pixels[::2].shape, generator=rng)  # two and two are alike
    return image_set(pixels.clamp(0, 255).byte().flatten(0, 1), *[6] * 8)


def light() -> ImageSet:
    """White noise of few steps, whose distances differ by as few."""
    return image_set(
        torch.randint(253, 256, (48, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte(), *[6] * 8
    )


@pytest.mark.parametrize(
    ("keys", "made"),
    [
        ({"way": 5, "shot": 2, "query": 3}, blotches),
        ({"way": 5, "shot": 2, "query": 3}, light),
        ({"way": 4, "shot": 1, "query": 2, "rotations": Rotations.per_episode}, blotches),
        ({"way": 8, "variable": True, "query": 3, "shot": 3}, blotches),
    ],
    ids=["plain", "light", "turned", "sizes that vary"],
)
def test_the_nearest_neighbour_is_that_of_a_loop_over_whole_numbers(
    keys: dict[str, Any], made: Callable[[], ImageSet]
) -> None:
    task = Pictures(Episodes(**keys), made())
    (name, scores), *others = baselines(task, EpisodeRange("test", 70, 3), CPU).items()
    assert (name, others) == ("nearest_pixels", [])
    expected = []
    for draw in draw_episodes(task, EpisodeRange("test", 70, 3)):
        batch = task.gather(draw, CPU)
        for t in range(len(batch.key)):
            one = batch.task(t)
            support, query = ((255 * x[0]).round().long().flatten(1).numpy() for x in (one.support_x, one.query_x))
            right = [
                one.support_y[0, int(np.argmin(((support - x) ** 2).sum(1)))] == y
                for x, y in zip(query, one.query_y[0], strict=True)
            ]
            expected.append(np.mean(right))
    assert scores.tolist() == pytest.approx(expected)
    assert 0.1 < scores.mean() < 0.95


def test_one_that_is_in_the_support_set_itself_is_found() -> None:
    """White and black pictures: sums of the largest products are exact."""
    pixels = torch.tensor([0, 255, 254]).byte().view(3, 1, 1, 1).expand(3, 3, 16, 16).repeat_interleave(2, 0)
    task = Pictures(Episodes(way=3, shot=1, query=1), image_set(pixels, 2, 2, 2))
    assert baselines(task, EpisodeRange("test", 64, 0), CPU)["nearest_pixels"].tolist() == [1.0] * 64


@pytest.mark.parametrize(("size", "every"), [(12, 1), (28, 1), (32, 1), (84, 2), (224, 7)])
def test_small_pictures_are_rounded_means(size: int, every: int) -> None:
    task = Pictures(Episodes(way=3, shot=1, query=2), blotches(size))
    draw = task.draw(2, "test", generator(0))
    before, small = task.gather(draw, CPU), Thumbnails(task.images.pixels).gather(draw, CPU)
    for name in ("support_x", "query_x"):
        x = 255 * getattr(before, name).flatten(0, 1)[..., ::every, ::every]
        mean = torch.nn.functional.adaptive_avg_pool2d(x, min(size, 16))
        assert (255 * getattr(small, name).flatten(0, 1) - mean).abs().max() <= 0.5 + 1e-4
    for name in ("support_y", "query_y", "key"):
        assert torch.equal(getattr(before, name), getattr(small, name))


@dataclass(frozen=True)
class Embedded(TaskDistribution):
    """The same with features in place of the pictures, as a frozen network has them."""

    task: Pictures
    splits = ("train", "test")
    fingerprint = "made"

    @property
    def spec(self) -> Spec:
        return self.task.spec._replace(input_shape=(7,))

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.task.draw(tasks, split, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        batch, mix = self.task.gather(draw, device), torch.randn(768, 7, generator=torch.Generator().manual_seed(0))
        middle = self.task.images.pixels.float().mean() / 255  # so that a cosine is as often below 0 as above
        support, query = ((x.flatten(2) - middle) @ mix for x in (batch.support_x, batch.query_x))
        return batch._replace(support_x=support, query_x=query)

    def thumbnails(self, draw: Draw, device: torch.device) -> Batch | None:
        return self.task.thumbnails(draw, device)


@pytest.mark.parametrize("made", [blotches, light])
@pytest.mark.parametrize(
    "keys", [{"way": 5, "shot": 2}, {"way": 8, "variable": True, "shot": 3}], ids=["plain", "vary"]
)
def test_frozen_prototypes_are_those_of_an_untrained_protonet(
    keys: dict[str, Any], made: Callable[[], ImageSet]
) -> None:
    pictures, episodes = Pictures(Episodes(**keys, query=3), made()), EpisodeRange("test", 24, 3)
    task = Embedded(pictures)
    scores = baselines(task, episodes, CPU)
    assert scores.keys() == {"nearest_pixels", "prototypes"}
    assert torch.equal(scores["nearest_pixels"], baselines(pictures, episodes, CPU)["nearest_pixels"])
    algorithm, net = ProtoNet(metric=Nearness.cosine), Linear(task.spec)
    learner = Learner(algorithm, net, Optimizer(), torch.Generator())
    trained = evaluate(learner, task, episodes, [BatchNorm.running]).scores[BatchNorm.running].metric[:, 0]
    assert scores["prototypes"].tolist() == pytest.approx(trained.tolist())


def test_a_class_that_a_task_lacks_is_never_the_nearest() -> None:
    """Its mean is zero, which is nearer than what points away from every class."""
    real, query = torch.ones(1, 2, dtype=torch.bool), -torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
    batch = Batch(torch.eye(2)[None], torch.tensor([[0, 1]]), query, torch.tensor([[1, 0]]), torch.tensor([0]))
    batch = batch._replace(support_mask=real, query_mask=real, way=torch.tensor([2]))
    assert nearest_prototype(3, batch).tolist() == [1.0]


@pytest.mark.usefixtures("packed_images")
def test_pictures_that_are_fitted_to_a_network_are_compared_as_they_were() -> None:
    source, episodes = image_task(CifarFS, query=2), EpisodeRange("test", 5, 0)
    scores = [baselines(task, episodes, CPU) for task in (source, ResizedImages(source, (1, 28, 28)))]
    assert scores[0]["nearest_pixels"].tolist() == scores[1]["nearest_pixels"].tolist()


@pytest.mark.parametrize("number", [1, 65])
def test_ranks_compute_their_shares_and_all_have_the_whole(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank after another: what each would send stands for the exchange. With one episode two have nothing to do."""
    task, episodes = Pictures(Episodes(way=5, shot=1, query=2), blotches()), EpisodeRange("test", number, 0)
    alone = baselines(task, episodes, CPU)["nearest_pixels"]
    sent: list[Any] = []
    for rank in range(3):
        monkeypatch.setattr(Ranks, "gather", lambda self, item: sent.append(item) or [item])
        baselines(task, episodes, CPU, Ranks(rank, 3, rank, 3))
    monkeypatch.setattr(Ranks, "gather", lambda self, item: sent)
    for rank in range(3):
        assert torch.equal(baselines(task, episodes, CPU, Ranks(rank, 3, rank, 3))["nearest_pixels"], alone)
    assert sum(len(scores) for item in sent for part in item for scores in part.values()) == number


@pytest.mark.parametrize(("tested", "compared"), [(20, 20), (70, 24), (600, 25)])
def test_beside_a_frozen_network_they_are_those_of_the_first_episodes(tested: int, compared: int) -> None:
    pictures = Pictures(Episodes(way=2, shot=1, query=1), blotches())
    scores = baselines(Embedded(pictures), EpisodeRange("test", tested, 3), CPU)
    assert {len(values) for values in scores.values()} == {compared}
    whole = baselines(pictures, EpisodeRange("test", tested, 3), CPU)["nearest_pixels"]
    assert torch.equal(scores["nearest_pixels"], whole[:compared])


@dataclass(frozen=True)
class Own(TaskDistribution):
    """A user's own class, whose pictures are in no set."""

    task: Pictures
    splits = ("train", "test")
    fingerprint = "mine"

    @property
    def spec(self) -> Spec:
        return self.task.spec

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.task.draw(tasks, split, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return self.task.gather(draw, device)


def test_pictures_of_a_users_own_class_are_averaged_and_compared_as_well() -> None:
    pictures, episodes = Pictures(Episodes(way=5, shot=2, query=3), blotches(32)), EpisodeRange("test", 20, 3)
    scores, of_set = (baselines(task, episodes, CPU) for task in (Own(pictures), pictures))
    alike = (scores["nearest_pixels"] == of_set["nearest_pixels"]).double().mean()
    assert alike > 0.9  # those of a set are rounded as whole numbers
