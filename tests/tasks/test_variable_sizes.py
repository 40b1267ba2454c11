"""The sampler's promises for any sizes; episodes whose way and shots vary, of one group, with augmented images."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import p_value
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import image_task
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.augment import Augment, jittered, moved
from metalearn_cli.tasks.base import Draw, draw_sha256
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.omniglot import Omniglot

TASKS = 40


def classes_of(counts: list[int], groups: list[int] | None = None) -> Classes:
    count = torch.tensor(counts)
    return Classes(count.cumsum(0) - count, count, None if groups is None else torch.tensor(groups))


def class_of(image: Tensor, classes: Classes) -> Tensor:
    """The class of each image, by its place in the set."""
    ends = (classes.start + classes.count).contiguous()
    return torch.searchsorted(ends, image.contiguous(), right=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
@pytest.mark.row("D4")
def test_variable_episodes_keep_every_promise(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(2, 30), min_size=3, max_size=12))
    way = data.draw(st.integers(2, len(counts)))
    episodes = Episodes(
        way=way,
        shot=data.draw(st.integers(1, 12)),
        query=data.draw(st.integers(1, 8)),
        variable=True,
        min_way=data.draw(st.integers(2, way)),
        max_support=data.draw(st.integers(way, 60)),
        rotations=data.draw(st.sampled_from([Rotations.none, Rotations.per_episode])),
    )
    classes = classes_of(counts)
    episodes.check("test", classes)
    seed = data.draw(st.integers(0, 2**32))
    draw = episodes.draw(TASKS, "test", classes, generator(seed))
    assert draw["support_image"].shape[1] <= min(episodes.max_support, way * episodes.shot)
    assert draw["query_image"].shape[1] <= way * episodes.query
    for task in range(TASKS):
        check_task({name: value[task] for name, value in draw.items()}, episodes, classes)
    again = episodes.draw(TASKS, "test", classes, generator(seed))
    assert all(torch.equal(again[name], draw[name]) for name in draw)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
@pytest.mark.row("D4")
def test_episodes_of_one_size_are_disjoint_balanced_and_within_bounds(data: st.DataObject) -> None:
    shot, query = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    counts = data.draw(st.lists(st.integers(shot + query, 30), min_size=2, max_size=12))
    way = data.draw(st.integers(2, len(counts)))
    rotations = data.draw(st.sampled_from(Rotations))
    episodes, classes = Episodes(way=way, shot=shot, query=query, rotations=rotations), classes_of(counts)
    episodes.check("test", classes)
    draw = episodes.draw(TASKS, "test", classes, generator(data.draw(st.integers(0, 2**32))))
    turns_are_classes = rotations is Rotations.as_classes
    for task in range(TASKS):
        part = {name: value[task] for name, value in draw.items()}
        images = torch.cat([part["support_image"], part["query_image"]])
        labels = torch.cat([part["support_y"], part["query_y"]])
        of = class_of(images, classes)
        if turns_are_classes:
            of = 4 * of + torch.cat([part["support_turn"], part["query_turn"]])
            images = 4 * images + torch.cat([part["support_turn"], part["query_turn"]])
        assert len(images.unique()) == len(images) == way * (shot + query)
        assert len(torch.stack([of, labels]).unique(dim=1).T) == way == len(of.unique())
        assert part["support_y"].bincount(minlength=way).tolist() == [shot] * way
        assert part["query_y"].bincount(minlength=way).tolist() == [query] * way


def check_task(task: Draw, episodes: Episodes, classes: Classes) -> None:
    way = int(task["way"])
    assert episodes.min_way <= way <= episodes.way
    part = {name: task[f"{name}_mask"] for name in ("support", "query")}
    image = {name: task[f"{name}_image"][mask] for name, mask in part.items()}
    label = {name: task[f"{name}_y"][mask] for name, mask in part.items()}
    for name, mask in part.items():
        assert (task[f"{name}_y"][~mask] == 0).all(), "padding is of class 0, which every task has"
        assert torch.equal(mask.sort(descending=True).values, mask), "the real ones stand first"
    every = torch.cat(list(image.values()))
    assert len(every.unique()) == len(every), "no image twice, in support or query"
    of = torch.full((way,), -1)
    for name in part:
        for c, y in zip(class_of(image[name], classes).tolist(), label[name].tolist(), strict=True):
            assert of[y] in (-1, c), "a label stands for one class"
            of[y] = c
    assert (of >= 0).all(), "every label below way has a class"
    assert len(of.unique()) == way, "and each another one"
    shots, queries = (label[name].bincount(minlength=way) for name in part)
    assert shots.min() >= 1
    assert shots.sum() <= episodes.max_support
    assert (queries == queries[0]).all(), "as many queries of each class"
    assert queries[0] == min(episodes.query, int(classes.count[of].min()) // 2)


@pytest.mark.row("D5")
def test_ways_classes_and_support_sizes_are_uniform() -> None:
    classes = classes_of([2000] * 12)
    episodes = Episodes(way=8, shot=100, query=10, variable=True, min_way=3, max_support=10_000)
    parts = [episodes.draw(250, "test", classes, generator(block)) for block in range(12)]
    draw = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert p_value(draw["way"].bincount(minlength=9)[3:]) > 0.001
    first = class_of(draw["query_image"][:, 0], classes)
    assert p_value(first.bincount(minlength=12)) > 0.001
    # beta ~ U(0, 1]: of 100 images a class, less at most one a class by rounding down.
    share = draw["support_mask"].sum(1) / (100 * draw["way"])
    assert p_value((share * 10).floor().long().clamp(max=9).bincount(minlength=10)) > 0.001


def test_shots_follow_the_sizes_of_classes_within_a_factor_of_two() -> None:
    """exp(alpha) is from 1/2 to 2, so that two classes of one size differ by 4 at most, and on average not at all."""
    classes = classes_of([400, 400, 100])
    episodes = Episodes(way=3, shot=100, query=1, variable=True, min_way=3, max_support=300)
    draw = episodes.draw(3000, "test", classes, generator(0))
    of = class_of(draw["support_image"], classes).masked_fill(~draw["support_mask"], 3)
    shots = F.one_hot(of, 4).sum(1)[:, :3].double()
    large = shots[shots.sum(1) > 100]
    ratio = (large[:, 0] - 1) / (large[:, 1] - 1)
    assert 0.2 < ratio.min() < 0.35
    assert 2.9 < ratio.max() < 5
    assert abs(ratio.log().mean()) < 0.05
    assert (large[:, 2] / large[:, 0]).median() < 0.35


def test_training_and_test_have_sizes_of_their_own() -> None:
    classes = classes_of([30] * 10)
    episodes = Episodes(way=4, shot=3, query=2, train_way=9, train_shot=5, train_query=6, variable=True, min_way=2)
    train, test = (episodes.draw(500, split, classes, generator(0)) for split in ("train", "test"))
    assert (int(train["way"].max()), int(test["way"].max())) == (9, 4)
    assert (train["query_image"].shape[1], test["query_image"].shape[1]) == (54, 8)
    assert episodes.spec((1, 8, 8), 20) == ((1, 8, 8), 4, 9, Categorical(), True, True, 20, False, False)


def test_training_shots_are_drawn_for_each_task_and_those_of_a_test_are_not() -> None:
    classes = classes_of([30] * 10)
    episodes = Episodes(way=4, shot=2, query=2, train_way=5, train_shot=6, min_train_shot=3, min_way=2)
    spec = episodes.spec((1, 8, 8), 20)
    assert spec.padded
    assert spec.one_way
    train, test = (episodes.draw(2000, split, classes, generator(0)) for split in ("train", "test"))
    shots = F.one_hot(train["support_y"].masked_fill(~train["support_mask"], 5), 6).sum(1)[:, :5]
    assert (shots == shots[:, :1]).all()  # the classes of a task have the same
    assert shots.unique().tolist() == [3, 4, 5, 6]
    assert p_value(shots[:, 0].bincount()[3:]) > 0.001
    assert "support_mask" not in test
    whole = replace(episodes, min_train_shot=None).draw(2000, "train", classes, generator(0))
    assert torch.equal(train["support_image"], whole["support_image"])
    for fields in ({"train_shot": 2}, {"variable": True}):
        with pytest.raises(
            UserError, match=r"task\.min_train_shot=3 must be at most task\.train_shot=\d, and stands w"
        ):
            replace(episodes, **fields).check("train", classes)  # type: ignore[arg-type]
        replace(episodes, **fields).check("test", classes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"min_way": 1}, "task.min_way=1 must be at least 2, and at most task.way=4"),
        ({"min_way": 5}, "task.min_way=5 must be at least 2, and at most task.way=4"),
        ({"max_support": 3}, "task.max_support=3 must be at least task.way=4"),
        ({"way": 9}, "task.way=9 is more than the 5 classes of the test split"),
        (
            {"within_group": True},
            "task.within_group=true needs classes in groups, and those of this data set have none",
        ),
    ],
)
@pytest.mark.row("C4")
def test_impossible_sizes_are_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Episodes(**{"way": 4, "min_way": 2, "variable": True, **fields}).check("test", classes_of([3] * 5))
    assert str(caught.value) == sentence


@pytest.mark.row("C4")
def test_classes_too_small_or_in_small_groups_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"a class of the test split has 1 image, and needs two"):
        Episodes(way=2, min_way=2, variable=True).check("test", classes_of([3, 1, 5]))
    with pytest.raises(
        UserError, match=r"task.way=3 is more than the 2 classes of the largest group of the test split"
    ):
        Episodes(way=3, shot=1, query=1, within_group=True).check("test", classes_of([3] * 4, [0, 1, 1, 0]))


@pytest.mark.usefixtures("packed_omniglot")
def test_draws_are_those_of_the_first_release() -> None:
    """Old results name such hashes: changing them makes old and new runs incomparable."""
    hashes = [
        draw_sha256([image_task(Omniglot, **keys).draw(64, "train", generator(0, "train", 0))], "")[:16]
        for keys in (
            {"variable": True, "way": 10, "shot": 5, "query": 5, "max_support": 40},
            {"within_group": True, "way": 8},
            {"augment": tuple(Augment)},
        )
    ]
    assert hashes == ["8ade3e5da83d7454", "d8cbf2c0a36e3131", "1f7e25010b6edeb8"]


# Groups


def test_all_classes_of_a_task_are_of_one_group() -> None:
    groups = [0, 1, 0, 2, 1, 0, 1, 3, 0, 1, 2]  # of 4, 4, 2 and 1 classes
    classes = classes_of([5] * 11, groups)
    for rotations, way, expected in ((Rotations.none, 3, {0, 1}), (Rotations.as_classes, 8, {0, 1, 2})):
        episodes = Episodes(way=way, shot=1, query=2, within_group=True, rotations=rotations)
        episodes.check("test", classes)
        draw = episodes.draw(3000, "test", classes, generator(0))
        assert classes.group is not None
        of = classes.group[class_of(draw["query_image"], classes)]
        assert (of == of[:, :1]).all()
        drawn = of[:, 0].bincount(minlength=4)
        assert set(drawn.nonzero().flatten().tolist()) == expected
        assert p_value(drawn[sorted(expected)]) > 0.001, "each group as often, whatever its size"


def test_groups_bound_the_way_that_varies() -> None:
    classes = classes_of([9] * 8, [0, 0, 0, 0, 0, 1, 1, 1])
    episodes = Episodes(way=5, shot=2, query=2, within_group=True, variable=True, min_way=3)
    draw = episodes.draw(2000, "test", classes, generator(0))
    assert classes.group is not None
    of = classes.group[class_of(draw["support_image"], classes)].masked_fill(~draw["support_mask"], -1)
    small = of[:, 0] == 1
    assert set(draw["way"][small].tolist()) == {3}
    assert set(draw["way"][~small].tolist()) == {3, 4, 5}
    assert ((of == of[:, :1]) | ~draw["support_mask"]).all()


# Augmented images


def augmented(augment: tuple[Augment, ...], pixels: Tensor) -> tuple[Draw, Draw, Tensor, Tensor]:
    """One training draw without and with, and what comes of the two."""
    classes = Classes(torch.arange(3) * 4, torch.full((3,), 4))
    draws = [
        Episodes(way=2, shot=2, query=1, augment=given).draw(50, "train", classes, generator(0))
        for given in ((), augment)
    ]
    plain, changed = (gather_episodes(draw, pixels).support_x for draw in draws)
    return *draws, plain, changed


def pixels(height: int = 16, width: int = 24, channels: int = 3) -> Tensor:
    return torch.randint(256, (12, channels, height, width), generator=generator("pixels"), dtype=torch.uint8)


def test_which_images_are_drawn_does_not_depend_on_what_is_done_to_them() -> None:
    plain, changed, _, _ = augmented(tuple(Augment), pixels())
    assert all(torch.equal(plain[name], changed[name]) for name in plain)
    assert changed.keys() - plain.keys() == {
        f"{part}_{what}" for part in ("support", "query") for what in ("shift", "flip", "jitter")
    }
    classes = Classes(torch.arange(3) * 4, torch.full((3,), 4))
    for split in ("val", "test"):
        draw = Episodes(way=2, query=1, augment=tuple(Augment)).draw(5, split, classes, generator(0))
        assert not any(name.endswith(("shift", "flip", "jitter")) for name in draw)


def test_crops_are_those_of_the_mirrored_image() -> None:
    _, _, plain, cropped = augmented((Augment.crop,), pixels())
    tall, wide = 16 // 8, 24 // 8
    seen = set()
    for task in range(50):
        for i in range(plain.shape[1]):
            big = F.pad(plain[task, i], (wide, wide, tall, tall), mode="reflect")
            fits = [
                (top, left)
                for top in range(2 * tall + 1)
                for left in range(2 * wide + 1)
                if torch.equal(big[:, top : top + 16, left : left + 24], cropped[task, i])
            ]
            assert len(fits) == 1
            seen |= set(fits)
    assert len(seen) == (2 * tall + 1) * (2 * wide + 1), "every shift comes up"


def test_half_of_the_images_are_flipped() -> None:
    _, draw, plain, flipped = augmented((Augment.flip,), pixels())
    of = draw["support_flip"]
    assert 0.3 < of.float().mean() < 0.7
    assert torch.equal(flipped, torch.where(of[..., None, None, None], plain.flip(-1), plain))


def test_a_crop_is_flipped_after_it_was_cut() -> None:
    shift, flip = torch.tensor([[[2**24 - 1, 0]]]), torch.tensor([[True]])
    place = moved(8, 8, shift, flip).view(8, 8)
    # One down, one to the left; mirrored at the edge.
    rows, columns = [1, 2, 3, 4, 5, 6, 7, 6], [1, 0, 1, 2, 3, 4, 5, 6]
    expected = torch.arange(64).view(8, 8)[rows][:, columns]
    assert torch.equal(place, expected.flip(-1))


def test_jitter_changes_brightness_contrast_and_saturation() -> None:
    x = torch.rand(1, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True)

    def with_factors(*factors: float) -> Tensor:
        return jittered(x.clone(), torch.tensor([[factors]]))

    torch.testing.assert_close(with_factors(1, 1, 1), x)
    torch.testing.assert_close(with_factors(0.6, 1, 1), 0.6 * x)
    mean = grey.mean((-1, -2), keepdim=True)
    torch.testing.assert_close(with_factors(1, 0.7, 1), mean + 0.7 * (x - mean))
    torch.testing.assert_close(with_factors(1, 1, 0.8), grey + 0.8 * (x - grey))
    grey_jittered = jittered(x[:, :, :1].clone(), torch.tensor([[[1.0, 1.0, 0.6]]]))
    torch.testing.assert_close(grey_jittered, x[:, :, :1])  # a grey image has no saturation
    _, draw, _, changed = augmented((Augment.jitter,), pixels())
    factors = draw["support_jitter"]
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4
    assert 0 <= changed.min() <= changed.max() <= 1
