"""How the classes of a test are told that a network's training set names, and how the others."""

from typing import Any

import numpy as np
import pytest
import torch
from problems import image_task

from metalearn_cli.datasets.image_set import read_list
from metalearn_cli.datasets.imagenet import is_in_imagenet
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.learning.leakage import in_words, leakage, named_labels, told
from metalearn_cli.tasks.base import draw_slice
from metalearn_cli.tasks.calibration import by_label
from metalearn_cli.tasks.cifar_fs import CifarFS

EPISODES = EpisodeRange("test", 70, 0)


@pytest.mark.usefixtures("packed_images")
@pytest.mark.parametrize("keys", [{}, {"variable": True, "way": 7, "shot": 3}], ids=["plain", "sizes that vary"])
def test_the_labels_of_an_episode_are_those_of_its_classes(keys: dict[str, Any]) -> None:
    task = image_task(CifarFS, query=2, **keys)
    named, row = named_labels(task, list(draw_episodes(task, EPISODES))), 0
    for draw in draw_episodes(task, EPISODES):
        for number in range(len(draw["key"])):
            names = task.label_names(draw_slice(draw, number, number + 1))
            assert named[row, : len(names)].tolist() == [is_in_imagenet(name) for name in names]
            row += 1
    assert row == len(named) == 70
    assert named.any()
    assert not named.all()


def test_queries_are_counted_by_their_label() -> None:
    rng = torch.Generator().manual_seed(0)
    out, y = torch.randn(3, 20, 4, generator=rng), torch.randint(3, (3, 20), generator=rng)
    mask = torch.rand(3, 20, generator=rng) < 0.7
    for real in (None, mask):
        counted = by_label(out, y, real)
        for t in range(3):
            for label in range(4):
                chosen = (y[t] == label) & (mask[t] if real is not None else True)
                right = chosen & (out[t].argmax(-1) == label)
                assert counted[t, label].tolist() == [chosen.sum(), right.sum()]


def test_the_share_of_the_right_ones_and_its_interval() -> None:
    """The interval covers the truth in 95 of 100 tests whose episodes have different numbers of named classes."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        chosen = rng.random((300, 5)) < 0.6
        ability = np.clip(0.6 + 0.1 * rng.normal(size=(300, 1)) + 0 * chosen, 0, 1)
        counts = np.stack([np.full((300, 5), 15), rng.binomial(15, ability)], -1).astype(np.int16)
        queries, share, half = told(torch.from_numpy(counts), torch.from_numpy(chosen))
        assert queries == 15 * chosen.sum()
        assert share is not None
        assert half is not None
        assert share == pytest.approx(counts[chosen][:, 1].sum() / queries)
        covered += abs(share - 0.6) <= half
    assert 925 <= covered <= 970
    assert told(torch.from_numpy(counts), torch.zeros(300, 5, dtype=torch.bool)) == (0, None, None)


@pytest.mark.usefixtures("packed_images")
def test_the_sentence_names_the_classes_of_each_kind() -> None:
    task = image_task(CifarFS, query=2)
    named = named_labels(task, list(draw_episodes(task, EPISODES)))
    counts = torch.stack([torch.full((70, 5), 2), torch.where(named, 2, 1)], -1).short()
    found = leakage(task, counts, named)
    both = [*found.named.classes, *found.others.classes]
    assert sorted(both) == sorted(listed.name for listed in read_list("cifar_fs") if listed.split == "test")
    assert (found.named.accuracy, found.others.accuracy) == (1.0, 0.5)
    assert found.named.queries + found.others.queries == 700
    words = in_words(found)
    assert (
        "ImageNet-1k, on which the network was trained, names 13 of the 20 test classes: accuracy in % 100.00" in words
    )
    assert f"50.00 +- 0.00 on the others ({found.others.queries:,} queries: baby, man, plain, " in words
