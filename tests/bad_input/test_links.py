"""Rows C22 and C23 of the fault matrix: links in a run's folder, and names in its records, lead nowhere. What they
would lead to is neither written, nor emptied, nor removed, nor shown."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import refuse, run, succeed
from foreign import COMMANDS, RUN, copy, forge
from PIL import Image

from metalearn_cli.cli import main
from metalearn_cli.system import files

SECRET = "A_PRIVATE_KEY=hunter2\n"
# What of a folder each command opens, that is there.
FILES = {
    "train": ["config.yaml", "environment.json", "results.json", "lock", "train.log"],
    "train on": [
        *("config.yaml", "environment.json", "results.json", "lock", "train.log", "choices.json", "metrics.jsonl"),
        "timing.jsonl",
    ],
    "eval": ["config.yaml", "environment.json", "results.json", "choices.json"],
    "report": [
        *("config.yaml", "environment.json", "results.json", "overrides.txt", "metrics.jsonl", "timing.jsonl"),
        *("episodes.npz", "examples.npz"),
    ],
    "predict": ["config.yaml", "results.json", "task.json", "unlike.json"],
    "export": ["config.yaml", "results.json", "task.json"],
}
CASES = [(command, names[k]) for k in range(8) for command, names in FILES.items() if k < len(names)]


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A run with a secret beside it, which is unchanged in the end."""
    (tmp_path / "secret").write_text(SECRET)
    yield copy(made, tmp_path)
    assert (tmp_path / "secret").read_text() == SECRET


def shown(folder: Path) -> str:
    """All that the command has made, and said."""
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return b"".join(text for text in texts if text != SECRET.encode()).decode(errors="replace")


@pytest.mark.row("C22", ci=6, full=len(CASES))
def test_a_file_that_is_a_link_is_neither_read_nor_written(attempt: int, folder: Path) -> None:
    command, name = CASES[attempt]
    path = folder / "outputs/run" / name
    path.unlink(missing_ok=True)
    path.symlink_to(folder / "secret")
    said = refuse(folder, *COMMANDS[command])
    assert f"outputs/run/{name}" in said
    assert "it is a link, and a plain file is expected" in said
    assert "hunter2" not in shown(folder)
    assert base64.b64encode(SECRET.encode()).decode()[:16] not in shown(folder)


@pytest.mark.row("C22")
def test_a_link_to_nothing_makes_no_file(folder: Path) -> None:
    names = ("train.log", "lock", "eval", "logger.json", "choices.json", "unlike.json")
    for name in names:
        path = folder / "outputs/run" / name
        path.unlink(missing_ok=True)
        path.symlink_to(folder / "nothing")
    for command in ("train on", "eval", "predict", "report"):
        done = run(folder, *COMMANDS[command])
        assert "Traceback" not in done.err
        assert not (folder / "nothing").exists(), command


@pytest.mark.row("C22")
@pytest.mark.parametrize("command", ["train on", "eval", "report"])
def test_checkpoints_that_are_a_link_are_neither_read_nor_removed(folder: Path, command: str) -> None:
    run_folder = folder / "outputs/run"
    (run_folder / "checkpoints").rename(folder / "elsewhere")
    (folder / "elsewhere/step-1.tmp-1").write_text("mine")
    (run_folder / "checkpoints").symlink_to(folder / "elsewhere")
    (run_folder / "results.json").unlink()
    before = sorted(path.name for path in (folder / "elsewhere").iterdir())
    said = refuse(folder, *COMMANDS[command])
    assert "it is a link, and a folder is expected: outputs/run/checkpoints" in said
    assert sorted(path.name for path in (folder / "elsewhere").iterdir()) == before


@pytest.mark.row("C22")
@pytest.mark.parametrize("inside", [False, True])
def test_an_evaluation_stays_inside_of_its_run(folder: Path, inside: bool) -> None:
    """eval/ as a link, or the folder in it."""
    (folder / "elsewhere").mkdir()
    link = folder / "outputs/run/eval"
    if inside:
        succeed(folder, *COMMANDS["eval"])
        link = next(link.iterdir())
        (link / "lock").unlink()
        for path in link.iterdir():
            path.unlink()
        link.rmdir()
    link.symlink_to(folder / "elsewhere")
    said = refuse(folder, *COMMANDS["eval"])
    assert f"it is a link, and a folder is expected: {link.relative_to(folder)}" in said
    assert not list((folder / "elsewhere").iterdir())


@pytest.mark.row("C22")
def test_the_lock_of_an_evaluation_is_not_a_link(folder: Path) -> None:
    succeed(folder, *COMMANDS["eval"])
    (evaluation,) = (folder / "outputs/run/eval").iterdir()
    for name in ("lock", "eval.log"):
        (evaluation / name).unlink()
        (evaluation / name).symlink_to(folder / "secret")
        assert f"outputs/run/eval/{evaluation.name}/{name}" in refuse(folder, *COMMANDS["eval"])
        (evaluation / name).unlink()


@pytest.mark.row("C22")
def test_a_record_of_a_log_begins_no_line_of_its_own(folder: Path) -> None:
    """A version that breaks the line would make a command of it, in a file that a shell reads."""
    path = folder / "outputs/run/environment.json"
    forge(path, {**json.loads(path.read_text()), "torch": "2.13\ntouch it-ran #\r\x1b[2Jx"})
    done = succeed(folder, *COMMANDS["train on"])
    log = (folder / "outputs/run/train.log").read_text()
    assert "\n" not in log.partition("started with torch 2.13")[2].partition(", and goes on with")[0]
    assert "\x1b" not in log + done.err
    assert "\r" not in log


@pytest.mark.row("C22")
def test_a_picture_is_shown_only_if_it_is_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """test.png, of runs that are older than examples.npz."""
    one = folder / "outputs/run"
    (one / "examples.npz").unlink()
    png = one / "test.png"
    with Image.open(png) as opened:
        size = opened.size
        opened.save(folder / "posing", "GIF")
    good = png.read_bytes()
    posing = (folder / "posing").read_bytes()
    huge = good[:16] + (1 << 20).to_bytes(4, "big") * 2 + good[24:]
    for content in (SECRET.encode(), b"", posing, good[: len(good) // 2], huge):
        png.write_bytes(content)
        said = refuse(folder, *COMMANDS["report"])
        assert "outputs/run/test.png is not a picture of a run's test tasks" in said
    png.write_bytes(good + SECRET.encode())  # of which Pillow takes no notice
    succeed(folder, *COMMANDS["report"])
    data = (folder / "report.html").read_text().partition("data:image/png;base64,")[2].partition('"')[0]
    assert SECRET.encode() not in base64.b64decode(data)
    (folder / "shown.png").write_bytes(base64.b64decode(data))
    with Image.open(folder / "shown.png") as opened:
        assert opened.size == size
    png.unlink()
    png.symlink_to(folder / "secret")
    assert "outputs/run/test.png is not a picture" in run(folder, *COMMANDS["report"]).err


@pytest.mark.row("C22")
def test_a_line_that_is_not_a_key_of_the_run_is_not_shown(folder: Path) -> None:
    path = folder / "outputs/run/overrides.txt"
    path.write_text(path.read_text() + SECRET)
    done = succeed(folder, *COMMANDS["report"])
    assert "overrides.txt line" in done.err
    assert "is not key=value of a run" in done.err
    assert "hunter2" not in shown(folder).replace(path.read_text(), "")


@pytest.mark.row("C22")
def test_a_link_that_waits_for_a_temporary_name(tmp_path: Path) -> None:
    """A name with this process's number is no secret."""
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / f"results.json.tmp-{os.getpid()}").symlink_to(tmp_path / "secret")
    files.write_durably(tmp_path / "results.json", b"{}")
    assert (tmp_path / "secret").read_text() == SECRET
    assert (tmp_path / "results.json").read_bytes() == b"{}"


@pytest.mark.row("C22")
def test_links_of_the_user_work(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """outputs/, a run's folder and an export may be links: what lies inside of them may not."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "outputs/run").rename(elsewhere / "run")
    (folder / "outputs/run").symlink_to(elsewhere / "run")
    (folder / "outputs").rename(elsewhere / "outputs")
    (folder / "outputs").symlink_to(elsewhere / "outputs")
    (folder / "exported").rename(elsewhere / "exported")
    (folder / "exported").symlink_to(elsewhere / "exported")
    for command in ("train on", "eval", "report", "predict of an export"):
        done = run(folder, *COMMANDS[command])
        assert done.code == 0, (command, done.err)
    assert main(["train", *RUN, "steps=20", f"name={folder}"]) == 1  # but a name leads nowhere


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in ("out", "err")
    }


NAMES: list[Any] = ["../../../escaped", "{}/absolute", "a/b", "..", "x\n/y", "\x00", "x\x1b]0;title\x07"]
NAMES += [["a"], 3, None, ...]


@pytest.mark.row("C23", ci=4, full=len(NAMES))
def test_the_name_of_a_task_in_a_record_leads_nowhere(attempt: int, made: Path, tmp_path: Path) -> None:
    """An evaluation has a folder of its own, which it removes when it fails."""
    folder = copy(made, tmp_path / "copy")
    name = NAMES[attempt]
    path = folder / "outputs/run/environment.json"
    content = json.loads(path.read_text())
    content["choices"]["task"] = name.format(tmp_path) if isinstance(name, str) else name
    if name is ...:
        del content["choices"]["task"]
    forge(path, content)
    before = contents(tmp_path)
    refused = refuse(folder, *COMMANDS["eval"])
    assert "outputs/run/environment.json" in refused
    assert "choices.task" in refused
    assert "\x1b" not in refused
    assert contents(tmp_path) == before
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "absolute").exists()


@pytest.mark.row("C23")
@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", "", "weights/../../secret"])
def test_the_name_of_the_weights_leads_nowhere(made: Path, name: str, tmp_path: Path) -> None:
    folder = copy(made, tmp_path / "copy")
    (tmp_path / "secret").write_text("hunter2")
    path = folder / "exported/model.json"
    forge(path, {**json.loads(path.read_text()), "weights": name})
    refused = refuse(folder, *COMMANDS["predict of an export"])
    assert "exported" in refused
    assert "hunter2" not in refused
