import os
import random
import stat
from pathlib import Path

import pytest
import torch

from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.system import files

TENSORS = {"params.a": torch.arange(6.0).view(2, 3), "optimizer.a.step": torch.tensor(3.0)}


def save(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, step, TENSORS, {"best": None, "to_validate": False}) for step in steps]


def test_what_was_saved_is_loaded_and_equal_states_are_equal_files(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) == (None, [])
    (path,) = save(tmp_path, 7)
    loaded = checkpoint.load_checkpoint(path)
    assert loaded.step == 7
    assert loaded.record["best"] is None
    assert all(torch.equal(loaded.tensors[name], value) for name, value in TENSORS.items())
    (tmp_path / "again").mkdir()
    assert save(tmp_path / "again", 7)[0].read_bytes() == path.read_bytes()
    assert path.name.startswith("step-00000007-")


@pytest.mark.row("A13")
def test_every_damage_is_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1, 2)
    good = new.read_bytes()
    rng = random.Random(0)
    damages = [b"", b"garbage", good[:-1], good + b"x", good[: len(good) // 2], old.read_bytes()]
    for _ in range(200):
        flipped = bytearray(good)
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        damages.append(bytes(flipped))
    for damage in damages:
        new.write_bytes(damage)
        newest, (skipped,) = checkpoint.load_newest(tmp_path)
        assert newest is not None
        assert newest.step == 1
        assert new.name in skipped
    new.unlink()
    new.mkdir()
    newest, _ = checkpoint.load_newest(tmp_path)
    assert newest is not None
    assert newest.step == 1
    old.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.row("A13")
def test_a_newer_format_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    (path,) = save(tmp_path, 1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 2"):
        checkpoint.load_checkpoint(path)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 10)
    checkpoint.prune(tmp_path, keep=2, best_step=2)
    assert [checkpoint.step_of(path) for path in checkpoint.list_newest_first(tmp_path)] == [10, 4, 2]


def test_of_a_step_that_was_saved_twice_one_file_stays(tmp_path: Path) -> None:
    """The process was killed when it had written the second one, and before it removed the first."""
    (tmp_path / "other").mkdir()
    other = checkpoint.save(tmp_path / "other", 4, TENSORS, {"best": None, "to_validate": True})
    save(tmp_path, 3, 4)
    other.rename(tmp_path / other.name)
    checkpoint.prune(tmp_path, keep=3, best_step=4)
    assert [checkpoint.step_of(path) for path in checkpoint.list_newest_first(tmp_path)] == [4, 3]


@pytest.mark.row("A7")
def test_the_file_is_durable_before_it_gets_its_name_and_the_name_before_we_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        events.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    files.write_durably(tmp_path / "file", b"content")
    assert events == ["fsync file", "rename", "fsync folder"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_durably(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_durably(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]
