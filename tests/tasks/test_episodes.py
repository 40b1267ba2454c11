"""Episodes: what every image task relies on."""

import pytest
import torch
from cases import image_set, p_value
from torch import Tensor

from metalearn_cli.datasets import image_set as base
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.augment import Augment
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.episodes import Classes, Episodes, Rotations
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.one_size import draw_classes, draw_images

CPU = torch.device("cpu")
TASKS, CLASSES, WAY, SHOT, QUERY = 100_000, 30, 5, 2, 3


@pytest.fixture(scope="module")
def choice() -> Tensor:
    return draw_classes(TASKS, WAY, CLASSES, generator("classes"))


@pytest.fixture(scope="module")
def draw(choice: Tensor) -> Draw:
    """Classes of 8 images; class 0 never turned, class 1 by one quarter, and so on."""
    return draw_images(choice * 8, torch.full_like(choice, 8), choice % 4, SHOT, QUERY, generator("episodes"))


def test_p_value() -> None:
    assert p_value(torch.tensor([10.0, 20, 30])) == pytest.approx(0.00674, abs=1e-5)  # exp(-5)


@pytest.mark.row("D4")
def test_no_class_is_twice_in_a_task(choice: Tensor) -> None:
    assert choice.sort().values.diff().min() > 0
    assert choice.min() == 0
    assert choice.max() == CLASSES - 1


@pytest.mark.row("D4")
def test_no_image_is_twice_in_a_task(draw: Draw) -> None:
    images = torch.cat([draw["support_image"], draw["query_image"]], dim=1)
    assert images.sort().values.diff().min() > 0


def test_each_label_stands_for_its_class_as_often_as_asked(draw: Draw, choice: Tensor) -> None:
    for name, each in (("support", SHOT), ("query", QUERY)):
        y = draw[f"{name}_y"]
        assert torch.equal(y.sort().values, torch.arange(WAY).repeat_interleave(each).expand(TASKS, -1))
        assert torch.equal(draw[f"{name}_image"] // 8, choice.gather(1, y))
        assert torch.equal(draw[f"{name}_turn"], choice.gather(1, y) % 4)


@pytest.mark.row("D5")
def test_each_class_is_as_likely_for_each_label(choice: Tensor) -> None:
    assert p_value(choice.flatten().bincount(), (CLASSES - WAY) / (CLASSES - 1)) > 0.001
    for label in range(WAY):
        assert p_value(choice[:, label].bincount()) > 0.001
    pairs = (choice[:, 0] * CLASSES + choice[:, 1]).bincount(minlength=CLASSES**2)
    assert p_value(pairs[pairs > 0]) > 0.001
    assert (pairs > 0).sum() == CLASSES * (CLASSES - 1)


@pytest.mark.parametrize("name", ["support", "query"])
@pytest.mark.row("D5")
def test_each_image_is_as_likely_at_each_place(draw: Draw, name: str) -> None:
    for place in range(draw[f"{name}_image"].shape[1]):
        assert p_value(draw[f"{name}_image"][:, place].bincount()) > 0.001
        assert p_value(draw[f"{name}_y"][:, place].bincount()) > 0.001


@pytest.mark.row("D4")
def test_order_of_the_support_says_nothing_about_the_query(draw: Draw) -> None:
    pairs = draw["support_y"][:, 0] * WAY + draw["query_y"][:, 0]
    assert p_value(pairs.bincount()) > 0.001


def test_keys_differ(draw: Draw) -> None:
    assert len(set(draw["key"].tolist())) == TASKS


def test_classes_of_different_sizes() -> None:
    count = torch.tensor([3, 5, 11])
    start = count.cumsum(0) - count
    choice = draw_classes(10_000, 3, 3, generator(0))
    draw = draw_images(start[choice], count[choice], None, 1, 2, generator(1))
    assert "support_turn" not in draw
    for name in ("support", "query"):
        of = choice.gather(1, draw[f"{name}_y"])
        within = draw[f"{name}_image"] - start[of]
        assert (within >= 0).all()
        assert (within < count[of]).all()
        for c in range(3):
            assert p_value(within[of == c].bincount()) > 0.001
    with pytest.raises(ValueError, match=r"2 \+ 2 images asked of a class that has 3"):
        draw_images(start[choice], count[choice], None, 2, 2, generator(1))


def test_turned_pixels_equal_rot90() -> None:
    pixels = torch.randint(256, (8, 3, 7, 7), generator=generator("pixels")).to(torch.uint8)
    image, turn = torch.arange(8).repeat(4).view(2, 16), torch.arange(4).repeat_interleave(8).view(2, 16)
    y = torch.zeros(2, 16, dtype=torch.int64)
    draw = {"support_image": image, "support_turn": turn, "support_y": y, "key": torch.arange(2)}
    draw |= {"query_image": image, "query_turn": 3 - turn, "query_y": y}
    batch = gather_episodes(draw, pixels)
    for x, turns in ((batch.support_x, turn), (batch.query_x, 3 - turn)):
        assert x.dtype == torch.float32
        assert x.shape == (2, 16, 3, 7, 7)
        for t in range(2):
            for s in range(16):
                expected = pixels[image[t, s]].rot90(int(turns[t, s]), (-2, -1))
                assert torch.equal((x[t, s] * 255).round().to(torch.uint8), expected)


def single_image(*more: str) -> Draw:
    names = [f"{part}_{what}" for part in ("support", "query") for what in ("image", "y", *more)]
    return {"key": torch.zeros(1), **dict.fromkeys(names, torch.zeros(1, 1, dtype=torch.int64))}


def test_pixels_run_from_0_to_1_without_turns() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 8, 32)
    x = gather_episodes(single_image(), pixels).query_x
    assert torch.allclose(x.flatten(), torch.arange(256) / 255, rtol=1e-6, atol=0)
    assert x.min() == 0
    assert x.max() == 1


def test_oblong_images_cannot_be_turned() -> None:
    with pytest.raises(ValueError, match="8 x 32 pixels cannot be turned"):
        gather_episodes(single_image("turn"), torch.zeros(1, 1, 8, 32, dtype=torch.uint8))


# Which classes are trained on

CLASSES_OF = {"train": torch.tensor([4, 0, 2]), "val": torch.tensor([1]), "test": torch.tensor([3, 5])}


def test_pooled_classes_leave_no_split_that_is_trained_on() -> None:
    def pooled(*train_splits: str) -> dict[str, list[int]]:
        pool = Episodes(train_splits=train_splits).pool(CLASSES_OF)
        return {split: classes.tolist() for split, classes in pool.items()}

    assert pooled("train") == {"train": [4, 0, 2], "val": [1], "test": [3, 5]}
    assert pooled("train", "val") == pooled("val", "train") == {"train": [4, 0, 2, 1], "test": [3, 5]}
    assert pooled("val") == {"train": [1], "test": [3, 5]}


@pytest.mark.parametrize(
    ("train_splits", "sentence"),
    [
        (("train", "test"), "task.train_splits=[train,test] holds test, which is not a split to train on here"),
        (("test",), "task.train_splits=[test] holds test"),
        (("train", "valid"), "task.train_splits=[train,valid] holds valid, which is not a split to train on here"),
        ((), "task.train_splits=[] must name at least one split"),
        (("train", "train"), "task.train_splits=[train,train] must name at least one split, and each once"),
    ],
)
@pytest.mark.row("C5")
def test_what_cannot_be_trained_on_is_a_sentence(train_splits: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Episodes(train_splits=train_splits).pool(CLASSES_OF)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith("choose from train, val")
    with pytest.raises(UserError, match=r"holds val, which .* choose from train$"):
        Episodes(train_splits=("train", "val")).pool({"train": CLASSES_OF["train"], "test": CLASSES_OF["test"]})


def test_images_that_do_not_fit_on_a_device_stay_on_the_host_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meta = torch.device("meta")
    monkeypatch.setattr(base, "_memory", lambda device: 100.0)
    draw = Episodes(way=2, shot=1, query=2).draw(
        3, "test", Classes(torch.tensor([0, 3]), torch.tensor([3, 3])), generator(0)
    )
    for side, stays in ((2, False), (4, True)):  # 24 bytes, and 96
        images = image_set(torch.zeros(6, 1, side, side, dtype=torch.uint8), 3, 3)
        for _ in range(2):
            assert images.on(meta).device.type == ("cpu" if stays else "meta")
            batch = gather_episodes(draw, images.on(meta), meta)
            assert {tensor.device for tensor in batch.tensors().values()} == {meta}
        said = capsys.readouterr().err
        assert said.count("stay in the host's memory") == (1 if stays else 0)
    assert gather_episodes(draw, images.on(CPU), CPU).support_x.device == CPU


@pytest.mark.parametrize("turns", [1, 4])
def test_all_training_classes_are_drawn_at_once_with_one_label_each(turns: int) -> None:
    images = image_set(torch.zeros(23, 1, 2, 2, dtype=torch.uint8), 3, 5, 11, 4)
    chosen = Classes(images.start, images.count).of(torch.tensor([3, 0]))
    episodes = Episodes(augment=(Augment.flip,), rotations=Rotations.train_as_classes if turns == 4 else Rotations.none)
    assert episodes.spec((1, 2, 2), 2).base == 2 * turns
    draw = episodes.draw_classes(3, 4000, chosen, generator(0))
    image, label = draw["query_image"], draw["query_y"]
    assert image.shape == label.shape == draw["query_flip"].shape == (3, 4000)
    assert torch.equal(image < 3, label // turns == 1)  # the second of the chosen classes is the set's first
    if turns == 4:
        assert torch.equal(draw["query_turn"], label % 4)
    assert p_value(image.flatten().bincount(minlength=23)[[0, 1, 2, 19, 20, 21, 22]]) > 0.001
    assert len(torch.unique(image[0])) == 7
    batch = gather_episodes(draw, images.on(CPU), CPU)
    assert batch.support_x.shape == (3, 0, 1, 2, 2)
    again = episodes.draw_classes(3, 4000, chosen, generator(0))
    assert all(torch.equal(draw[name], again[name]) for name in draw)


def test_images_are_drawn_from_the_chosen_classes_of_a_set() -> None:
    images = image_set(torch.zeros(23, 1, 1, 1, dtype=torch.uint8), 3, 5, 11, 4)
    chosen = Classes(images.start, images.count).of(torch.tensor([3, 0]))
    draw = Episodes(way=2, shot=1, query=2).draw(5000, "test", chosen, generator(0))
    drawn = torch.cat([draw["support_image"], draw["query_image"]], dim=1)
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 19, 20, 21, 22}
    classes = torch.tensor([0, 0, 0, *[1] * 5, *[2] * 11, *[3] * 4])
    of = {name: classes[draw[f"{name}_image"]] for name in ("support", "query")}
    for label in range(2):
        in_support = of["support"][draw["support_y"] == label]
        in_query = of["query"][draw["query_y"] == label].view(-1, 2)
        assert torch.equal(in_query, in_support[:, None].expand(-1, 2)), "a label stands for one class in both"
        assert p_value((in_support == 0).long().bincount()) > 0.001, "and for each class as often"
