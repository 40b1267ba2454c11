"""tieredImageNet: its list, what is read, what is refused. No real data are here: the tests make small folders."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import load, picture
from cases import refusal as refusal_of
from PIL import Image

from metalearn_cli.datasets import packed_set as cache
from metalearn_cli.datasets.image_set import ListedClass, by_split, numbered
from metalearn_cli.datasets.pictures import Resample, as_tensor
from metalearn_cli.tasks import tiered_imagenet
from metalearn_cli.tasks.mini_imagenet import MiniImageNet
from metalearn_cli.tasks.tiered_imagenet import TieredImageNet

SMALL = [("n1", "train", "a"), ("n3", "train", "b"), ("n5", "train", "b"), ("n2", "val", "c"), ("n4", "test", "d")]
COUNTS = {"n1": 3, "n3": 2, "n5": 4, "n2": 2, "n4": 2}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """A folder of five classes with 2 to 4 images, the list of them, an empty cache."""
    root = tmp_path / "tiered"
    for name, split, _ in SMALL:
        (root / split / name).mkdir(parents=True)
        for i in range(COUNTS[name]):
            image = picture(10 * int(name[1]) + i, (84, 84) if i else (120, 60))
            image.save(root / split / name / f"{name}_{i}.JPEG")
    monkeypatch.setattr(tiered_imagenet, "classes", lambda: tuple(ListedClass(*row) for row in SMALL))
    monkeypatch.setattr(tiered_imagenet, "IMAGES", {"train": 9, "val": 2, "test": 2})
    monkeypatch.setattr(TieredImageNet, "about", TieredImageNet.about._replace(fewest=2))
    return root


refusal = partial(refusal_of, tiered_imagenet.source)


def test_the_list_has_the_papers_numbers() -> None:
    listed = tiered_imagenet.classes()
    assert len({known.name for known in listed}) == 608
    parts = by_split(tiered_imagenet.classes())
    assert {name: len(part) for name, part in parts.items()} == {"train": 351, "val": 97, "test": 160}
    assert torch.equal(torch.cat(list(parts.values())), torch.arange(608))
    categories = {split: {known.group for known in listed if known.split == split} for split in parts}
    assert {split: len(names) for split, names in categories.items()} == {"train": 20, "val": 6, "test": 8}
    assert len(set.union(*categories.values())) == 34
    assert torch.equal(numbered(listed.group for listed in tiered_imagenet.classes()).unique(), torch.arange(34))
    for split in parts:
        names = [known.name for known in listed if known.split == split]
        assert names == sorted(names)
    assert sum(tiered_imagenet.IMAGES.values()) == 779_165


def test_images_of_all_sizes_are_packed_in_the_order_of_the_list(small: Path) -> None:
    images = load(tiered_imagenet.source(str(small)))
    assert images.names == ("train/n1", "train/n3", "train/n5", "val/n2", "test/n4")
    assert images.count.tolist() == [3, 2, 4, 2, 2]
    for place, name in ((0, "train/n1/n1_0"), (3, "train/n3/n3_0"), (12, "test/n4/n4_1")):
        original = Image.open(small / f"{name}.JPEG").convert("RGB")
        assert torch.equal(images.pixels[place], as_tensor(original.resize((84, 84), Image.Resampling.LANCZOS)))
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
    assert refusal(small) == f"{small}/train holds n2, not a class of tieredImageNet's train split"
    shutil.move(small / "train/n2", small / "n2")
    assert refusal(small) == f"{small}/val has no n2 (1 of 1 are missing)"
    shutil.move(small / "n2", small / "val/n2")
    (small / "train/n5/n5_3.JPEG").unlink()
    assert refusal(small) == f"{small}/train holds 8 images instead of 9"
    (small / "test/n4/n4_1.JPEG").unlink()
    (small / "train/n5/n5_4.JPEG").write_bytes((small / "train/n5/n5_1.JPEG").read_bytes())
    assert refusal(small) == f"{small}/test/n4 holds 1 images instead of 2 or more"


@pytest.mark.row("C8")
def test_a_broken_image_is_named_and_hidden_files_are_not_counted(small: Path) -> None:
    for folder in (small / "train", small / "train/n1"):
        (folder / ".DS_Store").write_bytes(b"junk")
    path = small / "train/n1/n1_1.JPEG"
    path.write_bytes(path.read_bytes()[:-300])
    assert refusal(small).startswith(f"{path} cannot be read (image file is truncated")


def test_it_tests_on_classes_that_mini_imagenet_trains_on() -> None:
    assert "ImageNet's n02108089" in MiniImageNet().identities("train") & TieredImageNet().identities("test")
    assert not TieredImageNet().identities("train") & TieredImageNet().identities("test")
