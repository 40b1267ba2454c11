"""Rows A6, C13 and C15 of the fault matrix: what breaks inside of a step. Training stops before the update, what was
saved is named, and the same command goes on from it once the fault is mended."""

import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refuse, run, succeed
from kills import what_must_be_equal
from safetensors.torch import load_file

from metalearn_cli.algorithms.base import Update
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.tasks.base import Batch, Draw
from metalearn_cli.tasks.sinusoid import Sinusoid

RUN = ["train", "task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8]", "algo.test_steps=1", "threads=1"]
RUN += ["name=run", "steps=30", "save_every=4", "log_every=1", "eval_every=0", "select=last", "test_episodes=8"]
STEPS = 30


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("straight")
    succeed(folder, *RUN)
    return what_must_be_equal(folder)


def check_saved(folder: Path, step: int, said: str) -> None:
    """The newest checkpoint is of the last save before `step`, is finite, and is named on the last line."""
    newest = checkpoint.list_newest_first(folder / "outputs" / "run" / "checkpoints")[0]
    assert checkpoint.step_of(newest) == step // 4 * 4
    assert all(value.isfinite().all() for value in load_file(newest).values())
    assert f"the last good checkpoint is {newest.relative_to(folder)}" in said.splitlines()[-1]


@pytest.mark.row("A6", ci=1, full=10)
def test_an_algorithm_that_raises_gets_its_traceback_and_the_last_checkpoint_named(
    attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
) -> None:
    step, good = random.Random(attempt).randrange(4, STEPS), MAML.meta_gradient

    def bad(self: MAML, net: Any, meta: Any, batch: Batch, number: int, carry: Any = None) -> Update:
        if number == step:
            raise LookupError("no such thing")
        return good(self, net, meta, batch, number, carry)

    monkeypatch.setattr(MAML, "meta_gradient", bad)
    failed = run(tmp_path, *RUN)
    monkeypatch.undo()
    assert failed.code == 1
    assert failed.err.count("Traceback (most recent call last)") == 1
    assert f'{__file__}", line' in failed.err
    assert "LookupError: no such thing" in failed.err.splitlines()[-1]
    assert f"so training stopped in step {step} or a test after it" in failed.err.splitlines()[-1]
    check_saved(tmp_path, step, failed.err)
    assert "Traceback" in (tmp_path / "outputs/run/train.log").read_text()
    succeed(tmp_path, *RUN)
    assert what_must_be_equal(tmp_path) == straight


@pytest.mark.row("C15", ci=3, full=30)
def test_a_value_that_is_not_finite_stops_before_the_update(
    attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
) -> None:
    """It is in the support set, the query set, or the gradient; the loss of the last is finite, and names no task."""
    rng = random.Random(attempt)
    step, value = rng.randrange(4, STEPS), rng.choice([float("nan"), float("inf"), -float("inf")])
    tasks = sorted(rng.sample(range(4), rng.randint(1, 3)))
    where = ("support_x", "query_y", "gradient")[attempt % 3]
    gather, meta_gradient, gathered = Sinusoid.gather, MAML.meta_gradient, [0]

    def gather_badly(self: Sinusoid, draw: Draw, device: torch.device) -> Batch:
        batch = gather(self, draw, device)
        gathered[0] += 1
        if gathered[0] != step + 1 or where == "gradient":
            return batch
        part = getattr(batch, where).clone()
        part[tasks, 0] = value
        return batch._replace(**{where: part})

    def bad_gradient(self: MAML, net: Any, meta: Any, batch: Batch, number: int, carry: Any = None) -> Update:
        update = meta_gradient(self, net, meta, batch, number, carry)
        if number != step or where != "gradient":
            return update
        name, part = next(iter(update.gradient.items()))
        return update._replace(gradient={**update.gradient, name: part.fill_(value)})

    monkeypatch.setattr(Sinusoid, "gather", gather_badly)
    monkeypatch.setattr(MAML, "meta_gradient", bad_gradient)
    stopped = run(tmp_path, *RUN)
    monkeypatch.undo()
    assert stopped.code == 1, stopped.err
    assert "Traceback" not in stopped.err
    what = "the gradient of" if where == "gradient" else "the loss of"
    which = "" if where == "gradient" else f" in tasks {tasks} of the meta-batch"
    assert f"{what} step {step} is not finite{which}, so training stopped before the update" in stopped.err
    check_saved(tmp_path, step, stopped.err)
    lines = [json.loads(line) for line in (tmp_path / "outputs/run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, step + 1))
    succeed(tmp_path, *RUN)
    assert what_must_be_equal(tmp_path) == straight


@pytest.mark.row("C15", ci=3, full=30)
def test_a_training_that_diverges_is_stopped(attempt: int, tmp_path: Path) -> None:
    diverging = (
        ["algo.inner_lr=1e3", "algo.inner_steps=9"],
        ["optimizer=sgd", "optimizer.lr=1e30"],
        ["task.noise=1e30"],
    )
    stopped = refuse(tmp_path, *RUN, *diverging[attempt % 3], f"seed={attempt}")
    assert "is not finite" in stopped
    for path in (tmp_path / "outputs/run/checkpoints").iterdir():
        assert all(value.isfinite().all() for value in load_file(path).values())


@pytest.mark.row("C13", ci=3, full=12)
def test_memory_that_ends_is_a_sentence_that_says_what_needs_less(
    attempt: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: dict[str, bytes]
) -> None:
    """A real end of memory in torch's allocator, Python's, and what a GPU would raise."""
    step, good = random.Random(attempt).randrange(4, STEPS), MAML.meta_gradient

    def bad(self: MAML, net: Any, meta: Any, batch: Batch, number: int, carry: Any = None) -> Update:
        if number == step and attempt % 3 == 0:
            torch.empty(1 << 60, dtype=torch.uint8)
        if number == step and attempt % 3 == 1:
            bytearray(1 << 60)
        if number == step and attempt % 3 == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return good(self, net, meta, batch, number, carry)

    monkeypatch.setattr(MAML, "meta_gradient", bad)
    stopped = run(tmp_path, *RUN)
    monkeypatch.undo()
    assert stopped.code == 1
    assert "Traceback" not in stopped.err
    last = stopped.err.splitlines()[-1]
    assert f"there is not enough memory on cpu in step {step} or a test after it" in last
    assert (
        "memory=auto, or tasks_per_chunk below 4, changes no result, or algo.remat=true, or algo.first_order=true"
        in last
    )
    assert (" MB at the most" in last) is Path("/proc/self/status").exists()
    check_saved(tmp_path, step, stopped.err)
    succeed(tmp_path, *RUN)
    assert what_must_be_equal(tmp_path) == straight, "nothing was made smaller by itself"


@pytest.mark.row("C13", ci=1, full=1)
def test_a_model_beyond_memory_leaves_no_folder(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    stopped = refuse(tmp_path, *RUN, "model.hidden=[100000,100000]", first=limit)
    assert "there is not enough memory (" in stopped
    assert "take tasks_per_chunk=1, or a smaller model or task" in stopped
    assert not (tmp_path / "outputs").exists()
