"""Commands compute with denormal numbers as 0, in every thread; earlier runs, and Python, are left as they are."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import start_ranks, succeed, wait_ranks
from folders import rewrite
from places import MAML, take
from torch import Tensor

import metalearn_cli
from metalearn_cli.learning.learner import Learner
from metalearn_cli.tasks.image_folder import ImageFolder
from metalearn_cli.trained.model import Model
from metalearn_cli.tuning import bench

TRAIN = ["train", "task=sinusoid", "model.hidden=[4]", "tasks_per_step=2", "steps=2", "log_every=1", "save_every=1"]
TRAIN += ["eval_every=2", "eval_episodes=2", "test_episodes=2", "algo.test_steps=1"]
IMAGES = ["train", "algo=protonet", "task=image_folder", "task.size=16", "task.way=2", "task.shot=1", "task.query=1"]
IMAGES += ["task.train_way=2", "model.filters=4", "steps=2", "eval_episodes=2", "test_episodes=2", "select=last"]


def share_of_zeros() -> float:
    """The share of zeros in denormal products that all threads of torch make."""
    return ((torch.full((2**18,), 1e-30) * 1e-10) == 0).double().mean().item()


class _Probed(torch.autograd.Function):
    """The identity, whose backward pass writes down what denormal products are there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        write("backward")
        return gradient


def write(where: str) -> None:
    with open("shares", "a") as file:
        file.write(f"{where} {share_of_zeros()}\n")


def probe_method(cls: Any, name: str) -> None:
    method = getattr(cls, name)

    def probed(self: Any, *arguments: Any) -> Any:
        is_ahead = threading.current_thread() is not threading.main_thread()
        write("ahead" if is_ahead else name)
        if name == "step":
            _Probed.apply(torch.ones(1, requires_grad=True)).sum().backward()
        return method(self, *arguments)

    setattr(cls, name, probed)


def probe(before: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """What makes a command write down, wherever it computes, what denormal products are there, in the file shares."""

    def first() -> None:
        before()
        for cls, name in ((Learner, "step"), (Learner, "evaluate"), (ImageFolder, "gather"), (Model, "adapt")):
            probe_method(cls, name)
        ImageFolder.may_wait_for_disk = lambda self, device: True  # type: ignore[method-assign]

    return first


def shares(folder: Path, *command: str, before: Callable[[], object] = lambda: None) -> dict[str, set[float]]:
    """What a command found, by where it looked."""
    folder.mkdir(exist_ok=True)
    (folder / "shares").unlink(missing_ok=True)
    succeed(folder, *command, first=probe(before))
    return read(folder)


def read(folder: Path) -> dict[str, set[float]]:
    measured: dict[str, set[float]] = {}
    for line in (folder / "shares").read_text().splitlines():
        where, _, share = line.partition(" ")
        measured.setdefault(where, set()).add(float(share))
    return measured


def start_threads() -> None:
    """Two of OpenMP's, which then are as this one is now."""
    torch.set_num_threads(2)
    assert share_of_zeros() == 0


def hurry() -> None:
    bench.TURN = bench.BUDGET = 0.01


def choices(folder: Path) -> Any:
    return json.loads((folder / "choices.json").read_text())


@pytest.mark.parametrize("threads", [1, 2])
def test_they_are_0_in_every_thread_of_a_training(tmp_path: Path, own_images: Path, threads: int) -> None:
    command = [*IMAGES, f"task.root={own_images}", f"threads={threads}", "name=run"]
    measured = shares(tmp_path, *command, before=start_threads if threads == 2 else lambda: None)
    assert measured == {where: {1.0} for where in ("step", "backward", "evaluate", "gather", "ahead")}
    assert choices(tmp_path / "outputs/run")["denormals_are_zero"] is True


def test_they_are_0_in_jobs_tests_and_timings(tmp_path: Path) -> None:
    training = {where: {1.0} for where in ("step", "backward", "evaluate")}
    assert shares(tmp_path, *TRAIN, "-m", "seed=0,1", "threads=1", "name=sweep") == training
    assert shares(tmp_path, "eval", "run=outputs/sweep/seed=0", "test_episodes=4") == {"evaluate": {1.0}}
    small = [*TRAIN[1:], "tasks_per_step=1", "task.query=1"]
    assert shares(tmp_path, "bench", *small, before=hurry)["step"] == {1.0}


def test_they_are_0_in_ranks(tmp_path: Path) -> None:
    pids = start_ranks(tmp_path, 2, *TRAIN, "threads=1", "name=run", first=lambda rank: probe()())
    codes, said = wait_ranks(tmp_path, pids)
    assert codes == [0, 0], said
    assert read(tmp_path) == {where: {1.0} for where in ("step", "backward", "evaluate")}


@pytest.mark.row("P10")
def test_an_earlier_run_keeps_them(tmp_path: Path) -> None:
    """Also where threads were started that do not, as by an earlier job."""

    def as_after_another_job() -> None:
        torch.set_flush_denormal(True)
        torch.set_num_threads(2)
        assert share_of_zeros() == 1

    folder = take(MAML, tmp_path)
    assert "denormals_are_zero" not in choices(folder)
    assert shares(tmp_path, "eval", "run=outputs/run", before=as_after_another_job) == {"evaluate": {0.0}}
    command = ["train", *(MAML / "overrides.txt").read_text().splitlines(), "steps=25", "threads=2"]
    assert shares(tmp_path, *command, before=as_after_another_job)["step"] == {0.0}
    assert choices(folder)["denormals_are_zero"] is False
    (folder / "choices.json").unlink()  # as by a version that wrote none: it has checkpoints, so it is not new
    assert shares(tmp_path, *command, "steps=30")["step"] == {0.0}
    assert shares(tmp_path, "eval", "run=outputs/run", "test_episodes=4") == {"evaluate": {0.0}}


@pytest.mark.parametrize("are_zero", [True, False])
def test_predictions_are_made_as_the_run_was_also_by_an_exported_model(
    tmp_path: Path, are_zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed(tmp_path, *TRAIN, "threads=1", "name=run")
    folder = tmp_path / "outputs/run"
    rewrite(folder / "choices.json", {**choices(folder), "denormals_are_zero": are_zero})
    succeed(tmp_path, "export", "run=outputs/run", "out=model", "threads=1")
    (tmp_path / "points.csv").write_text("x,y\n1,1\n2,0\n")

    points = ["support=points.csv", "query=points.csv", "threads=1"]
    for stored in ("outputs/run", "model"):
        measured = shares(tmp_path, "predict", f"run={stored}", *points)
        assert measured == {"adapt": {1.0 if are_zero else 0.0}}
    metalearn_cli.load(tmp_path / "model").adapt(torch.ones(2, 1), torch.ones(2, 1))(torch.ones(1, 1))
    assert share_of_zeros() == 0  # the process that calls from Python is left as it is


def test_numpy_does_not_notice(tmp_path: Path) -> None:
    """Before 2.0 it warns where it looks for the smallest of them when there is none."""
    code = "import numpy as np; from metalearn_cli.system.device import set_denormals; assert set_denormals(True)\n"
    code += "[np.finfo(kind).smallest_subnormal for kind in (np.float32, float, np.complex64)]"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_a_processor_without_a_choice_is_said(tmp_path: Path) -> None:
    def first() -> None:
        torch.set_flush_denormal = lambda is_on: False

    done = succeed(tmp_path, *TRAIN, "threads=1", "name=run", first=first)
    assert "denormal numbers kept (this processor has no choice)" in done.err
