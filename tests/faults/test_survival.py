"""Rows A and B1 to B3 of the fault matrix: whatever happens to a run, the same command ends with the same bits, or one
sentence says what to do. `attempt` counts the tries of a row: few in CI, many in `benchmarks/faults.py`."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import is_running, refuse, start, succeed, wait
from kills import before_draws, what_must_be_equal

from metalearn_cli.run_folder import checkpoint
from metalearn_cli.tasks.base import Split

RUN = ["train", "task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8,8]", "algo.test_steps=2"]
RUN += ["threads=1", "name=run", "log_every=5", "eval_episodes=8", "test_episodes=16"]
LONG = [*RUN, "steps=300", "save_every=10", "eval_every=30"]
SHORT = [*RUN, "steps=4", "save_every=2", "log_every=1", "eval_every=3"]


Bits = dict[str, bytes]  # what must be equal


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bits, float]:
    """The bits of a long run to which nothing happens, and its seconds."""
    folder, began = tmp_path_factory.mktemp("straight"), time.perf_counter()
    succeed(folder, *LONG)
    return what_must_be_equal(folder), time.perf_counter() - began


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Bits:
    folder = tmp_path_factory.mktemp("straight")
    succeed(folder, *SHORT)
    return what_must_be_equal(folder)


def newest_step(folder: Path) -> int:
    paths = checkpoint.list_newest_first(folder / "outputs" / "run" / "checkpoints")
    return checkpoint.step_of(paths[0]) if paths else 0


def send_within(folder: Path, pid: int, rng: random.Random, seconds: float, *numbers: int) -> None:
    """Signals after some checkpoints have appeared (a clock alone would hit the start) and a random moment."""
    wanted, newest = rng.randint(0, 8), newest_step(folder)
    while is_running(pid) and newest_step(folder) < min(newest + 10 * wanted, 290):
        time.sleep(0.001)
    time.sleep(rng.random() * seconds / 30)
    for number in numbers:
        if is_running(pid):
            os.kill(pid, number)
            time.sleep(rng.random() * 0.01)


@pytest.mark.row("A1", gate=2, ci=10, full=100)
def test_sigkill_at_random_moments(attempt: int, tmp_path: Path, long: tuple[Bits, float]) -> None:
    rng, kills = random.Random(attempt), 0
    for _ in range(3):
        pid = start(tmp_path, *LONG)
        send_within(tmp_path, pid, rng, long[1], signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert kills, "no kill landed inside the run"
    succeed(tmp_path, *LONG)
    assert what_must_be_equal(tmp_path) == long[0]


FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "fcntl.flock", "os.rmdir"}


def die_at(event: int, place: Path) -> Callable[[], None]:
    """SIGKILL right before file-system event number `event` on what lies in `place`."""

    def install() -> None:
        count = 0

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if name not in FILE_EVENTS or not (name == "fcntl.flock" or isinstance(arguments[0], str | os.PathLike)):
                return
            where = Path(os.fsdecode(arguments[0])).absolute() if name != "fcntl.flock" else place
            if where.is_relative_to(place):
                count += 1
                if count == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return install


@contextlib.contextmanager
def file_system(kind: str, folder: Path) -> Iterator[Path]:
    """A folder on that of the test, on tmpfs or on an overlay. Skips the test where there is none, or no right to make
    one."""
    if kind == "tmpfs":
        shared = Path("/dev/shm")
        if not (shared.is_dir() and os.access(shared, os.W_OK)):
            pytest.skip("no tmpfs here")
        with tempfile.TemporaryDirectory(dir=shared) as place:
            yield Path(place)
    elif kind == "overlay":
        for name in ("lower", "upper", "work", "merged"):
            (folder / name).mkdir()
        layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        mounting = ["mount", "-t", "overlay", "overlay", "-o", layers, str(folder / "merged")]
        if subprocess.run(mounting, capture_output=True).returncode:
            pytest.skip("no right to mount an overlay here")
        try:
            yield folder / "merged"
        finally:
            subprocess.run(["umount", str(folder / "merged")], check=True)
    else:
        yield folder


@pytest.mark.row("A2", gate=1, ci=4, full=12)
def test_sigkill_at_every_file_system_event(attempt: int, tmp_path: Path, short: Bits) -> None:
    """Each try takes every fourth event, so that they can run beside one another; the full column's do so on three file
    systems."""
    with file_system(("of the test", "tmpfs", "overlay")[attempt // 4], tmp_path) as place:
        die_at_every_fourth(attempt % 4 + 1, place, short)


def die_at_every_fourth(first: int, place: Path, short: Bits) -> None:
    survived = 0
    for event in range(first, 500, 4):
        folder = place / str(event)
        pid = start(folder, *SHORT, first=die_at(event, folder / "outputs"))
        _, status = os.waitpid(pid, 0)
        if status == 0:
            break
        assert status == signal.SIGKILL
        before = newest_step(folder)
        succeed(folder, *SHORT)
        assert what_must_be_equal(folder) == short, f"event {event}, step {before} was saved"
        survived += 1
        shutil.rmtree(folder)
    assert survived > 5, "the run writes fewer files than it should"


def check_interrupted(attempt: int, folder: Path, long: tuple[Bits, float], *numbers: signal.Signals) -> None:
    pid = start(folder, *LONG)
    send_within(folder, pid, random.Random(attempt), long[1], *numbers)
    done = wait(folder, pid)
    assert "Traceback" not in done.err
    assert done.code in (0, 128 + numbers[0])
    if done.code == 143:
        saved = f"saved step {newest_step(folder)}; continue with: metalearn train"
        assert saved in done.err or "nothing was" in done.err
    succeed(folder, *LONG)
    assert what_must_be_equal(folder) == long[0]


@pytest.mark.row("A4", gate=2, ci=10, full=100)
def test_sigterm_at_random_moments(attempt: int, tmp_path: Path, long: tuple[Bits, float]) -> None:
    check_interrupted(attempt, tmp_path, long, signal.SIGTERM)


@pytest.mark.row("A5", gate=3, ci=9, full=90)
def test_ctrl_c_once_twice_and_five_times(attempt: int, tmp_path: Path, long: tuple[Bits, float]) -> None:
    check_interrupted(attempt, tmp_path, long, *[signal.SIGINT] * (1, 2, 5)[attempt % 3])


def run_limited(folder: Path, size: int, command: list[str]) -> tuple[int, str]:
    """No file may grow beyond `size` bytes: a full disk, as a process sees it -> the exit code, and stderr, which is a
    pipe here."""
    reading, writing = os.pipe()

    def limit() -> None:
        os.dup2(writing, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    pid = start(folder, *command, first=limit)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said


@pytest.mark.row("A8", ci=8, full=64)
def test_a_full_disk_stops_the_run_and_keeps_what_was_saved(
    attempt: int, tries: int, tmp_path: Path, short: Bits
) -> None:
    """The disk is full at every size up to that of a checkpoint, in equal steps."""
    largest = max(len(data) for name, data in short.items() if name.startswith("step-"))
    first = [*RUN, "steps=2", "save_every=2", "log_every=1", "eval_every=3"]
    succeed(tmp_path, *first)
    kept = {name: data for name, data in what_must_be_equal(tmp_path).items() if name.startswith("step-")}
    quota = largest * attempt // tries
    code, said = run_limited(tmp_path, quota, SHORT)
    assert code == 1, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("metalearn: File too large: outputs/run"), said
    if "so training stopped" in last:  # not before it began
        assert f"the last good checkpoint is outputs/run/checkpoints/{next(iter(kept))}" in last, said
    folder = tmp_path / "outputs" / "run" / "checkpoints"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept, "no temporary file, nothing lost"
    succeed(tmp_path, *SHORT)
    assert what_must_be_equal(tmp_path) == short


@pytest.mark.row("A10", ci=2, full=10)
def test_a_folder_that_vanishes_or_cannot_be_written_is_one_sentence(
    attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "outputs" / "run"

    def spoil(split: Split, count: int) -> None:
        if (split, count) == ("train", 25 + attempt):
            if attempt % 2:
                shutil.rmtree(run)
            else:  # a file where the folder of the checkpoints was: nobody can write there, not even root
                shutil.rmtree(run / "checkpoints")
                (run / "checkpoints").touch()

    before_draws(monkeypatch, spoil)
    said = refuse(tmp_path, *LONG)
    assert "so training stopped; " in said
    assert "outputs/run" in said


@pytest.mark.row("A9", ci=2, full=10)
def test_records_that_cannot_be_written_stop_the_run(attempt: int, tmp_path: Path, short: Bits) -> None:
    """metrics.jsonl grows beyond the limit before any checkpoint would."""
    command = [*RUN, "steps=2000", "save_every=2000", "log_every=1", "eval_every=0", "select=last"]
    code, said = run_limited(tmp_path, 20_000 + 2_000 * attempt, command)
    assert code == 1, said
    assert "Traceback" not in said
    assert "so training stopped; there is no checkpoint yet" in said.strip().splitlines()[-1], said


@pytest.mark.row("A14", ci=3, full=9)
def test_what_others_left_behind_is_cleaned_or_ignored(attempt: int, tmp_path: Path, short: Bits) -> None:
    run = tmp_path / "outputs" / "run"
    succeed(tmp_path, *SHORT, "steps=2")
    if attempt % 3 == 0:
        (run / "checkpoints" / "step-00000002-0123456789abcdef.safetensors.tmp-99999").write_bytes(b"half")
        (run / "config.yaml.tmp-4711").write_bytes(b"half")
    elif attempt % 3 == 1:
        (run / "lock").write_text("pid 1 on a-machine-that-is-gone\n")
    else:
        (run / "checkpoints" / "notes.txt").write_text("mine")
    succeed(tmp_path, *SHORT)
    after = what_must_be_equal(tmp_path)
    after.pop("notes.txt", None)
    assert after == short
    assert not list(run.rglob("*.tmp-*"))


@pytest.mark.row("A15", ci=3, full=9)
def test_a_clock_that_jumps_changes_no_bits(
    attempt: int, tmp_path: Path, short: Bits, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = random.Random(attempt)
    monkeypatch.setattr(time, "time", lambda: jumps.choice([0.0, 1e9, 4e9]) + jumps.random())
    monkeypatch.setenv("TZ", ("UTC", "Asia/Kathmandu", "America/St_Johns")[attempt % 3])
    succeed(tmp_path, *SHORT)
    assert what_must_be_equal(tmp_path) == short


@pytest.mark.row("A18", ci=1, full=1)
def test_memory_is_flat_over_many_steps(attempt: int, tmp_path: Path) -> None:
    """Resident memory at every step, of 300 or 20,000: its slope over the second half."""
    steps = 20_000 if os.environ.get("METALEARN_FAULTS") == "full" else 1_200
    seen = tmp_path / "memory"

    def look(split: Split, _: int) -> None:
        if split == "train":
            files = len(list(Path("/proc/self/fd").iterdir()))
            with open(seen, "a") as file, open("/proc/self/statm") as statm:
                file.write(f"{int(statm.read().split()[1]) * resource.getpagesize()} {files}\n")

    with pytest.MonkeyPatch.context() as patch:
        before_draws(patch, look)
        succeed(tmp_path, *RUN, f"steps={steps}", "save_every=50", "eval_every=100", "allocator=default")
    rows = torch.tensor([[int(x) for x in line.split()] for line in seen.read_text().splitlines()], dtype=torch.float64)
    assert len(rows) == steps
    half = rows[steps // 2 :]
    number = torch.arange(len(half), dtype=torch.float64)
    number -= number.mean()
    slope = (number * (half[:, 0] - half[:, 0].mean())).sum() / number.square().sum()
    assert slope < 1024, f"{slope:.0f} bytes a step"
    assert half[0, 1] == half[-1, 1], "open files"


def damage(path: Path, rng: random.Random) -> None:
    """What a disk or a person may do to a file."""
    data = bytearray(path.read_bytes())
    match rng.choice(["flip", "flip", "flip", "cut", "empty", "garbage", "folder"]):
        case "flip":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[: rng.randrange(len(data))])
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(rng.randbytes(len(data)))
        case "folder":
            path.unlink()
            path.mkdir()


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of an unfinished run."""
    folder = tmp_path_factory.mktemp("saved")
    succeed(folder, *RUN, "steps=4", "save_every=2", "log_every=1", "eval_every=0", "select=last")
    return folder / "outputs" / "run" / "checkpoints"


@pytest.mark.row("A11", ci=200, full=5000)
def test_a_damaged_checkpoint_is_never_loaded(attempt: int, tmp_path: Path, two_saved: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_saved, folder)
    newest, before = checkpoint.list_newest_first(folder)
    expected = checkpoint.load_checkpoint(before)
    damage(newest, random.Random(attempt))
    loaded, skipped = checkpoint.load_newest(folder)
    assert loaded is not None
    assert loaded.step == expected.step
    assert all(torch.equal(loaded.tensors[name], value) for name, value in expected.tensors.items())
    assert len(skipped) == 1
    assert str(newest) in skipped[0]


@pytest.mark.row("A12", ci=1, full=10)
def test_without_a_whole_checkpoint_nothing_begins_again(attempt: int, tmp_path: Path) -> None:
    command = [*RUN, "steps=4", "save_every=2", "eval_every=0", "select=last"]
    succeed(tmp_path, *command)
    run = tmp_path / "outputs" / "run"
    (run / "results.json").unlink()
    rng = random.Random(attempt)
    for path in checkpoint.list_newest_first(run / "checkpoints"):
        damage(path, rng)
    said = refuse(tmp_path, *command)
    assert "none of the 2 checkpoints" in said
    assert "move them away to start again from step 0" in said
    assert not (run / "results.json").exists()


@pytest.mark.row("B1", gate=1, ci=3, full=50)
def test_of_eight_processes_with_one_name_one_trains(attempt: int, tmp_path: Path, long: tuple[Bits, float]) -> None:
    folders = [tmp_path / str(i) for i in range(8)]
    (tmp_path / "outputs").mkdir()
    for folder in folders:
        folder.mkdir()
        (folder / "outputs").symlink_to(tmp_path / "outputs")
    pids = [start(folder, *LONG) for folder in folders]
    ended = [wait(folder, pid) for folder, pid in zip(folders, pids, strict=True)]
    trained = [done for done in ended if done.code == 0 and "train 300/300" in done.err]
    assert len(trained) == 1
    for done in ended:
        assert "Traceback" not in done.err
        assert done.code == 0 or ("is in use by" in done.err and done.code == 1), done.err
    assert what_must_be_equal(tmp_path) == long[0]


@pytest.mark.row("B3", ci=5, full=100)
def test_the_lock_of_a_killed_process_is_free(attempt: int, tmp_path: Path, long: tuple[Bits, float]) -> None:
    pid = start(tmp_path, *LONG)
    send_within(tmp_path, pid, random.Random(attempt), long[1], signal.SIGKILL)
    os.waitpid(pid, 0)
    done = succeed(tmp_path, *LONG)
    assert "is in use" not in done.err
