"""tieredImageNet: its list, what is read, what is refused. No real data are here: the tests make small folders."""

import shutil
from pathlib import Path

import pytest
import torch
from cases import load
from PIL import Image
from problems import image_task

from metalearn_cli.datasets import packed_set as cache
from metalearn_cli.datasets.class_lists import ListedClass, by_split, numbered
from metalearn_cli.datasets.pictures import Resample, as_tensor
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import tiered_imagenet
from metalearn_cli.tasks.mini_imagenet import MiniImageNet
from metalearn_cli.tasks.tiered_imagenet import TieredImageNet

SMALL = [("n1", "train", "a"), ("n3", "train", "b"), ("n5", "train", "b"), ("n2", "val", "c"), ("n4", "test", "d")]
COUNTS = {"n1": 3, "n3": 2, "n5": 4, "n2": 2, "n4": 2}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of five classes with 2 to 4 images, the list of them, an empty cache."""
    root = tmp_path / "tiered"
    rng = torch.Generator().manual_seed(0)
    for name, split, _ in SMALL:
        (root / split / name).mkdir(parents=True)
        for i in range(COUNTS[name]):
            few = bytes(torch.randint(256, (75,), generator=rng, dtype=torch.uint8).tolist())
            image = Image.frombytes("RGB", (5, 5), few).resize((84, 84) if i else (120, 60))
            image.save(root / split / name / f"{name}_{i}.JPEG")
    monkeypatch.setattr(tiered_imagenet, "classes", lambda: tuple(ListedClass(*row) for row in SMALL))
    monkeypatch.setattr(tiered_imagenet, "IMAGES", {"train": 9, "val": 2, "test": 2})
    monkeypatch.setattr(tiered_imagenet, "FEWEST", 2)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return root


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(tiered_imagenet.source(str(root)))
    assert not list(root.parent.glob("cache/*")), "something was packed"
    return str(caught.value)


def test_the_list_has_the_papers_numbers() -> None:
    listed = tiered_imagenet.classes()
    assert len({one.name for one in listed}) == 608
    parts = by_split(tiered_imagenet.classes())
    assert {name: len(part) for name, part in parts.items()} == {"train": 351, "val": 97, "test": 160}
    assert torch.equal(torch.cat(list(parts.values())), torch.arange(608))
    categories = {split: {one.group for one in listed if one.split == split} for split in parts}
    assert {split: len(names) for split, names in categories.items()} == {"train": 20, "val": 6, "test": 8}
    assert len(set.union(*categories.values())) == 34
    assert torch.equal(numbered(listed.group for listed in tiered_imagenet.classes()).unique(), torch.arange(34))
    for split in parts:
        names = [one.name for one in listed if one.split == split]
        assert names == sorted(names)
    assert sum(tiered_imagenet.IMAGES.values()) == 779_165


def test_images_of_all_sizes_are_packed_in_the_order_of_the_list(small: Path) -> None:
    images = load(tiered_imagenet.source(str(small)))
    assert images.names == ("train/n1", "train/n3", "train/n5", "val/n2", "test/n4")
    assert images.count.tolist() == [3, 2, 4, 2, 2]
    for place, name in ((0, "train/n1/n1_0"), (3, "train/n3/n3_0"), (12, "test/n4/n4_1")):
        picture = Image.open(small / f"{name}.JPEG").convert("RGB")
        assert torch.equal(images.pixels[place], as_tensor(picture.resize((84, 84), Image.Resampling.LANCZOS)))
    assert load(tiered_imagenet.source(str(small), Resample.box)).fingerprint != images.fingerprint


def test_the_same_folder_is_not_packed_again_but_for_other_names(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(tiered_imagenet.source(str(small)))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_pack", None)
        moved = small.rename(small.parent / "moved")
        assert load(tiered_imagenet.source(str(moved))).fingerprint == before.fingerprint
    (moved / "val/n2/n2_0.JPEG").rename(moved / "val/n2/n2_9.JPEG")
    assert load(tiered_imagenet.source(str(moved))).fingerprint != before.fingerprint


@pytest.mark.row("C5")
def test_another_split_and_incomplete_data_are_refused(small: Path) -> None:
    shutil.move(small / "val/n2", small / "train/n2")
    assert refusal(small) == f"{small}/train holds n2, which is no class of tieredImageNet's train split"
    shutil.move(small / "train/n2", small / "n2")
    assert refusal(small) == f"{small}/val has no class n2 (1 of 1 are missing)"
    shutil.move(small / "n2", small / "val/n2")
    (small / "train/n5/n5_3.JPEG").unlink()
    assert refusal(small) == f"{small}/train holds 8 images instead of 9"
    (small / "test/n4/n4_1.JPEG").unlink()
    (small / "train/n5/n5_4.JPEG").write_bytes((small / "train/n5/n5_1.JPEG").read_bytes())
    assert refusal(small) == f"{small}/test/n4 holds 1 images, and every class has 2 or more"


@pytest.mark.row("C8")
def test_a_broken_image_is_named_and_hidden_files_are_not_counted(small: Path) -> None:
    for folder in (small / "train", small / "train/n1"):
        (folder / ".DS_Store").write_bytes(b"junk")
    path = small / "train/n1/n1_1.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    assert refusal(small).startswith(f"{path} is damaged (image file is truncated")


@pytest.mark.usefixtures("packed_images")
def test_each_split_draws_its_own_classes() -> None:
    task = image_task(TieredImageNet, way=20, query=1)
    for split in task.splits:
        drawn = task.draw(500, split, generator(split))["query_image"] // 4
        assert set(drawn.flatten().tolist()) == set(by_split(tiered_imagenet.classes())[split].tolist())


@pytest.mark.usefixtures("packed_images")
def test_classes_of_a_task_can_be_of_one_category() -> None:
    task = image_task(TieredImageNet, query=1, within_group=True)
    for split in task.splits:
        drawn = task.draw(500, split, generator(split))["support_image"] // 4
        category = numbered(listed.group for listed in tiered_imagenet.classes())[drawn]
        assert (category == category[:, :1]).all()
        assert set(drawn.flatten().tolist()) == set(by_split(tiered_imagenet.classes())[split].tolist())


def test_it_tests_on_classes_that_mini_imagenet_trains_on() -> None:
    assert "ImageNet's n02108089" in MiniImageNet().identities("train") & TieredImageNet().identities("test")
    assert not TieredImageNet().identities("train") & TieredImageNet().identities("test")


def test_impossible_request_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.way=161 is more than the 160 classes of the test split"):
        image_task(TieredImageNet, way=161)
    with pytest.raises(UserError, match=r"task\.shot=720 .* more than the 732 images of a class of the test split"):
        image_task(TieredImageNet, shot=720)
