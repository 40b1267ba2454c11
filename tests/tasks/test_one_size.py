"""Episodes with queries of unequal classes, and with unlabelled images."""

from typing import Any

import pytest
import torch
from cases import p_value

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.augment import Augment
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations
from metalearn_cli.tasks.gather import gather_episodes

CLASSES = Classes(torch.arange(9) * 20, torch.full((9,), 20))
SIZES: dict[str, Any] = {"way": 3, "shot": 2, "query": 4}


def drawn(split: str = "test", tasks: int = 50, **keys: Any) -> Draw:
    return Episodes(**SIZES, **keys).draw(tasks, split, CLASSES, generator("uneven"))  # type: ignore[arg-type]


def test_unequal_queries_have_shares_from_a_dirichlet_distribution() -> None:
    classes = Classes(torch.arange(6) * 40, torch.full((6,), 40))
    episodes, tasks = Episodes(way=3, shot=2, query=12, query_balance=2), 8_000
    draw = episodes.draw(tasks, "test", classes, generator("balance"))
    assert draw["query_y"].shape == (tasks, 36)
    number = torch.nn.functional.one_hot(draw["query_y"], 3).sum(1)  # [T, way]
    share = number / 36
    # Dirichlet(2, 2, 2): each share has the mean 1 / 3 and the variance (1 / 3) (2 / 3) / 7, and is below 1 / 6 with
    # the probability of Beta(2, 4), 1 - (5 / 6)^5 - 5 (1 / 6) (5 / 6)^4.
    torch.testing.assert_close(share.mean(0), torch.full((3,), 1 / 3), rtol=0.02, atol=0)
    torch.testing.assert_close(share.var(0), torch.full((3,), 2 / 63), rtol=0.05, atol=0)
    below = 1 - (5 / 6) ** 5 - 5 / 6 * (5 / 6) ** 4
    assert (number < 6).double().mean() + (number == 6).double().mean() / 2 == pytest.approx(below, abs=0.01)
    images = torch.cat([draw["support_image"], draw["query_image"]], 1)
    assert images.sort().values.diff().min() > 0
    of_support = draw["support_image"][0, draw["support_y"][0] == 1] // 40  # the class of label 1 in the first task
    assert (draw["query_image"][0, draw["query_y"][0] == 1] // 40 == of_support[0]).all()
    first = draw["query_y"][:, 0]
    assert p_value(first.bincount()) > 0.001  # queries are in random order
    # Training tasks, and those without the key, are as they were.
    for key, split in ((2, "train"), (None, "test")):
        kept = Episodes(way=3, shot=2, query=12, query_balance=key).draw(9, split, classes, generator("balance"))  # type: ignore[arg-type]
        plain = Episodes(way=3, shot=2, query=12).draw(9, "test", classes, generator("balance"))
        assert all(torch.equal(value, kept[name]) for name, value in plain.items())


def test_unequal_queries_need_classes_that_could_give_all_of_them() -> None:
    classes, episodes = Classes(torch.arange(6) * 30, torch.full((6,), 30)), Episodes(way=3, query=10, query_balance=2)
    episodes.check("train", classes)
    more = (
        r"and task.query=10 and task.query_balance=2 \(a class may have all queries\) together are more than the 30 im"
    )
    with pytest.raises(UserError, match=more):
        episodes.check("test", classes)
    (problem,) = episodes.too_small("test", [(30, "a"), (31, "b")], "images")
    assert "task.query_balance=2 (a class may have all queries) asks for 31: give more images (1 of 2" in problem


def test_unlabelled_images_are_others_of_the_tasks_classes_and_of_distractors() -> None:
    draw = drawn(unlabelled=5, distractors=2)
    images = torch.cat([draw[f"{name}_image"] for name in ("support", "query", "unlabelled")], 1)
    assert images.shape == (50, 3 * 2 + 3 * 4 + 5 * 5)
    assert images.sort().values.diff().min() > 0
    for task in range(50):
        of = {name: draw[f"{name}_image"][task] // 20 for name in ("support", "query", "unlabelled")}
        classes = {
            int(label): int(number) for label, number in zip(draw["support_y"][task], of["support"], strict=True)
        }
        for name, most in (("support", 2), ("query", 4), ("unlabelled", 5)):
            y = draw[f"{name}_y"][task]
            assert (y.bincount() == most).all()
            known = y < 3
            assert of[name][known].tolist() == [classes[label] for label in y[known].tolist()]
            assert not {*of[name][~known].tolist()} & {*classes.values()}  # distractors are other classes
    assert draw["unlabelled_y"].max() == 4
    assert p_value(draw["unlabelled_y"][:, 0].bincount()) > 0.001  # in random order


def test_training_may_have_another_number_of_them_and_their_images_are_changed_too() -> None:
    draw = drawn("train", unlabelled=5, train_unlabelled=2, rotations=Rotations.as_classes, augment=(Augment.flip,))
    assert draw["unlabelled_image"].shape == draw["unlabelled_flip"].shape == draw["unlabelled_turn"].shape == (50, 6)
    assert "unlabelled_image" not in drawn("train", unlabelled=5, train_unlabelled=0, distractors=2)
    pixels = torch.randint(256, (180, 1, 4, 4), generator=generator("pixels")).to(torch.uint8)
    batch = gather_episodes(draw, pixels)
    assert batch.unlabelled_x is not None
    first = pixels[draw["unlabelled_image"][0, 0], 0].rot90(int(draw["unlabelled_turn"][0, 0])) / 255
    assert torch.allclose(batch.unlabelled_x[0, 0, 0], first.flip(1) if draw["unlabelled_flip"][0, 0] else first)
    assert [len(part.unlabelled_x) for part in batch.chunks(20) if part.unlabelled_x is not None] == [20, 20, 10]
    unlabelled = batch.task(3).support.unlabelled
    assert unlabelled is not None
    assert torch.equal(unlabelled[0], batch.unlabelled_x[3])


def test_with_unequal_queries_both_hold() -> None:
    draw = drawn(query_balance=1, unlabelled=3)
    assert draw["query_y"].shape == (50, 12)
    assert (draw["unlabelled_y"].sort().values == torch.arange(3).repeat_interleave(3)).all()
    assert torch.cat([draw["query_image"], draw["unlabelled_image"]], 1).sort().values.diff().min() > 0


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"query_balance": 2, "variable": True},
            "task.query_balance=2 is for tasks of one size: give task.variable=false",
        ),
        ({"unlabelled": 5, "variable": True}, "task.unlabelled=5 is for tasks of one size"),
        ({"distractors": 2}, "task.distractors=2 are classes with unlabelled images only, .* give task.unlabelled=5"),
        (
            {"unlabelled": 1, "distractors": 2, "within_group": True},
            "distractors=2 are of any group, and task.within_gr",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Episodes(**keys)


def test_too_few_classes_or_images_for_them_are_a_sentence() -> None:
    with pytest.raises(UserError, match=r"task.way=3 with task.distractors=7 is more than the 9 classes of the test"):
        Episodes(**SIZES, unlabelled=1, distractors=7).check("test", CLASSES)
    with pytest.raises(UserError, match=r"and task.query=4 and 15 unlabelled together are more than the 20 images"):
        Episodes(**SIZES, unlabelled=15).check("test", CLASSES)
    assert Episodes(way=5, unlabelled=1, distractors=5).least_classes == {"train": 10, "val": 10, "test": 10}
