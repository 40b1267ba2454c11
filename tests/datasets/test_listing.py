"""A folder of one's own whose classes stand in a table or in the names of its files."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cases import folder_task
from commands import run
from PIL import Image

from metalearn_cli.datasets import paths
from metalearn_cli.datasets.listing import compile_pattern
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.packed_sets import list_packed

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def flat(own_images: Path, tmp_path: Path) -> Path:
    """The 15 classes of two images in one folder: flat/class03_7.png."""
    (tmp_path / "flat").mkdir()
    for path in own_images.glob("*/*.png"):
        shutil.copy(path, tmp_path / "flat" / f"{path.parent.name}_{path.name}")
    return tmp_path / "flat"


def table(path: Path, rows: list[tuple[str, str]], header: str = "path,label") -> Path:
    path.write_text("\n".join([header, *(f"{name},{label}" for name, label in rows)]) + "\n")
    return path


def rows_of(flat: Path) -> list[tuple[str, str]]:
    return [(path.name, path.name.partition("_")[0]) for path in sorted(flat.glob("*.png"), reverse=True)]


def test_a_table_and_a_pattern_give_what_folders_give(own_images: Path, flat: Path, tmp_path: Path) -> None:
    by_folders = folder_task(own_images)
    labels = table(tmp_path / "labels.csv", rows_of(flat))
    for keys in ({"labels": str(labels)}, {"pattern": "{class}_*"}, {"pattern": "{class}_#.png"}):
        task = folder_task(flat, **keys)
        assert task.fingerprint == by_folders.fingerprint, "classes, their order and all pixels"
        assert {Path(name).name for name in task.identities("test")} == {
            Path(name).name for name in by_folders.identities("test")
        }
        assert not [note for note in task.notes() if "left out" in note or "packed before" in note]


def test_other_columns_as_of_hasy(flat: Path) -> None:
    """Its table stands in the folder itself, and has more columns: path,symbol_id,latex,user_id."""
    (flat / "hasy-data").mkdir()
    for path in flat.glob("*.png"):
        path.rename(flat / "hasy-data" / path.name)
    rows = [(f"hasy-data/{name}", f"7,\\{name[:7]},16") for name, _ in rows_of(flat / "hasy-data")]
    labels = table(flat / "hasy-data-labels.csv", rows, "path,symbol_id,latex,user_id")
    task = folder_task(flat, labels=str(labels), label_columns=("path", "latex"))
    assert task._names == [f"\\class{c:02}" for c in range(15)]
    assert not [note for note in task.notes() if "suffix" in note], "the table is not an image that was passed over"
    with pytest.raises(UserError, match=r"has no column label \(task.label_columns\)"):
        folder_task(flat, labels=str(labels))


def test_a_label_with_a_slash_is_a_class_in_a_group_or_a_split(flat: Path, tmp_path: Path) -> None:
    rows = [(name, f"g{int(label[5:]) % 2}/{label}") for name, label in rows_of(flat)]
    task = folder_task(flat, labels=str(table(tmp_path / "a.csv", rows)), within_group=True, way=2, val_share=0)
    assert task._groups is not None
    rows = [(name, f"{'train' if label < 'class09' else 'test'}/{label}") for name, label in rows_of(flat)]
    task = folder_task(flat, labels=str(table(tmp_path / "b.csv", rows)))
    assert (task.splits, len(task.identities("test"))) == (("train", "test"), 6)


def test_what_no_row_names_is_said_and_what_is_not_there_is_refused(flat: Path, tmp_path: Path) -> None:
    rows = rows_of(flat)
    labels = table(tmp_path / "labels.csv", [row for row in rows if row[1] != "class09"])
    task = folder_task(flat, labels=str(labels), way=3)
    assert f"in no row of {labels}, and left out (2): class09_18.png, class09_19.png" in task.notes()
    (flat / "notes.txt").write_text("")
    labels = table(tmp_path / "more.csv", [*rows, ("gone.png", "class03"), ("notes.txt", "class04")])
    with pytest.raises(UserError, match=r"gone.png is not there; notes.txt is not an image by its suffix: mend or"):
        _ = folder_task(flat, labels=str(labels)).fingerprint
    assert folder_task(flat, labels=str(labels), skip_broken=True).packed.images.count.tolist() == [2] * 15
    labels = table(tmp_path / "deep.csv", [(f"images/{name}", label) for name, label in rows])
    with pytest.raises(
        UserError, match=r"none of the 30 files that .* e.g. images/class00_0.png is not there: give the"
    ):
        folder_task(flat, labels=str(labels))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (("../secret.png", "a"), "line 32 names ../secret.png, which leads out of task.root="),
        (("/etc/a.png", "a"), "line 32 names /etc/a.png, which leads out of task.root="),
        (("x/../../a.png", "a"), "line 32 names x/../../a.png, which leads out of task.root="),
        (("./class00_0.png", "b"), "line 32 gives ./class00_0.png the label b, and an earlier row class00"),
        (("", "b"), "line 32 has nothing in column path"),
        (("class00_0.png", ""), "line 32 has nothing in column label"),
    ],
)
@pytest.mark.row("C6")
def test_a_row_that_leads_astray_is_a_sentence(flat: Path, tmp_path: Path, row: tuple[str, str], sentence: str) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "secret.png")
    labels = table(tmp_path / "labels.csv", [*rows_of(flat), row])
    with pytest.raises(UserError, match=re.escape(sentence)):
        folder_task(flat, labels=str(labels))


def test_a_table_is_a_plain_file_of_limited_size(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, sentence in (
        ("fifo", "cannot be read (it is not a plain file)"),
        ("flat", "cannot be read (it is not a plain file)"),
        ("nowhere.csv", "cannot be read (No such file or directory)"),
    ):
        with pytest.raises(UserError, match=re.escape(f"{tmp_path / path} {sentence}")):
            folder_task(flat, labels=str(tmp_path / path))
    labels = table(tmp_path / "labels.csv", rows_of(flat))
    monkeypatch.setattr(paths, "MOST_BYTES", labels.stat().st_size - 1)
    with pytest.raises(UserError, match="MB, and at most"):
        folder_task(flat, labels=str(labels))


@pytest.mark.parametrize(
    ("pattern", "name", "label"),
    [
        ("{class}_*", "cat_12_a.png", "cat"),
        ("{class}_#.png", "new_york_12.png", "new_york"),
        ("{class}#.png", "cat12.png", "cat"),
        ("{class}#.png", "a1b22.png", "a1b"),
        ("*_{class}.png", "a_b_c.png", "b_c"),
        ("*_{class}_*", "w1_alpha_7.png", "alpha"),
        ("#-{class}?.*", "0042-omega1.tif", "omega"),
        ("{class}", "cat.png", "cat.png"),
        ("*{class}.png", "x.png", "x"),
        ("*/{class}-*", "part1/cat-1.png", "cat"),
        ("*/{class}-*", "cat-1.png", None),
        ("{class}/*/*.png", "cat/part/1.png", "cat"),
        ("{class}_*", "_1.png", None),
        ("{class}_*", "cat.png", None),
        ("{class}_#.png", "cat_.png", None),
        ("{class}.[ab](c)+", "cat.[ab](c)+", "cat"),
        ("{class}_*", "a\nb_1.png", "a\nb"),
        ("{class}_*x", "a_x", "a"),
    ],
)
def test_patterns(pattern: str, name: str, label: str | None) -> None:
    match = compile_pattern(pattern).match(name)
    assert (match and match["label"]) == label


def test_a_pattern_takes_time_in_the_length_of_a_name() -> None:
    """A search that goes back would take 250^60 steps here, and never end."""
    for pattern in (
        "*a" * 60 + "{class}b",
        "{class}" + "a*" * 60 + "b",
        "*#a" * 40 + "{class}b",
        "#1" * 60 + "{class}b",
    ):
        assert compile_pattern(pattern).match("a" * 250) is None
        assert compile_pattern(pattern).match("1" * 250) is None
        assert compile_pattern(pattern).match("1a" * 125) is None


def test_a_pattern_names_classes_in_their_folders_and_the_rest(flat: Path) -> None:
    for split, part in (("train", "class0"), ("test", "class1")):
        (flat / split).mkdir()
        for path in flat.glob(f"{part}*.png"):
            path.rename(flat / split / path.name)
    Image.new("RGB", (16, 16)).save(flat / "train/odd.png")
    (flat / "test/class11_99.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"1 of the files .* test/class11_99.png cannot be read \(No such file"):
        _ = folder_task(flat, pattern="{class}_*").fingerprint
    task = folder_task(flat, pattern="{class}_*", skip_broken=True)
    assert (task.splits, len(task.identities("test"))) == (("train", "test"), 5)
    assert "not as task.pattern={class}_* says, and left out (1): train/odd.png" in task.notes()
    assert folder_task(flat, pattern="*/{class}_*", skip_broken=True).splits == ("train", "val", "test")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"pattern": "*_*"}, "task.pattern=*_* must have {class} in it once"),
        ({"pattern": "{class}{class}"}, "must have {class} in it once"),
        ({"pattern": "{class}" + "*" * 200}, "at most 200 signs"),
        ({"pattern": "{class}-*"}, "task.pattern={class}-* matches none of the pictures in task.root="),
        ({"labels": "a", "pattern": "b"}, "task.labels=a and task.pattern=b both name classes: give one"),
        ({"label_columns": ("path",)}, "task.label_columns=[path] must be two columns of task.labels"),
        ({}, "unless task.labels=FILE.csv or task.pattern='{class}_*' tells the class of each image"),
    ],
)
def test_mistakes_are_sentences(flat: Path, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        folder_task(flat, **keys)


def test_a_changed_table_is_packed_again_and_said(
    flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = table(tmp_path / "labels.csv", rows_of(flat))
    before = folder_task(flat, labels=str(labels)).fingerprint
    assert folder_task(flat, pattern="{class}_*").fingerprint == before
    list_packed()
    assert capsys.readouterr().out.splitlines()[0].endswith(f"  {flat}")
    rows = [(name, "class00" if label == "class01" else label) for name, label in rows_of(flat)]
    table(labels, rows)
    task = folder_task(flat, labels=str(labels), way=3)
    assert task.fingerprint != before
    assert [note for note in task.notes() if note.startswith(f"packed before {flat} changed, and still there (1): ")]
    capsys.readouterr()
    labels.unlink()
    list_packed()
    assert "which has changed since" in capsys.readouterr().out


def test_the_command_takes_a_pattern_and_a_table_as_they_stand(flat: Path, tmp_path: Path) -> None:
    labels = table(tmp_path / "a [b], 'c'.csv", rows_of(flat), "image_name,image_label")
    command = ["algo=protonet", "task=image_folder", f"task.root={flat}", "task.query=1", "task.size=16", "threads=1"]
    command += ["model.filters=2", "debug=quick", "steps=2", "other_batch_norm=[]"]
    columns = "task.label_columns=[image_name,image_label]"
    for keys in (["task.pattern={class}_#.png"], [f"task.labels={labels}", columns]):
        name = f"name=one{len(keys)}"
        done = run(tmp_path, "train", *command, *keys, name)
        assert done.code == 0, done.err
        assert "15 classes with 30 images; 5 train, 5 val, 5 test" in done.err
        done = run(tmp_path, "train", *command, *keys, name, "steps=3")
        assert done.code == 0, done.err
        done = run(tmp_path, "eval", f"run=outputs/one{len(keys)}", "test_episodes=3")
        assert done.code == 0, done.err
