"""miniImageNet: what is read, what is refused. There are no real data here: the tests make small folders."""

import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import load, picture
from cases import refusal as refusal_of
from PIL import Image
from problems import image_task

from metalearn_cli.datasets.pictures import Resample, as_tensor
from metalearn_cli.seeding import generator
from metalearn_cli.tasks import mini_imagenet
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.mini_imagenet import MiniImageNet

CLASSES = {"train": ("n3", "n1"), "val": ("n2", "n5"), "test": ("n4", "n0")}


@pytest.fixture(autouse=True)
def _counts(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A miniImageNet of two classes a split with 3 images each, and an empty cache."""
    monkeypatch.setattr(mini_imagenet, "CLASSES", {split: len(names) for split, names in CLASSES.items()})
    monkeypatch.setattr(MiniImageNet, "about", MiniImageNet.about._replace(fewest=3))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The layout train/<class>/<image>."""
    root = tmp_path / "folders"
    for split, names in CLASSES.items():
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                picture(10 * int(name[1]) + i, (84, 84)).save(root / split / name / f"{name}_{i}.jpg")
    return root


@pytest.fixture
def tables(folders: Path, tmp_path: Path) -> Path:
    """The same images in the layout images/ with train.csv, val.csv and test.csv."""
    root = tmp_path / "tables"
    (root / "images").mkdir(parents=True)
    for split in CLASSES:
        rows = ["filename,label"]
        for path in sorted(folders.glob(f"{split}/*/*.jpg"), reverse=True):
            shutil.copy(path, root / "images" / path.name)
            rows.append(f"{path.name},{path.parent.name}")
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def flat(tables: Path, tmp_path: Path) -> Path:
    """The same images in the layout train/*.jpg with train.csv (columns image_name and image_label)."""
    for split in CLASSES:
        rows = [f"7,{row}" for row in (tables / f"{split}.csv").read_text().splitlines()[1:]]
        (tmp_path / "flat" / split).mkdir(parents=True)
        (tmp_path / f"flat/{split}.csv").write_text("\n".join(["number,image_name,image_label", *rows]))
        for row in rows:
            shutil.copy(tables / "images" / row.split(",")[1], tmp_path / "flat" / split)
    return tmp_path / "flat"


refusal = partial(refusal_of, mini_imagenet.source)


def test_all_layouts_give_the_same_set(folders: Path, tables: Path, flat: Path) -> None:
    images = load(mini_imagenet.source(str(folders)))
    assert images.names == ("train/n1", "train/n3", "val/n2", "val/n5", "test/n0", "test/n4")
    assert images.pixels.shape == (18, 3, 84, 84)
    assert images.start.tolist() == [0, 3, 6, 9, 12, 15]
    red = Image.open(folders / "train/n3/n3_1.jpg").convert("RGB").split()[0]
    assert bytes(images.pixels[4, 0].flatten().tolist()) == red.tobytes()
    (folders.parent / "cache").rename(folders.parent / "first")
    assert load(mini_imagenet.source(str(tables))).fingerprint == images.fingerprint
    (folders.parent / "cache").rename(folders.parent / "second")
    assert load(mini_imagenet.source(str(flat))).fingerprint == images.fingerprint


def test_a_flat_layout_without_its_tables_is_a_sentence(flat: Path) -> None:
    (flat / "val.csv").unlink()
    assert "n1_0.jpg is not a folder of a class" in refusal(flat)


@pytest.mark.row("C6")
@pytest.mark.parametrize("name", ["../val/n2_0.jpg", "/etc/hostname", "a/../../b.jpg"])
def test_a_table_that_leads_out_of_its_folder_is_refused(flat: Path, tables: Path, name: str) -> None:
    for root in (flat, tables):
        path = root / "train.csv"
        path.write_text(path.read_text().replace("n1_0.jpg", name))
        assert refusal(root).endswith(f"train.csv names {name}, which leads out of the folder that it is about")


def test_other_sizes_and_modes_become_84x84_rgb_as_asked(folders: Path) -> None:
    large, small = picture(1, (200, 100)), picture(2, (50, 60))
    for i, image in enumerate((large, small.convert("L"), small.convert("CMYK"))):
        image.save(folders / f"train/n1/n1_{i}.jpg")
    for resample, how in ((Resample.lanczos, Image.Resampling.LANCZOS), (Resample.box, Image.Resampling.BOX)):
        images = load(mini_imagenet.source(str(folders), resample))
        for i in range(3):
            expected = Image.open(folders / f"train/n1/n1_{i}.jpg").convert("RGB").resize((84, 84), how)
            assert torch.equal(images.pixels[i], as_tensor(expected))


def test_a_changed_folder_is_packed_again_and_a_moved_one_is_not(folders: Path) -> None:
    cache = folders.parent / "cache"
    before = load(mini_imagenet.source(str(folders)))
    moved = folders.rename(folders.parent / "moved")
    assert load(mini_imagenet.source(str(moved))).fingerprint == before.fingerprint
    assert len(list(cache.iterdir())) == 1
    picture(99, (84, 84)).save(moved / "val/n2/n2_0.jpg")
    assert load(mini_imagenet.source(str(moved))).fingerprint != before.fingerprint
    assert len(list(cache.iterdir())) == 2


def test_half_a_layout_is_missing_data(folders: Path, tables: Path) -> None:
    shutil.rmtree(folders / "val")
    assert refusal(folders).startswith(f"miniImageNet is not in {folders}, which needs ")
    (tables / "val.csv").unlink()
    assert refusal(tables).startswith(f"miniImageNet is not in {tables}, which needs ")


@pytest.fixture
def caches(folders: Path, tmp_path: Path) -> Path:
    """The same images as three pickled caches."""
    root = tmp_path / "caches"
    root.mkdir()
    for split, names in CLASSES.items():
        paths = sorted(folders.glob(f"{split}/*/*.jpg"), key=lambda path: path.name[3])  # not by class
        images = np.stack([np.array(Image.open(path).convert("RGB")) for path in paths])
        numbers = {name: [i for i, path in enumerate(paths) if path.parent.name == name] for name in names}
        content = pickle.dumps({"image_data": images, "class_dict": numbers}, 2)
        (root / f"mini-imagenet-cache-{split}.pkl").write_bytes(content)
    return root


def test_pickled_caches_give_the_same_set_as_the_images(folders: Path, caches: Path) -> None:
    images = load(mini_imagenet.source(str(folders)))
    pickled = load(mini_imagenet.source(str(caches), Resample.box))
    assert pickled.names == images.names
    assert torch.equal(pickled.pixels, images.pixels)
    assert pickled.fingerprint == images.fingerprint


@pytest.mark.row("C10")
def test_a_pickled_cache_that_would_run_something_is_refused(caches: Path, tmp_path: Path) -> None:
    payload = f"cos\nsystem\n(S'touch {tmp_path}/ran'\ntR.".encode()
    (caches / "mini-imagenet-cache-val.pkl").write_bytes(payload)
    assert "mini-imagenet-cache-val.pkl is not a cache of images: it would run os.system" in refusal(caches)
    assert not (tmp_path / "ran").exists()
    (caches / "mini-imagenet-cache-val.pkl").unlink()
    assert refusal(caches).startswith(f"miniImageNet is not in {caches}, which needs ")


def test_a_pickled_cache_is_counted_like_a_folder(caches: Path) -> None:
    path = caches / "mini-imagenet-cache-val.pkl"
    content = pickle.loads(path.read_bytes())
    content["class_dict"]["n2"].pop()
    path.write_bytes(pickle.dumps(content))
    assert refusal(caches) == f"class n2 of val in {caches} has 2 images instead of 3"
    content["class_dict"]["n1"] = content["class_dict"].pop("n5")
    content["class_dict"].pop("n2")
    path.write_bytes(pickle.dumps(content))
    assert refusal(caches) == f"class n1 of {caches} is in train and in val: splits share no class"


def test_ravis_split_has_the_papers_sizes() -> None:
    split = mini_imagenet.ravis_split()
    assert [list(split.values()).count(name) for name in ("train", "val", "test")] == [64, 16, 20]
    assert list(split) == sorted(split, key=lambda name: (("train", "val", "test").index(split[name]), name))
    assert len(split) == 100
    assert split["n01532829"] == "train"
    assert split["n01855672"] == "val"
    assert split["n01930112"] == "test"


def test_another_split_than_ravis_is_said_and_packed(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ravis = {name: split for split, names in CLASSES.items() for name in names}
    monkeypatch.setattr(mini_imagenet, "ravis_split", lambda: ravis)
    load(mini_imagenet.source(str(folders)))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(mini_imagenet, "ravis_split", lambda: {**ravis, "n2": "train", "n1": "val"})
    load(mini_imagenet.source(str(folders), Resample.box))
    assert capsys.readouterr().err == (
        f"{folders} does not split miniImageNet as Ravi and Larochelle did (2 of 6 classes, e.g. train/n1): results do "
        "not compare with those of papers that use their split\n"
    )


def test_wrong_counts_name_class_and_count(folders: Path, tables: Path) -> None:
    (folders / "train/n1/n1_2.jpg").unlink()
    assert refusal(folders) == f"class n1 of train in {folders} has 2 images instead of 3"
    shutil.rmtree(folders / "train/n1")
    assert refusal(folders) == f"train in {folders} has 1 classes instead of 2"
    with (tables / "test.csv").open("a") as file:
        file.write("n0_9.jpg,n0\n")
    assert refusal(tables) == f"class n0 of test in {tables} has 4 images instead of 3"


@pytest.mark.row("C5")
def test_a_class_in_two_splits_is_refused(folders: Path, tables: Path) -> None:
    shutil.copytree(folders / "train/n1", folders / "test/n1")
    assert refusal(folders) == f"class n1 of {folders} is in train and in test: splits share no class"
    with (tables / "test.csv").open("a") as file:
        file.write("n1_0.jpg,n1\n")
    assert refusal(tables) == f"class n1 of {tables} is in train and in test: splits share no class"


def test_other_files_among_the_classes_are_named(folders: Path) -> None:
    (folders / "val" / ".DS_Store").write_bytes(b"junk")
    load(mini_imagenet.source(str(folders)))
    shutil.rmtree(folders.parent / "cache")
    (folders / "val" / "n2_7.jpg").touch()
    assert refusal(folders).startswith(f"{folders}/val/n2_7.jpg is not a folder of a class")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (
            "name,class\na.jpg,n2\n",
            "cannot be read as a table with the columns filename and label or image_name and image_label",
        ),
        ("", "has 0 classes instead of 2"),
        ("filename,label\nn2_0.jpg\n", "line 2 of "),
        ("filename,label\n,n2\n", "line 2 of "),
        ("filename,label\nn2_0.jpg,n2\nn2_1.jpg,n2\nn2_0.jpg,n2\n", "lists n2_0.jpg 2 times"),
        ("\0\xff", "cannot be read as a table"),
    ],
)
def test_a_damaged_table_is_a_sentence(tables: Path, table: str, sentence: str) -> None:
    (tables / "val.csv").write_bytes(table.encode("latin-1"))
    assert sentence in refusal(tables)


def test_a_table_that_is_not_a_file_is_a_sentence(flat: Path) -> None:
    (flat / "val.csv").unlink()
    os.mkfifo(flat / "val.csv")
    assert refusal(flat).startswith(f"{flat}/val.csv cannot be read as a table with the columns ")


def test_a_listed_image_that_is_not_there_is_named(tables: Path) -> None:
    (tables / "images/n5_1.jpg").unlink()
    assert refusal(tables) == f"{tables}/images/n5_1.jpg cannot be read (No such file or directory)"


def test_each_split_draws_its_own_images(folders: Path) -> None:
    for train_splits, train in ((("train",), range(6)), (("train", "val"), range(12)), (("val",), range(6, 12))):
        task = image_task(MiniImageNet, way=2, query=1, train_splits=train_splits, root=str(folders))
        expected = {"train": set(train), "val": set(range(6, 12)), "test": set(range(12, 18))}
        assert task.spec == ((3, 84, 84), 2, 2, Categorical(), False, True, len(train) // 3, False, False)
        for split in task.splits:
            draw = task.draw(500, split, generator(split))
            assert set(torch.cat([draw["support_image"], draw["query_image"]]).flatten().tolist()) == expected[split]
        assert ("val" in task.splits) == ("val" not in train_splits)


def test_the_real_numbers_part_100_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_imagenet, "CLASSES", {"train": 64, "val": 16, "test": 20})
    parts = image_task(MiniImageNet, query=1).split_classes
    assert {name: len(part) for name, part in parts.items()} == {"train": 64, "val": 16, "test": 20}
    assert torch.equal(torch.cat(list(parts.values())), torch.arange(100))
