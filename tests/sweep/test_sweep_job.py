"""The jobs of a sweep, one after another in one process."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from commands import TINY, run
from folders import write_lines

from metalearn_cli.sweep import sweep_job


def test_the_first_job_of_a_sweep_does_not_set_the_threads_of_the_next(tmp_path: Path) -> None:
    one = ["debug=quick", "model.hidden=[8]", "algo.test_steps=2"]
    assert run(tmp_path, "train", *one, "threads=null", "name=alone").code == 0
    assert run(tmp_path, "train", "-m", *one, "threads=3,null", "name=both").code == 0
    paths = (tmp_path / "outputs" / name / "choices.json" for name in ("alone", "both/threads=3", "both/threads=null"))
    alone, first, second = (json.loads(path.read_text())["threads"] for path in paths)
    assert (first, second) == (3, alone)


def test_a_sweep_that_cannot_succeed_creates_nothing(tmp_path: Path) -> None:
    for mistake in ("steps=abc", "steps=1,-1", "+foo=1", "expect=foo", "name=../up", "name=/abs"):
        refused = run(tmp_path, "train", "-m", "seed=0,1", mistake)
        assert refused.code == 1
        assert len(refused.err.splitlines()) == 1, refused.err
        assert {path.name for path in tmp_path.iterdir()} == {"out", "err"}
    assert run(tmp_path, "train", "-m", *TINY, "seed=0,1", "name=it's").code == 0
    assert len(list((tmp_path / "outputs" / "it's").glob("seed=*"))) == 2
    assert run(tmp_path, "train", *TINY, "name=one").code == 0
    assert "cannot hold a sweep" in run(tmp_path, "train", "-m", *TINY, "seed=0,1", "name=one").err


def test_ctrl_c_between_two_jobs_of_a_sweep_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["train", "-m", *TINY, "seed=0,1,2", "name=sweep"]

    def tell_and_raise(text: str) -> None:
        print(text, file=sys.stderr)
        if text == "metalearn: seed=1":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sweep_job, "tell", tell_and_raise)
    stopped = run(tmp_path, *command)
    monkeypatch.undo()
    assert stopped.code == 130, stopped.err
    assert "stopped; the same command with the same name continues the sweep" in stopped.err
    assert "Traceback" not in stopped.err
    assert [path.parent.name for path in (tmp_path / "outputs/sweep").glob("*/results.json")] == ["seed=0"]
    again = run(tmp_path, *command)
    assert again.code == 0, again.err
    assert again.err.count("already finished") == 1


def test_a_sweep_names_its_folders_by_the_swept_keys_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = ["train", "-m", *TINY, "name=my sweep (1)"]
    done = run(tmp_path, *command, "seed=0,1", "algo.first_order=true", "algo.remat=false,true")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert done.err.count("algo.remat=true would save nothing") == 2  # at once, as each fails
    assert done.out.count("failed: algo.remat=true would save nothing") == 2
    assert done.out.count(" mse ") == 2
    folder = tmp_path / "outputs" / "my sweep (1)"
    names = {f"algo.remat={remat},seed={seed}" for remat in ("False", "True") for seed in (0, 1)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == names
    assert (folder / "algo.remat=True,seed=0" / "train.log").read_text().count("would save nothing") == 1
    assert not (tmp_path / "multirun").exists()
    assert not list(tmp_path.rglob(".hydra"))
    run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,0.03")
    again = run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,0.02")
    assert again.code == 0, again.err
    assert again.err.count("already finished") == 2
    rows = [line for line in again.out.splitlines() if line.startswith("algo.inner_lr=")]
    assert all(re.search(r" mse [\d.]+ \+- [\d.]+ after \d+ inner steps$", row) for row in rows)
    best = r"\nbest on validation \(mse [\d.]+\): algo.inner_lr=0.0\d; test mse .*, over 2 seeds\n"
    assert re.search(best, again.out)
    short = run(tmp_path, *command, "seed=0,1", "algo.inner_lr=0.01,0.02", "expect=mse<1e-9")
    assert short.code == 3
    assert short.out.count("falls short of expect='mse<1e-9'") == 4
    assert short.out.endswith("results are in outputs/my sweep (1)\n")


def test_the_best_validation_is_the_highest_log_likelihood_and_the_lowest_error(tmp_path: Path) -> None:
    for metric, best in (("log_likelihood", -0.5), ("accuracy", -0.5), ("mse", -2.0)):
        lines = [{"step": step, f"val/{metric}": value} for step, value in ((1, -1.0), (2, -0.5), (3, -2.0))]
        write_lines(tmp_path / "metrics.jsonl", [*lines, {"step": 4, "val/loss": 1.0}])
        assert sweep_job.best_validation(tmp_path) == best
