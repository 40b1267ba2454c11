"""CIFAR-FS: what is read, what is refused, and which tasks are drawn."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import load, write_cifar_100
from cases import refusal as refusal_of
from commands import run
from PIL import Image
from problems import image_task

from metalearn_cli.datasets.image_set import by_split
from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import cifar_fs
from metalearn_cli.tasks.base import draw_sha256
from metalearn_cli.tasks.cifar_fs import CifarFS

CPU = torch.device("cpu")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Path:
    """Three images in each of two classes."""
    return write_cifar_100(tmp_path, monkeypatch, 3)


def image_of(root: Path, number: int = 1) -> Path:
    return root / "cifar100" / "data" / "bear" / f"bear_s_{number:06}.png"


refusal = partial(refusal_of, cifar_fs.source)


def test_list_has_the_papers_split() -> None:
    listed = cifar_fs.classes()
    assert list(listed) == sorted(listed)
    assert len({one.name for one in listed}) == len({one.sha256 for one in listed}) == 100
    parts = by_split(cifar_fs.classes())
    assert {name: len(part) for name, part in parts.items()} == {"train": 64, "val": 16, "test": 20}
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(100))


def test_the_official_lists_are_the_shipped_ones(cifar_fs_root: str) -> None:
    for split in ("train", "val", "test"):
        names = (Path(cifar_fs_root) / "cifar100/splits/bertinetto" / f"{split}.txt").read_text().split()
        assert sorted(names) == [listed.name for listed in cifar_fs.classes() if listed.split == split]


def test_real_images_give_the_known_pixels_and_draws(cifar_fs_root: str) -> None:
    images = load(cifar_fs.source(cifar_fs_root))
    assert images.pixels.shape == (60000, 3, 32, 32)
    assert torch.equal(images.start, 600 * torch.arange(100))
    assert torch.equal(images.count, torch.full((100,), 600))
    assert images.names == tuple(listed.name for listed in cifar_fs.classes())
    assert images.fingerprint == "f183a574167875baedf3b2aab801971c9704a6a40b36e60d4e6c52144f22665b"
    draw = image_task(CifarFS, root=cifar_fs_root).draw(64, "test", generator(0, "test", 0))
    assert draw_sha256([draw], images.fingerprint)[:16] == "2027fbac415d6d95"


def test_pixels_stand_in_the_order_of_the_names_and_need_the_folder_no_more(small: Path) -> None:
    images = load(cifar_fs.source(str(small)))
    assert images.pixels.shape == (6, 3, 32, 32)
    assert images.names == ("apple", "bear")
    picture = Image.open(image_of(small))
    for channel, band in enumerate(picture.split()):
        assert bytes(images.pixels[4, channel].flatten().tolist()) == band.tobytes()
    (small / "cifar100").rename(small / "away")
    assert torch.equal(load(cifar_fs.source(str(small))).pixels, images.pixels)


def test_other_compression_and_hidden_files_are_accepted(small: Path) -> None:
    picture = Image.open(image_of(small))
    picture.save(image_of(small), "png", compress_level=0)
    for folder in (small / "cifar100/data", small / "cifar100/data/bear"):
        (folder / ".DS_Store").write_bytes(b"junk")
    assert load(cifar_fs.source(str(small))).pixels.shape == (6, 3, 32, 32)


def test_missing_and_unknown_classes_are_named(small: Path) -> None:
    data = small / "cifar100" / "data"
    (data / "cow").mkdir()
    assert f"{data} holds cow, which is not a class of CIFAR-FS" in refusal(small)
    (data / "cow").rmdir()
    (data / "bear").rename(small / "bear")
    assert f"{data} has no class bear" in refusal(small)


def test_missing_and_surplus_images_name_class_and_count(small: Path) -> None:
    image_of(small, 7).write_bytes(image_of(small).read_bytes())
    assert "cifar100/data/bear holds 4 images instead of 3" in refusal(small)
    image_of(small, 7).unlink()
    image_of(small).unlink()
    assert "cifar100/data/bear holds 2 images instead of 3" in refusal(small)


DAMAGES: list[tuple[Callable[[Path, Image.Image], object], str]] = [
    (lambda path, _: path.write_bytes(b""), "is empty (0 bytes)"),
    (lambda path, _: path.write_bytes(path.read_bytes()[:-1000]), "cannot be "),
    (lambda path, _: path.write_text("not an image"), "is not an image that Pillow can read"),
    (lambda path, image: image.convert("RGBA").save(path), "is of mode RGBA"),
    (lambda path, image: Image.frombytes("RGB", (64, 16), image.tobytes()).save(path), "is 64 x 16 pixels instead of "),
    (lambda path, image: image.save(path, save_all=True, append_images=[image.rotate(90)]), "holds 2 pictures"),
    (lambda path, _: (path.unlink(), path.mkdir()), "is not a plain file"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES)
@pytest.mark.row("C8")
def test_an_odd_image_is_named(small: Path, damage: Callable[[Path, Image.Image], object], sentence: str) -> None:
    damage(image_of(small), Image.open(image_of(small)).convert("RGB"))
    assert refusal(small).startswith(f"{image_of(small)} {sentence}")


def test_changed_pixel_and_swapped_images_name_the_class(small: Path) -> None:
    picture = Image.open(image_of(small)).convert("RGB")
    changed = picture.copy()
    changed.putpixel((3, 4), (0, 0, 0))
    changed.save(image_of(small))
    assert "cifar100/data/bear does not hold CIFAR-FS's 3 images" in refusal(small)
    Image.open(image_of(small, 0)).save(image_of(small))
    picture.save(image_of(small, 0))
    assert "cifar100/data/bear does not hold CIFAR-FS's 3 images" in refusal(small)


# Tasks


@pytest.mark.usefixtures("packed_images")
def test_test_episodes_do_not_depend_on_what_is_trained_on() -> None:
    hashes = {
        draw_sha256(
            [image_task(CifarFS, train_splits=splits, train_way=way).draw(64, "test", generator(0, "test", 0))], ""
        )
        for splits, way in ((("train",), None), (("train", "val"), 70), (("val",), 10))
    }
    assert len(hashes) == 1


def test_validation_tasks_are_checked_where_somebody_wants_them() -> None:
    with pytest.raises(UserError, match=r"task\.way=17 is more than the 16 classes of the val split"):
        image_task(CifarFS, way=17).check_split("val")


@pytest.mark.usefixtures("packed_images")
def test_the_command_trains_on_all_but_the_test_classes_only_without_validation(tmp_path: Path) -> None:
    small = [
        "algo=protonet",
        "task=cifar_fs",
        "model.filters=4",
        "task.query=2",
        "debug=quick",
        "threads=1",
        "name=one",
    ]
    refused = run(tmp_path, "train", *small, "task.train_splits=[train,val]")
    assert refused.code == 1
    assert "no validation classes" in refused.err
    assert "set select=last" in refused.err
    done = run(tmp_path, "train", *small, "name=one", "task.train_splits=[train,val]", "eval_every=0", "select=last")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "outputs/one/results.json").read_text())
    assert 0 <= results["mean"] <= 1
