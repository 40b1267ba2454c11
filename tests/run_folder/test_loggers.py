"""`logger=`: what a logger gets is metrics.jsonl, whatever happens to the run or to the logger."""

import json
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import results, run, start, wait

from metalearn_cli.run_folder import checkpoint, loggers
from metalearn_cli.run_folder.loggers import REMOTES, importlib
from metalearn_cli.run_folder.records import read_json
from metalearn_cli.run_folder.series import read_lines

TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick", "save_every=5", "name=one"]


class Recorded:
    """Appends what it gets to a file; fails while there is a file `down`."""

    def __init__(self, folder: Path, run_id: str | None, config: dict[str, Any]) -> None:
        self._note("open", run_id, config["algo.test_steps"])
        self.id = run_id or "new"
        self.reached = max((line["step"] for line in got(Path(), "send")), default=0)

    def send(self, lines: list[dict[str, Any]], first: int) -> None:
        assert logged(Path())[first:] == lines
        self._note("send", *lines)

    def end(self, final: dict[str, float] | None) -> None:
        self._note("end", final)

    def _note(self, *what: Any) -> None:
        if Path("down").exists():
            raise ConnectionError("no route to the logger\nand more")
        with open("got", "a") as file:
            file.write(json.dumps(what) + "\n")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REMOTES, "wandb", Recorded)
    monkeypatch.setattr(loggers, "check_installed", lambda logger: None)


def got(folder: Path, what: str) -> list[Any]:
    path = folder / "got"
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [part for note in notes if note[0] == what for part in note[1:]]


def logged(folder: Path) -> list[Any]:
    return list(read_lines(folder / "outputs/one/metrics.jsonl"))


def once(lines: list[Any]) -> list[Any]:
    """The lines without those that were sent again."""
    return [line for place, line in enumerate(lines) if line not in lines[:place]]


def at_save(number: int, act: Callable[[], object]) -> Callable[[], None]:
    """Make the process of a run `act` after its checkpoint `number`."""

    def first() -> None:
        save, saves = checkpoint.save, iter(range(1, 1000))

        def save_and_act(*arguments: Any) -> Any:
            saved = save(*arguments)
            if next(saves) == number:
                act()
            return saved

        checkpoint.save = save_and_act

    return first


@pytest.mark.usefixtures("recorded")
def test_a_logger_gets_the_lines_and_the_test(tmp_path: Path) -> None:
    done = run(tmp_path, "train", *TINY, "logger=wandb")
    assert done.code == 0, done.err
    assert got(tmp_path, "send") == logged(tmp_path)
    figures = results(tmp_path, "one")
    (final,) = got(tmp_path, "end")
    mean, ci95, median = (figures[key] for key in ("mean", "ci95", "median"))
    assert final == {"test/mse": mean, "test/mse_ci95": ci95, "test/mse_median": median}
    assert read_json(tmp_path / "outputs/one/logger.json")["wandb"] == {"id": "new", "is_whole": True}
    # The same command again has nothing to send.
    before = (tmp_path / "got").read_text()
    assert run(tmp_path, "train", *TINY, "logger=wandb").code == 0
    assert (tmp_path / "got").read_text() == before


@pytest.mark.usefixtures("recorded")
def test_a_finished_run_can_be_sent_later(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY).code == 0
    assert not (tmp_path / "outputs/one/logger.json").exists()
    assert run(tmp_path, "train", *TINY, "logger=wandb").code == 0
    assert got(tmp_path, "send") == logged(tmp_path)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(("saves", "step"), [(1, 5), (2, 10), (3, 10), (4, 15)])  # before and after a validation
def test_a_run_that_was_killed_goes_on_there_and_nothing_is_missing(tmp_path: Path, saves: int, step: int) -> None:
    killed = at_save(saves, lambda: os.kill(os.getpid(), signal.SIGKILL))
    wait(tmp_path, start(tmp_path, "train", *TINY, "logger=wandb", first=killed))
    done = run(tmp_path, "train", *TINY, "logger=wandb")
    assert done.code == 0, done.err
    assert f"continuing after step {step}" in done.err
    assert got(tmp_path, "open") == [None, 2, "new", 2]
    assert once(got(tmp_path, "send")) == logged(tmp_path)


@pytest.mark.usefixtures("recorded")
def test_an_interrupted_run_is_closed_there(tmp_path: Path) -> None:
    signalled = at_save(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert wait(tmp_path, start(tmp_path, "train", *TINY, "logger=wandb", first=signalled)).code == 143
    assert got(tmp_path, "end") == [None]
    assert run(tmp_path, "train", *TINY, "logger=wandb").code == 0
    assert once(got(tmp_path, "send")) == logged(tmp_path)


@pytest.mark.usefixtures("recorded")
def test_a_logger_that_fails_is_said_once_and_nothing_is_lost(tmp_path: Path) -> None:
    down = tmp_path / "down"
    done = wait(tmp_path, start(tmp_path, "train", *TINY, "logger=wandb", first=at_save(2, down.touch)))
    assert done.code == 0, done.err
    assert "results are in outputs/one" in done.out
    assert done.err.count("training goes on") == 1
    assert "wandb failed (no route to the logger): training goes on" in done.err
    assert "wandb failed (no route to the logger): the same command again sends what is missing" in done.err
    assert "training goes on" in (tmp_path / "outputs/one/train.log").read_text()
    down.unlink()
    done = run(tmp_path, "train", *TINY, "logger=wandb")
    assert done.code == 0, done.err
    assert once(got(tmp_path, "send")) == logged(tmp_path)
    assert read_json(tmp_path / "outputs/one/logger.json")["wandb"]["is_whole"]


@pytest.mark.usefixtures("recorded")
def test_a_logger_that_cannot_be_opened_stops_the_run_before_its_first_step(tmp_path: Path) -> None:
    (tmp_path / "down").touch()
    done = run(tmp_path, "train", *TINY, "logger=wandb")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1] == "metalearn: logger=wandb cannot be opened: no route to the logger"
    assert not list((tmp_path / "outputs/one/checkpoints").iterdir())


@pytest.mark.usefixtures("recorded")
def test_the_result_is_the_same_with_and_without(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *TINY, "logger=wandb").code == 0
    assert run(tmp_path, "train", *TINY[:-1], "name=two").code == 0
    one, two = ((tmp_path / "outputs" / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    # An evaluation has no line for a logger, and is the same evaluation with any.
    assert run(tmp_path, "eval", "run=outputs/one").code == run(tmp_path, "eval", "run=outputs/two").code == 0
    names = [[path.name for path in (tmp_path / "outputs" / name / "eval").iterdir()] for name in ("one", "two")]
    assert len(got(tmp_path, "open")) == 2
    assert names[0][0].startswith("sinusoid-")


def test_one_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for logger in ("wandb", "mlflow"):
        done = run(tmp_path, "train", *TINY, f"logger={logger}")
        assert (done.code, done.out) == (1, "")
        assert done.err == f"metalearn: logger={logger} needs {logger}: pip install 'metalearn-cli[{logger}]'\n"
    assert not (tmp_path / "outputs").exists()
    done = run(tmp_path, "train", *TINY, "logger=tensorboard")
    assert "logger=tensorboard must be one of wandb, mlflow, or null" in done.err


def killed_and_continued(folder: Path, logger: str) -> list[dict[str, Any]]:
    killed = at_save(2, lambda: os.kill(os.getpid(), signal.SIGKILL))
    wait(folder, start(folder, "train", *TINY, f"logger={logger}", first=killed))
    done = run(folder, "train", *TINY, f"logger={logger}")
    assert done.code == 0, done.err
    return logged(folder)


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is an extra")
@pytest.mark.filterwarnings("ignore")  # whatever mlflow's dependencies warn of
def test_mlflow_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    lines = killed_and_continued(tmp_path, "mlflow")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (logged,) = client.search_runs([client.get_experiment_by_name("metalearn").experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["algo.test_steps"] == "2"
    figures = results(tmp_path, "one")
    assert logged.data.metrics["test/mse"] == figures["mean"]
    for name in {name for line in lines for name in line} - {"step"}:
        history = [(point.step, point.value) for point in client.get_metric_history(logged.info.run_id, name)]
        assert once(history) == [(line["step"], line[name]) for line in lines if name in line]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is an extra")
@pytest.mark.filterwarnings("ignore")  # whatever wandb's dependencies warn of
def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    lines = killed_and_continued(tmp_path, "wandb")
    rows: dict[int, dict[str, float]] = {}
    ids = set()
    for path in sorted((tmp_path / "outputs/one/wandb").glob("offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                figures = {name: value for name, value in row.items() if not name.startswith("_")}
                assert rows.setdefault(row["_step"], figures) == figures  # what came again is the same
    assert [rows[number] for number in range(len(rows))] == lines
    assert len(ids) == 1


def log_records(data: bytes) -> list[bytes]:
    """The records of a file in LevelDB's log format behind a header of 7 bytes, as wandb writes them."""
    records, at, parts = [], 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(parts)
            parts = b""
    return records
