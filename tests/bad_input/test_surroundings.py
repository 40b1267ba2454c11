"""Rows C14, C17, C18 and D1 of the fault matrix: where a run is written, what its streams are, and how the machine is
set up. It runs with the same bits, or says one sentence."""

import contextlib
import errno
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refuse, run, start, succeed, wait
from places import PACKAGE

from metalearn_cli.config import conf_folder
from metalearn_cli.system import files

RUN = ["train", "task=sinusoid", "algo=maml", "tasks_per_step=2", "model.hidden=[8]", "algo.test_steps=1", "threads=1"]
RUN += ["steps=6", "save_every=4", "log_every=2", "eval_every=0", "select=last", "test_episodes=8"]


def bits(run: Path) -> dict[str, bytes]:
    paths = [*(run / "checkpoints").iterdir(), *(run / n for n in ("metrics.jsonl", "results.json", "episodes.npz"))]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("straight")
    succeed(folder, *RUN, "name=run")
    return bits(folder / "outputs" / "run")


def a_file(folder: Path) -> None:
    (folder / "outputs").write_text("mine")


def a_loop(folder: Path) -> None:
    (folder / "outputs").mkdir()
    (folder / "outputs" / "run").symlink_to("again")
    (folder / "outputs" / "again").symlink_to("run")


def a_file_of_that_name(folder: Path) -> None:
    (folder / "outputs").mkdir()
    (folder / "outputs" / "run").write_text("mine")


def cannot_be_written(folder: Path) -> None:
    (folder / "outputs").symlink_to("/sys/kernel")  # where root cannot make a folder either


# How the folder is, the name, and the sentence.
PLACES: dict[str, tuple[Callable[[Path], None] | None, str, str]] = {
    "outputs is a file": (a_file, "run", "Not a directory: outputs/run"),
    "a loop of links": (a_loop, "run/in", "Too many levels of symbolic links: outputs/run/in"),
    "a file of that name": (
        a_file_of_that_name,
        "run",
        "outputs/run is a file, and the run's folder would stand there: move it away",
    ),
    "a file above": (a_file_of_that_name, "run/in", "Not a directory: outputs/run/in"),
    "a long name": (None, "x" * 300, "File name too long: outputs/xxx"),
    "a long path": (None, "x/" * 3000 + "x", "File name too long: outputs/x/x"),
    "read-only": (cannot_be_written, "run", ": outputs/run"),
}


@pytest.mark.row("C14")
@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, place: str) -> None:
    make, name, sentence = PLACES[place]
    if make:
        make(tmp_path)
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    refused = refuse(tmp_path, *RUN, f"name={name}")
    assert sentence in refused
    after = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    made = {path.relative_to(tmp_path).as_posix() for path in after.keys() - before.keys()}
    assert made <= {"out", "err", "outputs"}
    assert all(after[path] == content for path, content in before.items())


@pytest.mark.row("C14")
def test_a_full_disk_before_the_first_step_is_a_sentence(tmp_path: Path) -> None:
    """The first line of the log finds no room."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refused = refuse(tmp_path, *RUN, "name=run", first=lambda: setattr(files, "write_all", full))
    assert refused == "metalearn: No space left on device: outputs/run/train.log"


@pytest.mark.row("C17")
@pytest.mark.parametrize("columns", ["1", "0", "80", "wide"])
def test_a_terminal_of_any_width(
    tmp_path: Path, columns: str, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
) -> None:
    """stderr is a terminal, whose bars are as wide as it says."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    ours, its = pty.openpty()

    def first() -> None:
        os.dup2(its, 2)
        os.close(0)

    pid = start(tmp_path, *RUN, "name=run", first=first)
    os.close(its)
    said = b""
    with contextlib.suppress(OSError):  # Linux's word for the end of a terminal
        while part := os.read(ours, 65536):
            said += part
    os.close(ours)
    assert wait(tmp_path, pid).code == 0, said
    assert b"Traceback" not in said
    assert bits(tmp_path / "outputs" / "run") == straight


@pytest.mark.row("C18")
@pytest.mark.parametrize(
    ("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o000, 0o666, 0o777), (0o027, 0o640, 0o750)]
)
def test_files_follow_the_umask(tmp_path: Path, mask: int, file: int, folder: int, straight: dict[str, bytes]) -> None:
    succeed(tmp_path, *RUN, "name=run", first=lambda: os.umask(mask))
    for path in (tmp_path / "outputs").rglob("*"):
        assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path
    assert bits(tmp_path / "outputs" / "run") == straight


@pytest.mark.row("C18")
def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    def leave() -> None:
        (tmp_path / "in").mkdir()
        os.chdir(tmp_path / "in")
        (tmp_path / "in").rmdir()

    for command in (RUN, [*RUN, "name=run"], [*RUN, "-m", "seed=0,1"], ["eval", "run=outputs/run"]):
        refuse(tmp_path, *command, first=leave)


@pytest.mark.row("C18")
@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("METALEARN_CACHE", "", "METALEARN_CACHE is set to nothing"),
        ("METALEARN_CACHE", "~nobody-is-called-so/x", "is in a home folder that is not known here"),
        ("METALEARN_DATA", "~nobody-is-called-so/x", "is in a home folder that is not known here"),
        ("METALEARN_DATA", "", "METALEARN_DATA is not set"),
    ],
)
def test_a_variable_that_names_no_folder_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv("METALEARN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("METALEARN_DATA", str(tmp_path / "data"))
    monkeypatch.setenv(variable, value)
    assert sentence in refuse(tmp_path, "train", "task=omniglot")
    assert not (tmp_path / "outputs").exists()


def test_a_key_that_is_given_twice_is_said(tmp_path: Path) -> None:
    done = succeed(tmp_path, *RUN, "name=run", "seed=3", "seed=3", "steps=2")
    assert "steps is given twice, and the last counts: steps=2, not 6\n" in done.err
    assert "seed is given twice" not in done.err
    done = run(tmp_path, "eval", "run=outputs/run", "test_episodes=2", "test_episodes=3")
    assert "test_episodes is given twice, and the last counts: test_episodes=3, not 2\n" in done.err


# Each is a process of its own, from a package that is laid out as in a checkout, or as in a wheel.
ODD = {
    "a checkout, another hash seed": (
        False,
        {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": None, "HOME": None, "METALEARN_CACHE": None, "TERM": None},
    ),
    "a wheel, C": (True, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Asia/Kathmandu"}),
    "German": (False, {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "3"}),
}


@pytest.mark.row("C18")
@pytest.mark.row("D1")
@pytest.mark.parametrize("how", ODD)
def test_a_process_in_other_surroundings_has_the_same_bits(
    tmp_path: Path, how: str, straight: dict[str, bytes]
) -> None:
    is_wheel, changed = ODD[how]
    place = PACKAGE.parent
    if is_wheel:
        place = tmp_path / "site-packages"
        shutil.copytree(PACKAGE, place / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "conf"))
        shutil.copytree(conf_folder.conf_dir(), place / PACKAGE.name / "conf")
    environment = {**os.environ, "PYTHONPATH": str(place), **changed}
    environment = {key: value for key, value in environment.items() if value is not None}
    name = "Kaese" if is_wheel else "Käse"  # which the C locale cannot read
    command = [sys.executable, "-m", "metalearn_cli", *RUN, f"name={name}"]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, **streams)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("results are in outputs/K")
    assert bits(tmp_path / "outputs" / name) == straight
