"""A folder of one's own: what is read and how, what is refused, and which classes are whose."""

import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import folder_task, picture
from commands import in_a_fork, run
from PIL import Image
from places import ROOT

from metalearn_cli.datasets import class_splits, image_folder
from metalearn_cli.datasets import pictures as decoding
from metalearn_cli.datasets.formats import Broken
from metalearn_cli.datasets.image_folder import find_classes, pack_folder
from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.datasets.listing import Contents, File
from metalearn_cli.datasets.pictures import Preparation, Resize, as_tensor, read_picture
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.records import read_json
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import image_folder as task_module
from metalearn_cli.tasks.episodes import Rotations
from metalearn_cli.tasks.image_folder import ImageFolder

pytestmark = pytest.mark.usefixtures("cache")


def fill(folder: Path, images: int = 2, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(images):
        picture(1000 * seed + i).save(folder / f"{i}.png")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """15 classes of two images."""
    for c in range(15):
        fill(tmp_path / "flat" / f"c{c:02}", seed=c)
    return tmp_path / "flat"


def decode(path: Path, size: int, channels: int, resize: Resize) -> torch.Tensor:
    return Preparation(size, channels, resize).read(path)


def images_of(task: ImageFolder) -> ImageSet:
    return task.packed.images


def refusal(root: Path, **keys: Any) -> str:
    with pytest.raises(UserError) as caught:
        _ = folder_task(root, **keys).fingerprint
    assert not list(root.parent.glob("cache/*.safetensors")), "something was packed"
    return str(caught.value)


# How a file becomes a square


def decoded(image: Image.Image, path: Path, channels: int = 3, resize: Resize = Resize.stretch, **how: Any) -> Any:
    image.save(path, **how)
    return decode(path, 16, channels, resize)


RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    upright = picture(3, (24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    expected = decoded(upright, tmp_path / "a.png", resize=Resize.pad)
    assert torch.equal(decoded(lying, tmp_path / "b.png", resize=Resize.pad, exif=exif), expected)


def test_of_a_cameras_two_pictures_the_photograph_is_taken(tmp_path: Path) -> None:
    photograph = picture(1, (32, 32))
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture(2, (16, 16))])
    with Image.open(tmp_path / "a.jpg") as both:
        assert (both.format, both.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
    found = decode(tmp_path / "a.jpg", 32, 3, Resize.crop)
    assert (found.int() - as_tensor(photograph).int()).abs().float().mean() < 10


def test_a_large_jpeg_is_what_it_would_be_decoded_whole(tmp_path: Path) -> None:
    picture(1, (1200, 900)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as whole:
        expected = whole.resize((16, 16), Image.Resampling.LANCZOS)
    difference = (decode(tmp_path / "a.jpg", 16, 3, Resize.stretch).int() - as_tensor(expected).int()).abs()
    assert difference.max() <= 8
    assert difference.float().mean() < 1


def test_crop_stretch_and_pad(tmp_path: Path) -> None:
    """A wide picture of three parts: red, blue, red."""
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(BLUE, (32, 0, 64, 32))
    by_resize = {resize: decoded(wide, tmp_path / "a.png", resize=resize) for resize in Resize}
    middle = by_resize[Resize.crop][..., 3:-3]  # what is near the edge has a little of what is beyond it
    assert (middle == torch.tensor(BLUE).view(3, 1, 1)).all()
    row = by_resize[Resize.stretch][:, 8].int()
    assert (row[:, 1] - torch.tensor(RED)).abs().max() < 10
    assert (row[:, 8] - torch.tensor(BLUE)).abs().max() < 10
    pad = by_resize[Resize.pad]
    assert (pad[:, :4] == 255).all(), "white above and below"
    assert (pad[:, -4:] == 255).all()
    assert (pad[:, 8, 8].int() - torch.tensor(BLUE)).abs().max() < 10
    assert (pad[:, 8, 1].int() - torch.tensor(RED)).abs().max() < 10
    grey = decoded(wide.convert("L"), tmp_path / "a.png", channels=1, resize=Resize.pad)
    assert grey.shape == (1, 16, 16)
    assert (grey[:, :4] == 255).all()


def claim_size(path: Path, width: int, height: int) -> None:
    """A small PNG that says it is large."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + path.read_bytes()[33:])


def save_frames(path: Path) -> None:
    picture(1).save(path, "gif", save_all=True, append_images=[picture(2)])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-40] ^= 255
    path.write_bytes(data)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.png")


BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)"),
    "text": (lambda path: path.write_text("not an image"), "is not an image that Pillow can read"),
    "cut": (cut, "cannot be read (image file is truncated"),
    "bits": (flip_bits, "cannot be "),
    "tiny": (lambda path: picture(1, (20, 7)).save(path), "is 20 x 7 pixels, and at least 8 a side are expected"),
    "large": (lambda path: claim_size(path, 11_000, 10_000), "has more than 100 million pixels"),
    "bomb": (lambda path: claim_size(path, 60_000, 60_000), "has more than 100 million pixels"),
    "frames": (save_frames, "holds 2 pictures, and one is expected"),
    "float": (lambda path: Image.new("F", (20, 20)).save(path, "tiff"), "is of mode F"),
    "32 bits": (lambda path: Image.new("I", (20, 20)).save(path, "tiff"), "is of mode I"),
    "itself": (link_to_itself, "cannot be read (Too many levels of symbolic links)"),
    "nothing": (link_to_nothing, "cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("kind", BREAK)
@pytest.mark.row("C8")
def test_a_broken_file_is_named_before_anything_is_packed(flat: Path, kind: str) -> None:
    damage, why = BREAK[kind]
    damage(flat / "c03/1.png")
    keys: dict[str, Any] = {"shot": 1, "query": 1}
    if kind in ("itself", "nothing"):  # a link that cannot be followed is not an image of its class
        picture(77).save(flat / "c03/2.png")
    sentence = refusal(flat, **keys)
    assert sentence.startswith(f"1 of the files in {flat} cannot be used: c03/1.png {why}")
    assert "task.skip_broken=true" in sentence


@pytest.mark.parametrize(
    ("module", "function", "place"), [(decoding.Image, "open", "c15/1.png"), (os, "scandir", "c15")]
)
def test_what_cannot_be_opened_is_named(
    flat: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str, place: str
) -> None:
    """Root, who runs these tests in a container, may read everything."""
    opened = getattr(module, function)

    def refuse(path: Path, **how: Any) -> Any:
        if Path(path) == flat / place:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, **how)

    fill(flat / "c15", seed=15)
    monkeypatch.setattr(module, function, refuse)
    assert f"{place} cannot be read (Permission denied)" in refusal(flat)


@pytest.mark.row("C8")
def test_all_broken_files_are_counted_and_ten_are_named(flat: Path) -> None:
    for c in range(12):
        (flat / f"c{c:02}/1.png").write_bytes(b"")
    sentence = refusal(flat)
    assert sentence.startswith(f"12 of the files in {flat} cannot be used: c00/1.png is empty (0 bytes); c01/1.png ")
    assert "c09/1.png is empty (0 bytes); and 2 more (" in sentence


def test_all_broken_files_stand_in_a_file_by_folder_and_cause(flat: Path, tmp_path: Path) -> None:
    for c in range(12):
        (flat / f"c{c:02}/0.png").write_bytes(b"")
        picture(100 + c).save(flat / f"c{c:02}/7.png")
    (flat / "c03/1.png").write_text("no image")
    (flat / "c03/2.png").write_bytes(b"")
    picture(200).save(flat / "c03/3.png")
    content = (
        f"14 of the files in {flat} cannot be used, by folder and cause:\n\nc00: 1 is empty (0 bytes)\n    0.png\n"
    )
    part = "\nc03: 2 is empty (0 bytes)\n    0.png\n    2.png\n\nc03: 1 is not an image that Pillow can read\n    1.png"
    sentence = refusal(flat)
    (path,) = (tmp_path / "cache").glob("*.broken.txt")
    assert f"; and 4 more ({path} lists all of them): mend" in sentence
    assert path.read_text().startswith(content)
    assert part in path.read_text()
    skipping = folder_task(flat, skip_broken=True)
    (note,) = [note for note in skipping.notes() if note.startswith("task.skip_broken=true")]
    assert not path.exists(), "it is packed"
    (path,) = (tmp_path / "cache").glob("*.broken.txt")
    assert note.endswith(f"; and 4 more ({path} lists all of them)")
    assert part in path.read_text()


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded."""
    names: list[str] = []

    def counting(path: Path, *rest: int) -> Image.Image:
        names.append(f"{path.parent.name}/{path.name}")
        return read_picture(path, *rest)

    monkeypatch.setattr(decoding, "read_picture", counting)
    return names


def test_a_second_try_decodes_what_has_changed_alone(flat: Path, tmp_path: Path, decodes: list[str]) -> None:
    expected = folder_task(Path(shutil.copytree(flat, tmp_path / "whole", copy_function=shutil.copy))).fingerprint
    whole = (flat / "c03/1.png").read_bytes()
    (flat / "c03/1.png").write_bytes(b"")
    os.utime(flat / "c03/1.png", ns=(0, 1))
    decodes.clear()
    for _ in range(2):
        with pytest.raises(UserError, match=r"c03/1\.png is empty"):
            _ = folder_task(flat).fingerprint
        assert len(decodes) == 30, "once"
    (flat / "c03/1.png").write_bytes(whole)
    os.utime(flat / "c03/1.png", ns=(0, 2))
    assert folder_task(flat).fingerprint == expected
    assert decodes[30:] == ["c03/1.png"]
    assert not list((tmp_path / "cache").glob("decoded-*")), "it is packed"


def test_what_is_decoded_counts_only_where_its_hash_says_so(flat: Path, tmp_path: Path, decodes: list[str]) -> None:
    expected = folder_task(Path(shutil.copytree(flat, tmp_path / "whole", copy_function=shutil.copy))).fingerprint
    picture(9).save(flat / "c03/0.gif", save_all=True, append_images=[picture(10)])
    for damage in ("index", "pixels", "cut", "gone"):
        refusal_of = pytest.raises(UserError, match=r"c03/0\.gif holds 2 pictures")
        with refusal_of:
            _ = folder_task(flat).fingerprint
        pixels, index = sorted((tmp_path / "cache").glob("decoded-*"))
        data, lines = bytearray(pixels.read_bytes()), index.read_text().splitlines()
        decodes.clear()
        if damage == "pixels":
            data[7 * 768 + 3] ^= 1
            pixels.write_bytes(data)
        elif damage == "index":
            lines[6] = lines[6].replace(", 5, ", ", 500, ")
            index.write_text("\n".join([*lines[:-1], "[", '["c14/1.png", 1, 2, -1, ""]', "7", "{}", lines[-1][:20]]))
        elif damage == "cut":
            pixels.write_bytes(data[: 768 * 31 + 100])
        else:
            pixels.unlink()
        with refusal_of:
            _ = folder_task(flat).fingerprint
        assert len(decodes) == {"pixels": 1, "index": 2, "cut": 2, "gone": 30}[damage]
    (flat / "c03/0.gif").unlink()
    assert folder_task(flat).fingerprint == expected


def test_what_a_killed_process_has_decoded_is_kept(flat: Path, tmp_path: Path, decodes: list[str]) -> None:
    expected = folder_task(Path(shutil.copytree(flat, tmp_path / "whole", copy_function=shutil.copy))).fingerprint
    decodes.clear()

    def die_at_c10() -> None:
        def last(path: Path, *rest: int) -> Image.Image:
            if path.parent.name == "c10":
                os._exit(7)
            return read_picture(path, *rest)

        decoding.read_picture = last  # type: ignore[attr-defined,assignment]
        folder_task(flat).notes()

    assert in_a_fork(die_at_c10) == 7
    assert folder_task(flat).fingerprint == expected
    assert len(decodes) == 10


def test_broken_files_are_left_out_when_asked_for_and_said_each_time(flat: Path) -> None:
    for c in (2, 7):
        picture(50 + c).save(flat / f"c{c:02}/2.png")
        (flat / f"c{c:02}/0.png").write_text("no image")
    for _ in range(2):  # packed, and found packed
        task = folder_task(flat, skip_broken=True)
        assert images_of(task).count.tolist() == [2] * 15
        assert len(images_of(task).pixels) == 30
        assert (
            "task.skip_broken=true leaves out (2): c02/0.png is not an image that Pillow can read; c07/0.png is "
            "not an image that Pillow can read"
        ) in task.notes()
    expected = decode(flat / "c07/2.png", 16, 3, Resize.crop)
    assert torch.equal(images_of(task).pixels[2 * 7 + 1], expected), "the others close up"
    with pytest.raises(UserError, match=r"2 of the files in .* cannot be used"):  # without skipping, it is refused
        _ = folder_task(flat).fingerprint


def test_a_class_that_is_left_with_too_few_images_is_named(flat: Path) -> None:
    (flat / "c05/0.png").write_text("no image")
    with pytest.raises(UserError) as caught:
        _ = folder_task(flat, skip_broken=True).fingerprint
    assert "class c05 of the " in str(caught.value)
    assert "has, without its broken files, 1 images, and task.shot=1 with task.query=1 asks for 2" in str(caught.value)
    assert "give task.min_images=2, which leaves out all classes with fewer" in str(caught.value)


@pytest.mark.parametrize("split_seed", [0, 1, 5])  # it is a class for training, test, validation
def test_min_images_counts_what_can_be_used(flat: Path, split_seed: int) -> None:
    """What it advises is followed once, and does: to leave out by the number of files would leave out all."""
    fill(flat / "c15", seed=15)
    (flat / "c05/0.png").write_text("no image")
    task = folder_task(flat, skip_broken=True, min_images=2, split_seed=split_seed, way=4)
    assert f"{flat}: 15 classes with 30 images; " in task.notes()[0]
    assert "task.min_images=2 leaves out (1): c05 (1 of its 2 files can be used)" in task.notes()
    assert set.union(*(drawn_classes(task, split) for split in task.splits)) == {
        f"c{c:02}" for c in range(16) if c != 5
    }
    (split,) = (split for split in task.splits if "c05" in task._parts.classes[split])
    usable = len(task._parts.classes[split]) - 1
    assert f"{usable} {split}" in task.notes()[0]
    way = {"train_way": usable + 1, "way": 2} if split == "train" else {"way": usable + 1, "train_way": 2}
    with pytest.raises(UserError, match=rf"way={usable + 1} is more than the {usable} classes of the {split} split"):
        folder_task(flat, skip_broken=True, min_images=2, split_seed=split_seed, **way).notes()


# What is in a folder


def test_other_files_are_said_and_what_systems_leave_is_not(flat: Path) -> None:
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini"):
        (flat / "c01" / name).write_bytes(b"junk")
    (flat / "__MACOSX/c01").mkdir(parents=True)
    (flat / "__MACOSX/c01/0.png").write_bytes(b"junk")
    (flat / "c01/labels.txt").write_text("junk")
    (flat / "c02/3.psd").write_text("junk")
    task = folder_task(flat)
    assert images_of(task).count.sum() == 30
    assert "not images by their suffix, and not read (2): c01/labels.txt, c02/3.psd" in task.notes()


def test_links_are_followed_and_circles_named(flat: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", seed=40)
    (flat / "c15").symlink_to(tmp_path / "elsewhere")
    assert len(images_of(folder_task(flat)).names) == 16
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    (flat / "group").mkdir()
    (flat / "group/round").symlink_to(flat)
    assert "group/round is a link to a folder that holds it" in refusal(flat)


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name, other in (("a", "b"), ("b", "a")):
        (root / name).mkdir(parents=True)
        (root / name / "on").symlink_to(root / other)
    with pytest.raises(UserError, match="holds no images in folders"):
        folder_task(root)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: None, "is not a folder: give the one whose folders are the classes"),
        (lambda root: root.mkdir(), "holds no images in folders (it is empty)"),
        (lambda root: (fill(root / "c"), (root / "9.png").write_bytes(b"")), "holds images itself, e.g. 9.png"),
        (lambda root: (fill(root / "c"), fill(root / "c/d")), "/c holds images, e.g. c/0.png, and the class c/d too"),
    ],
)
@pytest.mark.row("C6")
def test_a_folder_of_another_shape_is_a_sentence(tmp_path: Path, make: Callable[[Path], object], sentence: str) -> None:
    make(tmp_path / "root")
    assert sentence in refusal(tmp_path / "root")


class Counted(str):
    """A name that counts how often any such name is compared with another."""

    comparisons = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)

    def startswith(self, *rest: Any) -> bool:
        Counted.comparisons += 1
        return super().startswith(*rest)


def test_the_work_grows_with_the_number_of_classes_and_not_with_its_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two numbers of classes tell: a comparison of each with each would be four times as many for twice as many."""
    comparisons: list[int] = []
    for number in (500, 1000):
        names = [Counted(f"g{c % 7}/c{c:04}") for c in range(number)]
        classes = {name: [File(f"{name}/{i}.png", 9, 9) for i in range(2)] for name in names}
        closed = {f"{name}/2.png": "cannot be read" for name in names}
        monkeypatch.setattr(image_folder, "list_images", lambda *_, c=classes, d=closed: Contents(c, [], d))
        for split, part in (("train", names[::2]), ("test", names[1::2])):
            (tmp_path / f"{split}.txt").write_text("\n".join(part))
        Counted.comparisons = 0
        found = find_classes(str(tmp_path))
        class_splits.by_lists(names, "root", str(tmp_path))
        image_folder._of_classes(found, names[::2])
        folder_task(tmp_path, split_lists=str(tmp_path), min_images=1)._parts  # noqa: B018
        comparisons.append(Counted.comparisons)
    assert 0 < comparisons[1] < 3 * comparisons[0]


def test_the_same_picture_twice_is_a_warning(flat: Path) -> None:
    picture(7).save(flat / "c03/2.png")
    picture(7).save(flat / "c09/2.bmp")  # in another format
    Image.open(flat / "c11/0.png").save(flat / "c11/5.png", compress_level=0)
    notes = folder_task(flat).notes()
    assert "warning: the same image twice in different classes (1): c03/2.png as c09/2.bmp" in notes
    assert "warning: the same image twice in a class (1): c11/0.png as c11/5.png" in notes


def test_of_pictures_that_are_there_twice_the_first_is_kept_when_asked_for(flat: Path, tmp_path: Path) -> None:
    picture(7).save(flat / "c03/2.png")
    picture(7).save(flat / "c09/2.bmp")
    picture(7).save(flat / "c09/3.png")
    Image.open(flat / "c11/0.png").save(flat / "c11/5.png", compress_level=0)
    both = images_of(folder_task(flat))
    task = folder_task(flat, skip_twice=True)
    assert images_of(task).count.tolist() == [2 + (c == 3) for c in range(15)]
    assert both.count.sum() - images_of(task).count.sum() == 3
    for name in ("c03/2.png", "c11/0.png"):
        expected = decode(flat / name, 16, 3, Resize.crop)
        assert sum(torch.equal(pixels, expected) for pixels in images_of(task).pixels) == 1
    assert "task.skip_twice=true (2): c03/2.png as c09/2.bmp, c03/2.png as c09/3.png" in " ".join(task.notes())
    assert images_of(folder_task(flat)).fingerprint == both.fingerprint, "the two are packed apart"
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    shutil.copy(flat / "c12/0.png", flat / "c12/1.png")
    with pytest.raises(
        UserError, match=r"c12 of .* has, without its broken files and those that are there twice, 1 im"
    ):
        folder_task(flat, skip_twice=True).notes()
    assert len(drawn_classes(folder_task(flat, skip_twice=True, min_images=2, way=4), "test")) >= 4


def test_empty_and_hidden_folders_are_said(flat: Path) -> None:
    (flat / "empty").mkdir()
    (flat / "group/as good as empty").mkdir(parents=True)
    (flat / "group/as good as empty/Thumbs.db").write_bytes(b"junk")
    fill(flat / ".hidden", seed=90)
    fill(flat / "c00/.also", seed=91)
    (flat / "c00/.DS_Store").write_bytes(b"junk")
    notes = folder_task(flat).notes()
    assert "empty folders, which are not classes (2): empty, group/as good as empty" in notes
    assert "hidden folders, which are not read (2): .hidden, c00/.also" in notes
    assert len(folder_task(flat)._names) == 15


def test_a_name_that_is_not_text_can_be_said(flat: Path) -> None:
    (Path(os.fsdecode(os.fsencode(flat) + b"/c00/\xff.png"))).write_bytes(b"")
    assert "c00/\\udcff.png is empty" in refusal(flat)


# Which classes are whose


def drawn_classes(task: ImageFolder, split: Any) -> set[str]:
    draw = task.draw(300, split, generator(split))
    images = torch.cat([draw["support_image"], draw["query_image"]], dim=1).unique()
    of = torch.searchsorted(images_of(task).start, images, right=True) - 1
    return {images_of(task).names[c] for c in of.tolist()}


def test_each_split_draws_its_own_classes(flat: Path) -> None:
    (flat / "c04/1.png").rename(flat / "c04/7.png")
    fill(flat / "c15", 5, seed=15)
    for keys in ({}, {"split_seed": 1}, {"train_splits": ("train", "val")}, {"val_share": 0, "test_share": 0.4}):
        task = folder_task(flat, **keys)
        drawn = {split: drawn_classes(task, split) for split in task.splits}
        assert sum(map(len, drawn.values())) == 16, "all classes, each in one split"
        assert set.union(*drawn.values()) == {f"c{c:02}" for c in range(16)}
        for split, names in drawn.items():
            assert {Path(name).name for name in task.identities(split)} == names
    assert "val" not in drawn
    assert len(drawn["test"]) == 6


def test_the_split_is_of_the_classes_and_the_seed_alone(flat: Path) -> None:
    base = folder_task(flat)
    other = folder_task(flat, way=2, shot=1, train_way=3, size=32)
    assert base.identities("test") == other.identities("test")
    assert base.identities("test") != folder_task(flat, split_seed=1).identities("test")
    assert {split: len(base.identities(split)) for split in base.splits} == {"train": 5, "val": 5, "test": 5}


@pytest.mark.parametrize(
    ("classes", "keys", "sizes"),
    [
        (10, {"way": 2}, (6, 2, 2)),
        (14, {"way": 2}, (8, 3, 3)),
        (16, {}, (6, 5, 5)),
        (40, {}, (24, 8, 8)),
        (20, {"val_share": 0.1, "way": 2}, (13, 2, 5)),
        (10, {"val_share": 0, "way": 2}, (8, 0, 2)),
    ],
)
def test_shares(tmp_path: Path, classes: int, keys: dict[str, Any], sizes: tuple[int, ...]) -> None:
    for c in range(classes):
        fill(tmp_path / "root" / str(c), seed=c)
    parts = folder_task(tmp_path / "root", **keys)._parts.classes
    assert tuple(len(parts.get(split, [])) for split in ("train", "val", "test")) == sizes


def test_nested_folders_are_groups(tmp_path: Path) -> None:
    for group in range(3):
        for c in range(5):
            fill(tmp_path / "root" / f"g{group}" / f"c{c}", seed=10 * group + c)
    task = folder_task(tmp_path / "root", way=2, within_group=True, val_share=0, test_share=0.4)
    assert set(task._names) == {f"g{group}/c{c}" for group in range(3) for c in range(5)}
    draw = task.draw(200, "train", generator(0))
    names = [[images_of(task).names[i // 2][:2] for i in row] for row in draw["support_image"].tolist()]
    assert all(len(set(row)) == 1 for row in names)
    assert len({row[0] for row in names}) == 3
    for c in range(8):
        fill(tmp_path / "flat" / f"b{c}", seed=c)
    with pytest.raises(UserError, match="classes in groups"):
        folder_task(tmp_path / "flat", way=2, within_group=True)


@pytest.mark.row("C5")
def test_a_split_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for split, classes in (("train", "abcdef"), ("test", "ghijk")):
        for c in classes:
            fill(root / split / c, seed=ord(c))
    task = folder_task(root)
    assert task.splits == ("train", "test")
    assert drawn_classes(task, "test") == {f"test/{c}" for c in "ghijk"}
    assert task._groups is None, "train and test are not groups"
    assert "5 test, the folder's own train/ and test/" in task.notes()[0]
    for c in "lmnop":
        fill(root / "val/group" / c, seed=ord(c))
    assert folder_task(root).splits == ("train", "val", "test")
    assert folder_task(root)._groups is not None
    with pytest.raises(
        UserError, match=r"task\.val_share=0\.3 is for a split at random, and here the split is the folder's own"
    ):
        folder_task(root, val_share=0.3)
    fill(root / "test/a", seed=99)
    with pytest.raises(UserError, match=r"class a of .* is in train and in test: a class is in one split, once"):
        folder_task(root)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("train/a", "valid/b"), " has train/: a split of its own is train/, test/ and, if there is one, val/"),
        (("train/a", "test/b", "valid/c"), " has train/, test/ beside valid: "),
        (("train/a", "test/b", "c"), " has train/, test/ beside c: "),
    ],
)
@pytest.mark.row("C5")
def test_half_a_split_is_a_sentence(tmp_path: Path, folders: tuple[str, ...], sentence: str) -> None:
    for number, folder in enumerate(folders):
        fill(tmp_path / "root" / folder, seed=number)
    assert sentence in refusal(tmp_path / "root", way=2)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "bus", "ship", "car", "tram", "bike")):
        fill(tmp_path / "root" / name, seed=number)
    assert len(folder_task(tmp_path / "root", way=2)._names) == 6


@pytest.mark.row("C5")
def test_lists(flat: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    names = {"train": ["c00", "c14", "c03", "c07", "c09"], "test": ["c05", "c06", "c02", "c01", "c04"]}
    for split, part in names.items():
        (lists / f"{split}.txt").write_text("\n".join(part) + "\n\n")
    task = folder_task(flat, split_lists=str(lists))
    assert {split: drawn_classes(task, split) for split in task.splits} == {s: set(part) for s, part in names.items()}
    assert "in no list, and left out (5): c08, c10, c11, c12, c13" in task.notes()
    (flat / "c08/0.png").write_bytes(b"")  # of a class that is not used
    assert folder_task(flat, split_lists=str(lists)).fingerprint == task.fingerprint

    def refused(split: str, text: str) -> str:
        before = (lists / f"{split}.txt").read_text() if (lists / f"{split}.txt").exists() else ""
        (lists / f"{split}.txt").write_text(text)
        with pytest.raises(UserError) as caught:
            folder_task(flat, split_lists=str(lists))
        (lists / f"{split}.txt").write_text(before)
        return str(caught.value)

    assert f"lists c0x, which is not a class of task.root={flat}: did you mean c" in refused("val", "c08\nc0x\n")
    assert "/lists is in train and in val: a class is in one split, once" in refused("val", "c14\n")
    assert "is more than the 1 classes of the test split" in refused("test", "c05\n")
    (lists / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt cannot be read as a list of classes"):
        folder_task(flat, split_lists=str(lists))


# Too few, too many


@pytest.mark.row("C4")
def test_a_class_with_too_few_images_is_named_with_what_would_be_right(flat: Path) -> None:
    fill(flat / "small", 3, seed=70)
    for c in range(15):
        for i in range(2, 6):
            picture(100 * c + i).save(flat / f"c{c:02}/{i}.png")
    sentence = refusal(flat, query=4, val_share=0, split_seed=1)
    assert sentence.startswith("class small of the ")
    assert (
        "split has 3 images, and task.shot=1 with task.query=4 asks for 5: give task.query=2, or task.min_images=5, "
        "which leaves out all classes with fewer, or more images (1 of 16 classes have too few)"
    ) in sentence
    task = folder_task(flat, query=4, min_images=5)
    assert "small" not in task._names
    assert "task.min_images=5 leaves out (1): small" in task.notes()
    assert folder_task(flat, query=2).fingerprint != task.fingerprint
    with pytest.raises(UserError, match=r"task\.min_images=99 leaves no class of .*: give 6 at most"):
        folder_task(flat, min_images=99)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"way": 6},
            "task.way=6 is more than the 5 classes of the test split (5 train, 5 val, 5 test, by split_seed=0)",
        ),
        ({"train_way": 9}, "task.train_way=9 is more than the 5 classes of the train split (5 train"),
        (
            {"shot": 3},
            "split has 2 images, and task.shot=3 with task.query=1 asks for 4: give more images (10 of 10 ",
        ),
        ({"train_query": 7}, "task.shot=1 with task.train_query=7 asks for 8: give task.train_query=1, or"),
        ({"size": 7}, "task.size=7 must be a whole number of pixels, 8 or above"),
        ({"channels": 4}, "task.channels=4 must be 3 (colours) or 1 (grey)"),
        ({"val_share": 1.5}, "task.val_share=1.5 must be a share, 0 or above and below 1"),
        ({"test_share": float("nan")}, "task.test_share=nan must be a share"),
        ({"val_share": 0.5, "test_share": 0.5}, "task.test_share=0.5 and task.val_share=0.5 must be shares"),
        ({"test_share": 0.05}, "the 15 classes of task.root="),
    ],
)
@pytest.mark.row("C4")
def test_an_impossible_request_is_a_sentence(flat: Path, keys: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(flat, **keys)


@pytest.mark.row("C4")
@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_too_few_classes_are_told_how_many_would_do(tmp_path: Path, classes: int) -> None:
    for c in range(classes):
        fill(tmp_path / "root" / str(c), seed=c)
    sentence = refusal(tmp_path / "root", query=3)
    assert sentence.startswith(
        f"the {classes} classes of task.root={tmp_path / 'root'} are too few for a split at random, which needs 15 for "
        "tasks of 5 classes; 6 for tasks of 2 classes (task.way=2), or 4 with task.val_share=0 select=last: give more "
        "classes; class 0 has 2 images, and task.shot=1 with task.query=3 asks for 4: give task.query=1, or more"
    ), "all that is wrong at once"


@pytest.mark.parametrize(
    ("keys", "least"),
    [
        ({"way": 5}, 15),
        ({"way": 2}, 6),
        ({"way": 2, "val_share": 0}, 4),
        ({"way": 2, "val_share": 0, "test_share": 0.4}, 4),
        ({"way": 2, "train_way": 7}, 11),
        ({"way": 8, "rotations": Rotations.as_classes}, 6),
        ({"way": 3, "test_share": 0.1}, 26),
    ],
)
def test_as_many_classes_as_the_advice_says_will_do_and_one_less_will_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], least: int
) -> None:
    def listed(classes: int) -> Contents:
        return Contents({str(c): [File(f"{c}/{i}.png", 9, 9) for i in range(2)] for c in range(classes)}, [], {})

    monkeypatch.setattr(task_module, "find_classes", lambda *_, **__: listed(least))
    task = folder_task(tmp_path, **keys)
    task.check_split("test")
    if "val" in task.splits:
        task.check_split("val")
    assert task._shares.least(task.episodes.least_classes) == least
    monkeypatch.setattr(task_module, "find_classes", lambda *_, **__: listed(least - 1))
    with pytest.raises(UserError, match=rf"needs {least} for|\({least} in all are enough\)"):
        folder_task(tmp_path, **keys).check_split("val")


# The packed set


def test_a_changed_folder_is_packed_again_and_a_moved_one_is_not(flat: Path, tmp_path: Path) -> None:
    def packs() -> int:
        return len(list((tmp_path / "cache").glob("*.safetensors")))

    before = folder_task(flat).fingerprint
    moved = flat.rename(tmp_path / "moved")
    assert (folder_task(moved).fingerprint, packs()) == (before, 1)
    assert folder_task(moved, resize=Resize.pad).fingerprint == before, "the images are square"
    assert packs() == 2
    path = moved / "c00/0.bmp"
    picture(1).save(path)
    first, size = folder_task(moved).fingerprint, path.stat().st_size
    picture(2).save(path)
    os.utime(path, ns=(0, 1))  # a later time, however coarse the clock of this file system is
    assert path.stat().st_size == size
    assert folder_task(moved).fingerprint != first, "another content of the same size"
    assert packs() == 4
    picture(1).save(moved / "c00/9.png")
    assert folder_task(moved).fingerprint
    assert packs() == 5


def test_the_packed_file_is_that_of_the_first_release(own_images: Path, tmp_path: Path) -> None:
    """Its hash from when all pixels were in memory first: none is resized, so that Pillow's version changes nothing."""
    folder_task(own_images).notes()
    (path,) = (tmp_path / "cache").glob("*.safetensors")
    assert path.name.endswith(".d76a3855dd3ff9ea.safetensors")
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == "db15432ef10bda3a"
    root = Path(shutil.copytree(own_images, tmp_path / "own"))
    (root / "class03/7.png").write_bytes(b"")
    (root / "class04/8.png").write_bytes((root / "class05/10.png").read_bytes())
    contents = find_classes(str(root))
    packed = pack_folder(str(root), contents, sorted(contents.classes), Preparation(16, 3, Resize.crop), True, False)
    assert packed.images.fingerprint.startswith("d271dfa08dda509c")
    assert packed.images.count.tolist() == [2, 2, 2, 1, *[2] * 11]
    assert packed.noted.twice == (("class04/8.png", "class05/10.png"),)


def test_packing_holds_no_more_than_some_images_in_memory(tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
from PIL import Image
from metalearn_cli.datasets.pictures import Preparation, Resize
from metalearn_cli.datasets.image_folder import find_classes, pack_folder
from metalearn_cli.system.measure import begin_peak, peak_memory

root = Path(sys.argv[2])
for number in range(512):
    path = root / str(number % 2) / f"{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (256, 256), (number % 256, number // 256, 0)).save(path, compress_level=1)
found = find_classes(str(root))
before = begin_peak(torch.device("cpu"))
images = pack_folder(str(root), found, ["0", "1"], Preparation(256, 3, Resize.crop), False, False).images
print((peak_memory(torch.device("cpu")) - before) / images.pixels.numel())
"""
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5


def test_a_full_disk_is_a_sentence_and_leaves_nothing(flat: Path, tmp_path: Path) -> None:
    def pack() -> None:
        task = folder_task(flat)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))  # of 30 images of 768 bytes
        with pytest.raises(UserError, match=r"cache cannot be written \(File too large\): make room there"):
            task.notes()

    assert in_a_fork(pack) == 0
    assert not list((tmp_path / "cache").glob("*"))


def test_a_lost_report_is_a_sentence(flat: Path, tmp_path: Path) -> None:
    _ = folder_task(flat).fingerprint
    (report,) = (tmp_path / "cache").glob("*.json")
    report.write_text("{")
    with pytest.raises(UserError, match="delete the packed set beside it"):
        _ = folder_task(flat).fingerprint


def test_pixels_are_those_of_the_files_in_their_order(flat: Path) -> None:
    images = images_of(folder_task(flat, channels=1, resize=Resize.stretch))
    assert images.pixels.shape == (30, 1, 16, 16)
    for position, path in enumerate(sorted(flat.glob("*/*.png"))):
        assert torch.equal(images.pixels[position], decode(path, 16, 1, Resize.stretch))
    with pytest.raises(Broken):
        decode(flat / "c00", 16, 1, Resize.crop)


# The command

QUICK = ["algo=protonet", "task=image_folder", "model.filters=2", "debug=quick", "steps=2", "other_batch_norm=[]"]
QUICK += ["task.query=1", "task.size=16", "threads=1"]


@pytest.mark.row("C8")
def test_the_command_names_what_is_wrong_before_there_is_a_run(flat: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert "task.root has no value: give task.root=..." in run(here, "train", *QUICK).err
    (flat / "c00/0.png").write_bytes(b"")
    refused = run(here, "train", *QUICK, f"task.root={flat}", "name=one")
    assert refused.code == 1
    assert "cannot be used: c00/0.png is empty (0 bytes): mend" in refused.err
    assert not (here / "outputs").exists()
    picture(1).save(flat / "c00/2.png")
    done = run(here, "train", *QUICK, f"task.root={flat}", "task.skip_broken=true", "name=one")
    assert done.code == 0, done.err
    assert f"{flat}: 15 classes with 30 images; 5 train, 5 val, 5 test, by split_seed=0" in done.err
    assert "leaves out (1): c00/0.png is empty" in (here / "outputs/one/train.log").read_text()
    classes = read_json(here / "outputs/one/classes.json")
    assert sorted(name for part in classes.values() for name in part) == [f"c{c:02}" for c in range(15)]
    assert classes == {
        split: folder_task(flat, skip_broken=True).class_names(split) for split in ("train", "val", "test")
    }
    # The folder changes: neither does the run go on, nor is it tested on classes that it may have learned.
    fill(flat / "new", seed=80)
    refused = run(here, "train", *QUICK, f"task.root={flat}", "task.skip_broken=true", "name=one", "steps=4")
    assert refused.code == 1
    assert "the data of outputs/one have changed" in refused.err
    for keys in ([], ["task.query=1"], ["task.shot=1"]):
        assert "the data of outputs/one have changed" in run(here, "eval", "run=outputs/one", *keys).err


def test_eval_on_the_same_folder_elsewhere_and_on_another_split(flat: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert run(here, "train", *QUICK, f"task.root={flat}", "name=one").code == 0
    refused = run(here, "eval", "run=outputs/one", "task.split_seed=3")
    assert "classes of this test were trained on by outputs/one" in refused.err
    moved = flat.rename(tmp_path / "moved")
    assert f"task.root={flat} is not a folder" in run(here, "eval", "run=outputs/one").err
    done = run(here, "eval", "run=outputs/one", f"task.root={moved}", "test_episodes=4")
    assert done.code == 0, done.err
    refused = run(here, "eval", "run=outputs/one", f"task.root={moved}", "task.split_seed=3")
    assert "classes of this test were trained on by outputs/one" in refused.err
    # Another folder with classes of the same names is another folder.
    for c in range(15):
        fill(tmp_path / "other" / f"c{c:02}", seed=100 + c)
    moved.rename(flat)
    done = run(here, "eval", "run=outputs/one", f"task.root={tmp_path / 'other'}", "task.split_seed=3")
    assert done.code == 0, done.err
    assert json.loads(next((here / "outputs/one/eval").glob("*/results.json")).read_text())["adapted"] is None
