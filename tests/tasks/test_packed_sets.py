"""`metalearn data list` and `data clean`: what is packed, and what is removed and what is not."""

import errno
import fcntl
import itertools
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from cases import folder_task, unpacked
from cases import main_data as command
from PIL import Image

from metalearn_cli.commands.completion import completions
from metalearn_cli.datasets.image_set import Unpacked
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.errors import UserError


def pack(name: str, seed: int = 0) -> None:
    pixels = torch.full((50, 1, 100, 100), seed, dtype=torch.uint8)
    packed(name, lambda: unpacked(pixels, ("a",), 50))


def not_used_for(cache: Path, name: str, days: float) -> None:
    (path,) = cache.glob(f"{name}.*.safetensors")
    when = time.time_ns() - int(days * 86400e9)
    os.utime(path, ns=(when, path.stat().st_mtime_ns))


def names(cache: Path) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in cache.glob("*.safetensors"))


def test_list_says_what_is_packed_how_large_and_when_it_was_used(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(capsys, "list") == (0, f"0 packed set(s), 0 MB, in {cache}\n", "")
    pack("omniglot-28x28-nearest")
    pack("cifar-fs-32x32")
    not_used_for(cache, "cifar-fs-32x32", 0)
    path = next(cache.glob("cifar-fs*"))
    os.utime(path, (time.mktime((2026, 3, 4, 12, 0, 0, 0, 0, -1)), path.stat().st_mtime))
    today = time.strftime("%Y-%m-%d")
    code, out, err = command(capsys, "list")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "cifar-fs-32x32           0.5 MB  used 2026-03-04  CIFAR-FS, FC100",
        f"omniglot-28x28-nearest   0.5 MB  used {today}  Omniglot",
        f"2 packed set(s), 1 MB, in {cache}",
    ]
    noon = time.mktime((2026, 5, 6, 12, 0, 0, 0, 0, -1))
    monkeypatch.setattr(time, "time_ns", lambda: int(noon * 1e9))
    pack("cifar-fs-32x32")  # a run opens it
    assert "cifar-fs-32x32           0.5 MB  used 2026-05-06" in command(capsys, "list")[1]


def test_a_changed_folder_is_seen_by_list_and_by_the_next_run(
    cache: Path, tmp_path: Path, own_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(own_images, tmp_path / "own"))
    assert not [note for note in folder_task(root).notes() if "packed before" in note]
    other = [note for note in folder_task(root, val_share=0, test_share=0.4).notes() if "packed before" in note]
    assert not other, "the same classes"
    (line, _) = command(capsys, "list")[1].splitlines()
    assert line.endswith(f"  {root}")
    Image.new("RGB", (16, 16)).save(root / "class03/new.png")
    (old,) = names(cache)
    assert command(capsys, "list")[1].splitlines()[0].endswith(f"  {root}, which has changed since")
    (note,) = [note for note in folder_task(root).notes() if "packed before" in note]
    assert note == (f"packed before {root} changed, and still there (1): {old}; metalearn data clean NAME removes one")
    assert len(names(cache)) == 2
    code, out, err = command(capsys, "clean", old)
    assert (code, err) == (0, "")
    assert out.startswith("removed 1 packed set(s), 0.0")
    assert out.endswith(f" MB: {old}\n")
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".safetensors"]
    assert not [note for note in folder_task(root).notes() if "packed before" in note]
    (note,) = cache.glob("*.json")
    of_a_killed_process = cache / note.name.replace(note.stem.rpartition("-")[2], "0" * 16)
    of_a_killed_process.write_text(note.read_text())
    assert not [note for note in folder_task(root).notes() if "packed before" in note]
    of_a_killed_process.unlink()
    shutil.rmtree(root / "class03")
    assert command(capsys, "list")[1].splitlines()[0].endswith(", which has changed since")
    shutil.rmtree(root)
    assert command(capsys, "list")[1].splitlines()[0].endswith(f"  {root}, which is gone")
    next(cache.glob("*.json")).write_text('{"broken": {}, "twice": []}')
    assert command(capsys, "list")[1].splitlines()[0].endswith("  a folder that was not noted")


def test_clean_removes_what_is_named_or_was_not_used(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("omniglot-28x28-nearest", "omniglot-28x28-lanczos", "cifar-fs-32x32", "mini-imagenet-84x84-1"):
        pack(name)
    not_used_for(cache, "cifar-fs-32x32", 31)
    not_used_for(cache, "mini-imagenet-84x84-1", 29)
    (cache / "cub-84x84.part-1-ab").write_bytes(bytes(1_000_000))
    assert command(capsys, "clean", "unused=30") == (
        0,
        "removed 2 packed set(s), 1.5 MB: cifar-fs-32x32, cub-84x84.part-1-ab\n",
        "",
    )
    assert command(capsys, "clean", "unused=30")[1] == "removed 0 packed set(s), 0 MB\n"
    assert completions(["data", "clean", "omn"]) == ["omniglot-28x28-lanczos ", "omniglot-28x28-nearest "]
    assert "unused=" in completions(["data", "clean", ""])
    assert "removed 2 packed set(s), 1 MB" in command(capsys, "clean", "omniglot")[1]
    assert names(cache) == ["mini-imagenet-84x84-1"]
    assert command(capsys, "clean", "mini-imagenet-84x84-1")[0] == 0
    assert list(cache.iterdir()) == []


def test_a_set_that_a_process_uses_is_kept(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack("one")
    pack("two")
    for name in ("one", "two"):
        not_used_for(cache, name, 100)
    told, tell = os.pipe()
    wait, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        images = packed("one", lambda: pytest.fail("read once more"))
        os.write(tell, b".")
        os.close(end)
        os.read(wait, 1)
        os._exit(0 if images.pixels.sum() == 0 else 1)
    os.read(told, 1)
    not_used_for(cache, "one", 100)  # it has run for long
    refused = (1, "removed 0 packed set(s), 0 MB\n", "metalearn: in use by a running process, and kept: one\n")
    assert command(capsys, "clean", "one") == refused
    code, out, err = command(capsys, "clean", "unused=30")
    assert (code, out) == (1, "removed 1 packed set(s), 0.5 MB: two\n")
    assert err == refused[2]
    os.write(end, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert command(capsys, "clean", "one")[0] == 0
    assert names(cache) == []


def test_what_is_being_packed_is_kept(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While one process packs, another cleans: neither what is half there nor the lock may go."""

    def read() -> Unpacked:
        (cache / "one.part-1-ab").write_bytes(bytes(9))
        assert command(capsys, "clean", "unused=0") == (0, "removed 0 packed set(s), 0 MB\n", "")
        assert {path.name for path in cache.iterdir()} == {"one.lock", "one.part-1-ab"}
        return unpacked(torch.zeros(1, 1, 9, 9, dtype=torch.uint8), ("a",), 1)

    packed("one", read)
    assert command(capsys, "clean", "unused=9")[1].endswith("one.part-1-ab\n"), "nobody packs any more"
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_what_is_decoded_and_not_packed_is_listed_and_removed(
    cache: Path, tmp_path: Path, own_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(own_images, tmp_path / "own"))
    (root / "class03/7.png").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be used"):
        folder_task(root).notes()
    line, total = command(capsys, "list")[1].splitlines()
    assert line.startswith("decoded-16x16x3-crop-")
    assert line.endswith(f"  {root}, decoded and not packed yet")
    assert total == f"0 packed set(s), 0.0223 MB, in {cache}"
    assert command(capsys, "clean", "unused=1")[1] == "removed 0 packed set(s), 0 MB\n"
    assert command(capsys, "clean", line.split()[0])[0] == 0
    assert not list(cache.iterdir())


def test_packing_says_every_ten_seconds_how_far_it_is(
    cache: Path, own_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no terminal. The clock is the test's: each look at it is six seconds after the one before."""
    looks = itertools.count(0, 6)
    monkeypatch.setattr(time, "monotonic", lambda: next(looks))
    folder_task(own_images).notes()
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if re.fullmatch(r"reading images \d+/30  done  [\d.]+/s  \d+:\d\d left", line)]
    assert len(told) > 7


def test_a_folder_of_ones_own_is_packed_alone(
    cache: Path, tmp_path: Path, own_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(own_images, tmp_path / "own, [1]"))
    keys = [f"task.root={root}", "size=16", "task.query=1"]
    code, out, err = command(capsys, "prepare", "image_folder", *keys)
    (path,) = cache.glob("*.safetensors")
    task = folder_task(root)
    assert code == 0
    assert out == f"{root} is ready: 15 classes, 30 images, fingerprint {task.fingerprint}, in {path}\n"
    assert f"{root}: 15 classes with 30 images; 5 train, 5 val, 5 test" in err
    assert len(list(cache.glob("*.safetensors"))) == 1, "it is what a run uses"
    for words, sentence in (
        (
            ["prepare", "image_folder", *keys, "sise=3"],
            "takes the keys of the task, not sise=3: did you mean task.size?",
        ),
        (["prepare", "image_folder", *keys, "steps=3"], "takes the keys of the task, not steps=3"),
        (["prepare", "image_folder"], "task.root has no value"),
        (["verify", "image_folder"], "data prepare image_folder task.root=DIR packs one"),
    ):
        code, out, err = command(capsys, *words)
        assert (code, out) == (1, "")
        assert sentence in err
    assert "task.labels=" in completions(["data", "prepare", "image_folder", "task.la"])
    assert "image_folder " in completions(["data", "prepare", "im"])
    assert not completions(["data", "verify", "im"])


def test_mistakes_are_sentences(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(capsys, "clean", "unused=3") == (0, f"nothing is packed in {cache}\n", "")
    pack("cifar-fs-32x32")
    for words, sentence in (
        (["cifar-fs-32x3"], "there is no packed set cifar-fs-32x3: did you mean cifar-fs-32x32?"),
        (["unused=soon"], "unused=soon must be a whole number of days, e.g. unused=30"),
        (
            ["unused=3", "cifar_fs"],
            "data clean needs the names of packed sets, or unused=DAYS: see metalearn data list",
        ),
    ):
        assert command(capsys, "clean", *words) == (1, "", f"metalearn: {sentence}\n")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    code, _, err = command(capsys, "clean", "cifar_fs")
    assert code == 1
    assert "cannot lock files, which would tell what is in use" in err
    assert names(cache) == ["cifar-fs-32x32"]
