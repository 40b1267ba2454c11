"""CUB-200-2011: what is read, what is refused. There are no real data here: the tests make small folders."""

from functools import partial
from pathlib import Path

import pytest
import torch
from cases import BIRDS, BOXES, load, write_birds
from cases import refusal as refusal_of
from PIL import Image

from metalearn_cli.datasets import packed_set as cache
from metalearn_cli.datasets.pictures import as_tensor
from metalearn_cli.tasks import cub
from metalearn_cli.tasks.cub import CUB, Region


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    return write_birds(tmp_path / "cub", monkeypatch)


refusal = partial(refusal_of, cub.source)


def test_the_split_is_by_the_number_of_the_class() -> None:
    parts = CUB().split_classes
    assert {name: len(part) for name, part in parts.items()} == {"train": 100, "val": 50, "test": 50}
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(200))
    assert [parts[name][:2].tolist() for name in ("train", "val", "test")] == [[0, 2], [1, 5], [3, 7]]


def test_images_are_packed_by_name(small: Path) -> None:
    images = load(cub.source(str(small)))
    assert images.names == tuple(BIRDS)
    assert images.count.tolist() == [3, 2, 2, 4]
    for place, name in ((0, "001.Albatross/Bird_7"), (2, "001.Albatross/Bird_9"), (10, "004.Wren/Bird_9")):
        original = Image.open(small / f"CUB_200_2011/images/{name}.jpg").convert("RGB")
        assert torch.equal(images.pixels[place], as_tensor(original.resize((84, 84), Image.Resampling.BILINEAR)))


def test_each_region_is_packed_apart(small: Path) -> None:
    by_region = {region: load(cub.source(str(small), region)) for region in Region}
    assert len({images.fingerprint for images in by_region.values()}) == 3
    assert len(list((small.parent / "cache").iterdir())) == 3
    first = Image.open(small / "CUB_200_2011/images/001.Albatross/Bird_9.jpg")  # number 1, with the first box
    box = first.crop((10, 20, 41, 45)).resize((84, 84), Image.Resampling.BILINEAR)
    assert torch.equal(by_region[Region.box].pixels[2], as_tensor(box))
    centre = first.resize((96, 96), Image.Resampling.BILINEAR).crop((6, 6, 90, 90))
    assert torch.equal(by_region[Region.centre].pixels[2], as_tensor(centre))
    whole = Image.open(small / "CUB_200_2011/images/001.Albatross/Bird_8.jpg").convert("RGB")  # and the second
    assert torch.equal(by_region[Region.box].pixels[1], as_tensor(whole.resize((84, 84), Image.Resampling.BILINEAR)))


def test_a_set_is_packed_again_where_files_or_the_boxes_that_it_uses_change(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {region: load(cub.source(str(small), region)).fingerprint for region in Region}
    path = small / "CUB_200_2011/bounding_boxes.txt"
    path.write_text(path.read_text().replace("10.5", "11.5"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_pack", None)
        assert load(cub.source(str(small))).fingerprint == before[Region.whole]
    assert load(cub.source(str(small), Region.box)).fingerprint != before[Region.box]
    Image.new("RGB", (30, 30)).save(small / "CUB_200_2011/images/002.Auk/Bird_9.jpg")
    assert load(cub.source(str(small))).fingerprint != before[Region.whole]


def test_incomplete_and_odd_lists_are_named(small: Path) -> None:
    folder = small / "CUB_200_2011"
    images, boxes = folder / "images.txt", folder / "bounding_boxes.txt"
    whole, all_boxes = images.read_text(), boxes.read_text()
    for old, new, sentence in (
        ("11 004.Wren/Bird_6.jpg\n", "", f"{images} lists 10 images instead of 11"),
        ("5 002.Auk/Bird_8.jpg\n", "4 002.Auk/Bird_8.jpg\n", f"{images} has two images of number 4"),
        ("5 002.Auk/", "5 001.Albatross/", f"{images} lists 1 images of 002.Auk instead of 2 or more"),
        ("002.Auk", "001.Albatross", f"{images} lists 3 classes instead of 4"),
        ("5 002.Auk/Bird_8.jpg", "5", f"line 5 of {images} has 1 columns instead of 2"),
        ("002.Auk/Bird_8.jpg", "../../a.jpg", f"{images} names ../../a.jpg, which leads out of the folder that it is"),
    ):
        images.write_text(whole.replace(old, new))
        assert refusal(small).startswith(sentence)
    images.write_bytes(b"\xff\xfe")
    assert refusal(small).startswith(f"{images} cannot be read (")
    images.write_text(whole)
    boxes.write_text(all_boxes.replace("3 10.5", "3 left"))
    assert refusal(small, Region.box).startswith(f"{boxes} holds something else than numbers (")
    boxes.write_text(all_boxes.replace(f"3 {BOXES[0]}\n", ""))
    assert refusal(small, Region.box) == f"{boxes} holds 10 boxes instead of 11"
    for box in ("110.0 20.0 30.0 25.0", "10.0 20.0 0.0 25.0", "nan 20.0 30.0 25.0", "1.0 70.0 inf 2.0"):
        boxes.write_text(all_boxes.replace(f"3 {BOXES[0]}", f"3 {box}"))
        sentence = f"{folder}/images/001.Albatross/Bird_7.jpg has nothing of its 100 x 60 pixels"
        assert sentence in refusal(small, Region.box)
    (folder / "images/002.Auk/Bird_8.jpg").unlink()
    assert refusal(small) == f"{folder}/images/002.Auk/Bird_8.jpg cannot be read (No such file or directory)"
