"""CUB-200-2011: what is read, what is refused. There are no real data here: the tests make small folders."""

from pathlib import Path

import pytest
import torch
from cases import load
from PIL import Image
from problems import image_task

from metalearn_cli.datasets import packed_set as cache
from metalearn_cli.datasets.pictures import as_tensor
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import cub
from metalearn_cli.tasks.cub import CUB, Region

COUNTS = {"001.Albatross": 3, "002.Auk": 2, "003.Bunting": 2, "004.Wren": 4}
BOXES = ["10.5 20.0 30.0 25.0", "-1.0 0.0 102.0 60.5"]  # left, top, width, height; the second is a little too large


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the published layout with 2 to 4 images in each of four classes, and an empty cache."""
    folder = tmp_path / "cub" / "CUB_200_2011"
    rng = torch.Generator().manual_seed(0)
    images, boxes = [], []
    for name, count in COUNTS.items():
        (folder / "images" / name).mkdir(parents=True)
        for i in range(count):
            few = bytes(torch.randint(256, (75,), generator=rng, dtype=torch.uint8).tolist())
            image = Image.frombytes("RGB", (5, 5), few).resize((100, 60))
            (image.convert("L") if i == 1 else image).save(folder / "images" / name / f"Bird_{9 - i}.jpg")
            images.append(f"{len(images) + 1} {name}/Bird_{9 - i}.jpg")
            boxes.append(f"{len(boxes) + 1} {BOXES[len(boxes) % 2]}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "bounding_boxes.txt").write_text("\n".join(boxes) + "\n")
    monkeypatch.setattr(cub, "CLASSES", 4)
    monkeypatch.setattr(cub, "IMAGES", 11)
    monkeypatch.setattr(cub, "FEWEST", 2)
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cub"


def refusal(root: Path, region: Region = Region.whole) -> str:
    with pytest.raises(UserError) as caught:
        load(cub.source(str(root), region))
    assert not list(root.parent.glob("cache/*")), "something was packed"
    return str(caught.value)


def test_the_split_is_by_the_number_of_the_class() -> None:
    parts = CUB().split_classes
    assert {name: len(part) for name, part in parts.items()} == {"train": 100, "val": 50, "test": 50}
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(200))
    assert [parts[name][:2].tolist() for name in ("train", "val", "test")] == [[0, 2], [1, 5], [3, 7]]


def test_images_are_packed_by_name(small: Path) -> None:
    images = load(cub.source(str(small)))
    assert images.names == tuple(COUNTS)
    assert images.count.tolist() == [3, 2, 2, 4]
    for place, name in ((0, "001.Albatross/Bird_7"), (2, "001.Albatross/Bird_9"), (10, "004.Wren/Bird_9")):
        picture = Image.open(small / f"CUB_200_2011/images/{name}.jpg").convert("RGB")
        assert torch.equal(images.pixels[place], as_tensor(picture.resize((84, 84), Image.Resampling.BILINEAR)))


def test_each_region_is_packed_apart(small: Path) -> None:
    found = {region: load(cub.source(str(small), region)) for region in Region}
    assert len({images.fingerprint for images in found.values()}) == 3
    assert len(list((small.parent / "cache").iterdir())) == 3
    picture = Image.open(small / "CUB_200_2011/images/001.Albatross/Bird_9.jpg")  # number 1, with the first box
    box = picture.crop((10, 20, 41, 45)).resize((84, 84), Image.Resampling.BILINEAR)
    assert torch.equal(found[Region.box].pixels[2], as_tensor(box))
    centre = picture.resize((96, 96), Image.Resampling.BILINEAR).crop((6, 6, 90, 90))
    assert torch.equal(found[Region.centre].pixels[2], as_tensor(centre))
    whole = Image.open(small / "CUB_200_2011/images/001.Albatross/Bird_8.jpg").convert("RGB")  # and the second
    assert torch.equal(found[Region.box].pixels[1], as_tensor(whole.resize((84, 84), Image.Resampling.BILINEAR)))


def test_a_set_is_packed_anew_where_files_or_the_boxes_that_it_uses_change(
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
    images.write_text(whole.replace("11 004.Wren/Bird_6.jpg\n", ""))
    assert refusal(small) == f"{images} lists 10 images instead of 11, under as many numbers"
    images.write_text(whole.replace("5 002.Auk/Bird_8.jpg\n", "5 001.Albatross/Bird_5.jpg\n"))
    assert refusal(small) == f"{images} lists 1 images of 002.Auk instead of 2 or more"
    images.write_text(whole.replace("002.Auk", "001.Albatross"))
    assert refusal(small) == f"{images} lists 3 classes instead of 4"
    images.write_text(whole.replace("5 002.Auk/Bird_8.jpg", "5"))
    assert refusal(small) == f"line 5 of {images} has 1 columns instead of 2"
    images.write_text(whole.replace("002.Auk/Bird_8.jpg", "../../secret.jpg"))
    assert refusal(small) == f"{images} names ../../secret.jpg, which leads out of the folder that it is about"
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


@pytest.mark.usefixtures("packed_images")
def test_each_split_draws_its_own_classes() -> None:
    task = image_task(CUB, query=1)
    assert task.spec == ((3, 84, 84), 5, 5, "classes", False, True)
    for split in task.splits:
        drawn = task.draw(500, split, generator(split))["support_image"] // 4
        assert set(drawn.flatten().tolist()) == set(CUB().split_classes[split].tolist())


def test_impossible_request_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"task\.shot=30 and task\.query=15 together are more than the 41 images"):
        image_task(CUB, shot=30)
    with pytest.raises(UserError, match="classes in groups, and those of this data set have none"):
        image_task(CUB, within_group=True)
