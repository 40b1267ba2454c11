"""What is left to timing: chosen once, within the bound, recorded, and without an effect on the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run

from metalearn_cli import machine
from metalearn_cli.config import Job, load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learner import Learner
from metalearn_cli.machine import new_learner, prepare
from metalearn_cli.measure import free_memory, memory, parse_memory, peak_memory
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.progress import Console

CPU = torch.device("cpu")
TINY = ["algo=maml", "task=sinusoid", "steps=4", "tasks_per_step=6", "test_episodes=4", "select=last", "eval_every=0"]


def decide(job: Job, seconds: dict[int, float], megabytes: dict[int, int], patch: pytest.MonkeyPatch) -> int:
    """The chunk that is chosen where a step takes and uses this."""
    tried: list[int] = []

    def taken(learner: Learner, batch: Any) -> float:
        assert learner.tasks_per_chunk is not None
        tried.append(learner.tasks_per_chunk)
        return seconds[tried[-1]]

    patch.setattr(machine, "_seconds", taken)
    patch.setattr(machine, "memory", lambda device: 300 * 10**6)
    patch.setattr(machine, "peak_memory", lambda device: megabytes[tried[-1]] * 10**6)
    return machine._fastest_chunk(job, CPU, Console())


def test_the_fastest_chunk_is_chosen_and_what_is_clearly_slower_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto"])
    used = dict.fromkeys((1, 2, 4, 8), 1)  # no more are tried: others would be a KeyError
    assert decide(job, {1: 1.0, 2: 0.7, 4: 0.8, 8: 0.9}, used, monkeypatch) == 2
    job = load_job([*TINY, "tasks_per_step=3", "tasks_per_chunk=auto"])
    assert decide(job, {1: 1.0, 2: 0.9, 3: 0.8}, {1: 1, 2: 1, 3: 1}, monkeypatch) == 3


def test_no_chunk_is_tried_that_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB and 100 a task: eight would take 1,100."""
    used = {1: 400, 2: 500, 4: 700}
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto", "memory=1GB"])
    assert decide(job, {1: 1.0, 2: 0.9, 4: 0.8}, used, monkeypatch) == 4
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto", "memory=450MB"])
    assert decide(job, {1: 1.0}, used, monkeypatch) == 1
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto", "memory=650MB"])
    assert decide(job, {1: 1.0, 2: 0.9}, {1: 400, 2: 700}, monkeypatch) == 1  # two took more than was foreseen
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto"])
    monkeypatch.setattr(machine, "free_memory", lambda device: 10**9)
    assert decide(job, {1: 1.0, 2: 0.9, 4: 0.8}, used, monkeypatch) == 4
    job = load_job([*TINY, "tasks_per_step=32", "tasks_per_chunk=auto", "memory=350MB"])
    with pytest.raises(UserError, match=r"memory=350MB is too little: a step takes 400 MB"):
        decide(job, {1: 1.0}, used, monkeypatch)


def test_the_choice_is_recorded_and_taken_again(tmp_path: Path) -> None:
    command = ["train", *TINY, "tasks_per_chunk=auto", "memory=8GB", "name=run"]
    first = run(tmp_path, *command)
    assert first.code == 0, first.err
    choices = tmp_path / "outputs" / "run" / "choices.json"
    chosen = json.loads(choices.read_text())
    assert 1 <= chosen["tasks_per_chunk"] <= 6
    assert "task(s) at once: " in first.err
    choices.write_text(json.dumps(chosen | {"tasks_per_chunk": 5}))
    again = run(tmp_path, *command, "steps=6", "log_every=1")
    assert again.code == 0, again.err
    assert "5 of 6 tasks go through at once" in again.err
    assert "a step" not in again.err  # nothing is measured anew
    assert json.loads(choices.read_text())["tasks_per_chunk"] == 5
    tested = run(tmp_path, "eval", "run=outputs/run", "test_episodes=8")
    assert tested.code == 0, tested.err
    assert "5 of 6 tasks go through at once" in tested.err
    tested = run(tmp_path, "eval", "run=outputs/run", "test_episodes=8", "tasks_per_chunk=3")
    assert tested.code == 0, tested.err
    other = run(tmp_path, *command[:-2], "memory=7GB", "name=run", "steps=8")
    assert other.code == 0, other.err
    assert "task(s) at once: " in other.err  # what was chosen for another bound does not count


def test_the_choice_does_not_change_the_result(tmp_path: Path) -> None:
    for name, chunk in (("all", "null"), ("auto", "auto"), ("two", "2"), ("four", "4")):
        assert run(tmp_path, "train", *TINY, f"tasks_per_chunk={chunk}", "precision=fp64", f"name={name}").code == 0
    found = [
        json.loads((tmp_path / "outputs" / name / "results.json").read_text())["mean"]
        for name in ("auto", "two", "four")
    ]
    expected = json.loads((tmp_path / "outputs" / "all" / "results.json").read_text())["mean"]
    assert found == pytest.approx(3 * [expected], rel=1e-10)


@pytest.mark.parametrize("fastest", ["grouped", "product"])
def test_a_gpu_convolves_by_the_faster_way_and_a_cpu_grouped(
    fastest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = load_job(
        ["algo=maml", "task=omniglot", f"task.root={tmp_path}", "model=conv4", "threads=1", "allocator=default"]
    )

    def seconds(learner: Learner, batch: object) -> float:
        return 1.0 if learner.net.convolution.name == fastest else 2.0  # type: ignore[attr-defined]

    monkeypatch.setattr(machine, "_seconds", seconds)
    monkeypatch.setattr(machine, "training_draw", lambda *_: {})
    monkeypatch.setattr(type(job.task), "gather", lambda task, draw, device: None)
    assert machine._fastest_convolution(job, CPU, Console()) == fastest
    assert prepare(job, None, Console()).net.convolution is Convolution.auto  # type: ignore[attr-defined]
    assert new_learner(job).net.convolution is Convolution.auto  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["tasks_per_chunk=0"], "tasks_per_chunk=0 must be a whole number from 1 on, auto or null"),
        (["tasks_per_chunk=all"], "tasks_per_chunk=all must be a whole number from 1 on, auto or null"),
        (["tasks_per_chunk=[1]"], "a whole number or a word or null"),
        (["memory=4GB"], "memory=4GB is held by tasks_per_chunk=auto: give that too"),
        (["tasks_per_chunk=auto", "memory=4"], "memory=4 must be a size with its unit, e.g. memory=4GB"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        load_job([*TINY, *overrides])
    assert sentence in str(refused.value)


def test_a_size_of_memory_has_a_unit() -> None:
    assert parse_memory("4GB") == 4 * 10**9
    assert parse_memory("1.5 MiB") == 1.5 * 1024**2
    for text in ("4", "GB", "4 gigabytes", "-1GB", "0GB"):
        with pytest.raises(UserError, match=r"e\.g\. memory=4GB"):
            parse_memory(text)


@pytest.mark.skipif(memory(CPU) is None, reason="the system does not tell")
def test_the_peak_of_memory_is_measured() -> None:
    before = memory(CPU)
    held = torch.ones(50_000_000, dtype=torch.uint8).clone()
    del held
    peak = peak_memory(CPU)
    assert before is not None
    assert peak is not None
    assert 40e6 < peak - before < 200e6
    free = free_memory(CPU)
    assert free is not None
    assert before < free < 1e15
