"""What is said, and what is not: once, to whom it concerns."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import succeed

from metalearn_cli.cli import main
from metalearn_cli.learning.learner import Learner
from metalearn_cli.system import console
from metalearn_cli.system.ranks import busy
from metalearn_cli.tuning import prepare

TINY = ["task=sinusoid", "model.hidden=[4]", "algo.test_steps=1", "tasks_per_step=1", "test_episodes=4", "eval_every=0"]
TINY += ["select=last", "threads=1"]
IMAGES = ["algo=protonet", "task=image_folder", "task.size=16", "task.way=2", "task.shot=1", "task.query=1"]
IMAGES += ["model.filters=2", "steps=1", "test_episodes=2", "eval_every=0", "select=last", "threads=1"]
PLOT = "the first test task: . truth, o support"


def at_a_terminal() -> None:
    sys.stderr.isatty = lambda: True  # type: ignore[method-assign]


def test_a_run_shorter_than_its_log_interval_says_how_it_went(tmp_path: Path) -> None:
    done = succeed(tmp_path, "train", *TINY, "steps=3", "name=short")
    (line,) = (line for line in done.err.splitlines() if line.startswith("train "))
    assert line.startswith("train 3/3  loss ")
    assert (tmp_path / "outputs/short/metrics.jsonl").read_text() == ""  # as in a longer run before its first line


def test_between_lines_of_the_log_something_is_said_at_last(tmp_path: Path) -> None:
    def every_step_takes_six_seconds() -> None:
        now, step = [0.0], Learner.step

        def slow(self: Learner, *arguments: object) -> object:
            now[0] += 6
            return step(self, *arguments)  # type: ignore[arg-type]

        console.time.monotonic = lambda: now[0]
        Learner.step = slow  # type: ignore[method-assign, assignment]

    done = succeed(tmp_path, "train", *TINY, "steps=5", "name=slow", first=every_step_takes_six_seconds)
    steps = [line.split()[1] for line in done.err.splitlines() if line.startswith("train ")]
    assert steps == ["2/5", "4/5", "5/5"]


def test_the_plot_is_for_who_sits_at_a_terminal_before_a_single_run(tmp_path: Path) -> None:
    for name, first, is_shown in (("seen", at_a_terminal, True), ("piped", lambda: None, False)):
        done = succeed(tmp_path, "train", *TINY, "steps=1", f"name={name}", first=first)
        assert (PLOT in done.err) == is_shown
        assert PLOT in (tmp_path / "outputs" / name / "train.log").read_text()
    done = succeed(tmp_path, "train", "-m", *TINY, "steps=1", "seed=0,1", "name=sweep", first=at_a_terminal)
    assert PLOT not in done.err
    assert all(PLOT in (tmp_path / f"outputs/sweep/seed={seed}/train.log").read_text() for seed in (0, 1))


def test_a_sweep_says_once_what_holds_of_its_jobs(tmp_path: Path, own_images: Path) -> None:
    command = ["train", *IMAGES, f"task.root={own_images}", "other_batch_norm=[]"]
    done = succeed(tmp_path, *command, "-m", "seed=0,1,2", "name=sweep")
    assert done.err.count(": 15 classes with 30 images; ") == 1
    for seed in range(3):
        log = (tmp_path / f"outputs/sweep/seed={seed}/train.log").read_text()
        assert log.count(": 15 classes with 30 images; ") == 1
    twice = succeed(tmp_path, "train", "-m", *TINY, "steps=1", "steps=2", "seed=0,1", "name=twice")
    assert twice.err.count("steps is given twice, and the last counts: steps=2, not 1") == 1


def test_what_takes_no_inner_steps_is_not_told_of_them(
    own_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *IMAGES, f"task.root={own_images}", "name=run"]) == 0
    header, row, *others = capsys.readouterr().out.splitlines()[1:]
    assert header.split() == ["mean", "+-", "95%", "median"]
    assert len(row.split()) == 3
    beginnings = [line.partition(":")[0] for line in others[:2]]
    assert beginnings == [f"with batch norm {mode}" for mode in ("transductive", "inductive")]
    assert main(["report", "outputs/run", "out=null", "csv=null"]) == 0
    assert "0.00%" not in capsys.readouterr().out


def test_a_busy_machine_is_said_and_the_number_of_threads_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def others_run_on(number: float) -> Callable[[], None]:
        def first() -> None:
            prepare.busy = lambda: number
            prepare.DEFAULT_THREADS = 3
            os.cpu_count = lambda: 4

        return first

    command = ["train", *TINY[:-1], "threads=null", "steps=1"]  # a task of points has one
    said = "the machine is busy: other processes run on 2.5 of its 4 processors, where 3 threads slow one another down"
    loaded = succeed(tmp_path, *command, "name=loaded", first=others_run_on(2.5))
    assert f"{said}: threads=1 fits\n" in loaded.err
    assert "3 CPU thread(s)" in loaded.err
    for number, *more in (
        (9, "name=loaded", "steps=2"),  # chosen earlier
        (9, "name=own", "threads=3"),  # chosen by hand
        (1, "name=free"),
    ):
        assert "the machine is busy" not in succeed(tmp_path, *command, *more, first=others_run_on(number)).err


def test_what_keeps_a_machine_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the load of the last minute and what runs now, but for this process itself."""
    monkeypatch.setattr(os, "getloadavg", lambda: (5.0, 1.0, 1.0))
    monkeypatch.setattr(Path, "read_text", lambda path: "5.00 1.00 1.00 3/200 999\n")
    assert busy() == 2.0
    monkeypatch.setattr(os, "getloadavg", lambda: (0.3, 1.0, 1.0))
    assert busy() == 0.3

    def unknown() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert busy() == 0.0
