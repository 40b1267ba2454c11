"""Batches that are gathered ahead, in a thread: the same run, and no thread is left."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import image_set
from commands import refuse, run, start_ranks, succeed, wait_ranks

from metalearn_cli.cli import main
from metalearn_cli.datasets import image_set as base
from metalearn_cli.errors import UserError
from metalearn_cli.system import measure
from metalearn_cli.system.prefetch import ahead
from metalearn_cli.tasks.base import Batch, Draw
from metalearn_cli.tasks.image_folder import ImageFolder

QUICK = ["train", "algo=protonet", "task=image_folder", "model.filters=2", "task.query=1", "task.size=16", "threads=1"]
QUICK += ["task.augment=[crop,flip,jitter]", "tasks_per_step=2", "steps=8", "log_every=1", "eval_every=4"]
QUICK += ["eval_episodes=4", "test_episodes=4", "other_batch_norm=[]", "save_every=2"]


def threads() -> int:
    return len([thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")])


def test_the_next_one_is_begun_while_one_is_used_and_no_more() -> None:
    begun: list[int] = []
    second = threading.Event()

    def work(number: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(number)
        if number == 1:
            second.set()
        return 10 * number

    items = ahead(work, range(5))
    assert next(items) == 0
    assert second.wait(60), "without being asked for"
    assert begun == [0, 1]
    assert list(items) == [10, 20, 30, 40]
    assert begun == [0, 1, 2, 3, 4]
    assert list(ahead(work, [])) == []
    assert threads() == 0


def test_a_failure_comes_in_its_turn_and_ends_the_thread() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise UserError("the disk is gone")
        return number

    items = ahead(work, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(UserError, match="the disk is gone"):
        next(items)
    assert threads() == 0


def test_closing_it_waits_for_what_was_begun() -> None:
    begun: list[int] = []
    done: list[int] = []
    is_closing = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            is_closing.wait(60)
            time.sleep(0.1)
        done.append(number)

    items = ahead(work, range(5))
    next(items)
    while begun != [0, 1]:
        time.sleep(0.001)
    is_closing.set()
    items.close()  # type: ignore[attr-defined]
    assert begun == done == [0, 1]
    assert threads() == 0


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of images is taken for one that lies on a disk; training batches must come from a thread."""
    gather = ImageFolder.gather

    def in_thread(self: ImageFolder, draw: Draw, device: torch.device) -> Batch:
        is_training = "support_flip" in draw
        assert is_training == (threading.current_thread() is not threading.main_thread())
        return gather(self, draw, device)

    monkeypatch.setattr(ImageFolder, "may_wait_for_disk", lambda self, device: True)
    monkeypatch.setattr(ImageFolder, "gather", in_thread)


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on how the batches came."""
    episodes = (folder / "episodes.npz").read_bytes()
    weights = [path.read_bytes() for path in sorted((folder / "checkpoints").iterdir())]
    return {"metrics": (folder / "metrics.jsonl").read_text(), "episodes": episodes, "weights": weights}


@pytest.fixture
def plain(tmp_path: Path, own_images: Path) -> dict[str, Any]:
    """The outcome of the run whose batches are gathered when they are needed."""
    succeed(tmp_path / "plain", *QUICK, f"task.root={own_images}", "name=one")
    return outcome(tmp_path / "plain/outputs/one")


def test_a_run_whose_batches_come_ahead_is_the_same_run(
    tmp_path: Path, own_images: Path, plain: dict[str, Any], far: None
) -> None:
    succeed(tmp_path / "far", *QUICK, f"task.root={own_images}", "name=one")
    assert outcome(tmp_path / "far/outputs/one") == plain


@pytest.mark.parametrize("signals", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on_to_the_same_end(
    tmp_path: Path, own_images: Path, plain: dict[str, Any], far: None, signals: int
) -> None:
    here = tmp_path / "far"
    command = [*QUICK, f"task.root={own_images}", "name=one"]

    def end(batch: Batch) -> Batch:
        os.kill(os.getpid(), signals)
        return batch

    ended = run(here, *command, first=lambda: at_training_batch(5, end))
    assert ended.code == {signal.SIGTERM: 143, signal.SIGKILL: -9}[signals]
    done = succeed(here, *command)
    assert "continuing after step" in done.err
    assert outcome(here / "outputs/one") == plain


def at_training_batch(number: int, change: Callable[[Batch], Batch]) -> None:
    """Change this one of the training batches that are gathered."""
    gather, numbers = ImageFolder.gather, itertools.count(1)

    def changed(self: ImageFolder, draw: Draw, device: torch.device) -> Batch:
        batch = gather(self, draw, device)
        return change(batch) if "support_flip" in draw and next(numbers) == number else batch

    ImageFolder.gather = changed  # type: ignore[method-assign]


def fail(batch: Batch) -> Batch:
    raise OSError(5, "Input/output error", "the/set")


def poison(batch: Batch) -> Batch:
    return batch._replace(support_x=batch.support_x * float("nan"))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (fail, "metalearn: Input/output error: the/set, so training stopped; the last good checkpoint is "),
        (poison, "metalearn: the loss of step 3 is not finite in tasks [0, 1] of the meta-batch, so training stopped"),
    ],
)
def test_what_fails_in_the_thread_is_the_same_sentence(
    tmp_path: Path, own_images: Path, far: None, damage: Callable[[Batch], Batch], sentence: str
) -> None:
    def first() -> None:
        at_training_batch(4, damage)
        code = main([*QUICK, f"task.root={own_images}", "name=one"])
        assert threads() == 0
        os._exit(code)

    assert refuse(tmp_path, first=first).startswith(sentence)


def test_each_rank_gathers_its_share_ahead(tmp_path: Path, own_images: Path, far: None) -> None:
    here = tmp_path / "ranks"
    here.mkdir()
    keys = [key for key in QUICK if not key.startswith(("eval", "save"))]
    command = [*keys, "eval_every=0", "select=last", f"task.root={own_images}"]
    succeed(here, *command, "name=alone")
    codes, said = wait_ranks(here, start_ranks(here, 2, *command, "name=both"))
    assert codes == [0, 0], said
    lines = [(here / "outputs" / name / "metrics.jsonl").read_text().splitlines() for name in ("alone", "both")]
    for one, two in zip(*lines, strict=True):
        assert json.loads(two) == pytest.approx(json.loads(one), rel=1e-4)


def test_sets_that_are_far(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    images = image_set(torch.zeros(10, 1, 10, 10, dtype=torch.uint8), 10)
    assert not images.may_wait_for_disk(cpu)
    monkeypatch.setattr(base, "free_memory", lambda device: 1500)
    assert images.may_wait_for_disk(cpu), "more than half of what is free"
    monkeypatch.setattr(base, "free_memory", lambda device: None)
    assert not images.may_wait_for_disk(cpu)
    monkeypatch.setattr(base, "READ_AT_EVERY_START", 999)
    assert images.may_wait_for_disk(cpu), "not read through at the start"
    assert not images.may_wait_for_disk(torch.device("meta")), "they are on the device"
    assert measure.free_memory(cpu)
