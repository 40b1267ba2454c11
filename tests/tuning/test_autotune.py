"""What is left to timing: chosen once, within the bound, recorded, and without an effect on the result."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import results, run
from folders import rewrite

from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.system.allocator import trim_heap
from metalearn_cli.system.console import Console
from metalearn_cli.system.limits import parse_memory
from metalearn_cli.system.measure import begin_peak, free_memory, peak_memory
from metalearn_cli.system.ranks import Ranks
from metalearn_cli.tuning import autotune
from metalearn_cli.tuning.prepare import prepare

CPU = torch.device("cpu")
TINY = ["algo=maml", "task=sinusoid", "steps=4", "tasks_per_step=6", "test_episodes=4", "select=last", "eval_every=0"]


Way = tuple[int, bool]  # tasks at once, and whether inner steps are computed again


def decide(
    job: Job, seconds: dict[Way, float], megabytes: dict[Way, int], patch: pytest.MonkeyPatch, held: int = 300
) -> Way:
    """What is chosen where a step takes and uses this, of a process that has 300 MB, and `held` when it was tried once.
    Whatever else is tried is a KeyError."""
    tried: list[Way] = []

    def taken(learner: Learner, batch: Any) -> float:
        assert learner.tasks_per_chunk is not None
        tried.append((learner.tasks_per_chunk, learner.algorithm.remat))  # type: ignore[attr-defined]
        return seconds[tried[-1]]

    patch.setattr(autotune, "_seconds", taken)
    patch.setattr(autotune, "_test_once", lambda learner, job, ranks: None)
    patch.setattr(autotune, "begin_peak", lambda device: (held if tried else 300) * 10**6)
    patch.setattr(autotune, "peak_memory", lambda device: megabytes[tried[-1]] * 10**6)
    patch.setattr(autotune, "USED", 1)
    best = autotune.choose_chunk(job, CPU, Console())
    assert best.peak == megabytes[best.tasks, best.remat] * 10**6
    return best.tasks, best.remat


def plain(of: dict[int, Any]) -> dict[Way, Any]:
    return {(tasks, False): value for tasks, value in of.items()}


def remat(of: dict[int, Any]) -> dict[Way, Any]:
    return {(tasks, True): value for tasks, value in of.items()}


MANY = [*TINY, "tasks_per_step=32"]


def test_the_fastest_chunk_is_chosen_and_what_is_clearly_slower_ends_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = plain(dict.fromkeys((1, 2, 4, 8), 1))
    for keys in (["tasks_per_chunk=auto"], ["memory=auto"], ["tasks_per_chunk=auto", "memory=1GB"]):
        job = load_job([*MANY, *keys])
        assert decide(job, plain({1: 1.0, 2: 0.7, 4: 0.8, 8: 0.9}), used, monkeypatch) == (2, False)
    job = load_job([*TINY, "tasks_per_step=3", "tasks_per_chunk=auto"])
    assert decide(job, plain({1: 1.0, 2: 0.9, 3: 0.8}), plain({1: 1, 2: 1, 3: 1}), monkeypatch) == (3, False)


def test_no_chunk_is_tried_that_would_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB and 100 a task: eight would take 1,100."""
    used = plain({1: 400, 2: 500, 4: 700})
    seconds = plain({1: 1.0, 2: 0.9, 4: 0.8})
    kept = [*MANY, "algo.remat=false"]
    assert decide(load_job([*kept, "memory=1GB"]), seconds, used, monkeypatch) == (4, False)
    assert decide(load_job([*kept, "memory=450MB"]), seconds, used, monkeypatch) == (1, False)
    more = plain({1: 400, 2: 700})  # two took more than was foreseen
    assert decide(load_job([*kept, "memory=650MB"]), seconds, more, monkeypatch) == (1, False)
    monkeypatch.setattr(autotune, "free_memory", lambda device: 10**9)
    assert decide(load_job([*MANY, "tasks_per_chunk=auto"]), seconds, used, monkeypatch) == (4, False)
    assert decide(load_job([*kept, "memory=auto"]), seconds, used, monkeypatch) == (4, False)
    with pytest.raises(UserError) as refused:
        decide(load_job([*kept, "memory=350MB"]), seconds, used, monkeypatch)
    assert str(refused.value) == (
        "memory=350MB is too little: steps and a test take 400 MB, all that the process holds included, with 1 task(s) "
        "at once; give memory=400MB or more, or algo.remat=true, or algo.first_order=true, or a smaller task or model"
    )


def test_what_only_the_first_step_takes_is_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task takes 400 MB, of which 90 stay when it is gone: two are foreseen at 410 MB, and not at 500."""
    job = load_job([*MANY, "algo.remat=false", "memory=412MB"])
    used = plain({1: 400, 2: 405})
    assert decide(job, plain({1: 1.0, 2: 0.9}), used, monkeypatch, held=390) == (2, False)


def test_what_is_said_to_be_enough_is() -> None:
    for peak in (11_700_000_000, 123_456_789, 999_999_999, 1_999_000_001, 5_000):
        said = autotune.bytes_shown(autotune._rounded_up(peak / autotune.USED)).replace(" ", "")
        assert peak <= parse_memory(said) * autotune.USED < 1.02 * peak, said


def test_inner_steps_are_computed_again_where_that_is_faster_or_nothing_else_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without, one task takes 500 MB; with, 50 a task on top of 300. More tasks than fit without are tried with."""
    used = plain({1: 800, 2: 1300}) | remat({1: 350, 2: 400, 4: 500, 8: 700})
    both = [*MANY, "memory=850MB"]
    seconds = plain({1: 1.0}) | remat({2: 0.8, 4: 0.7, 8: 0.9})
    assert decide(load_job(both), seconds, used, monkeypatch) == (4, True)
    seconds = plain({1: 1.0}) | remat({2: 1.2, 4: 1.3, 8: 1.4})
    assert decide(load_job(both), seconds, used, monkeypatch) == (1, False)
    seconds = plain({1: 1.0}) | remat({1: 1.2, 2: 1.1, 4: 1.3})
    assert decide(load_job([*MANY, "memory=600MB"]), seconds, used, monkeypatch) == (2, True)
    with pytest.raises(UserError, match=r"memory=340MB is too little: steps and a test take 350 MB, .* memory=350MB"):
        decide(load_job([*MANY, "memory=340MB"]), plain({1: 1.0}) | remat({1: 1.2}), used, monkeypatch)


def test_what_the_command_gives_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    used = plain({1: 400, 4: 900}) | remat({1: 320, 4: 500, 8: 600})
    seconds = plain({1: 1.0, 4: 0.9}) | remat({1: 1.2, 4: 1.1, 8: 1.1})
    four = [*MANY, "tasks_per_chunk=4"]
    assert decide(load_job([*four, "memory=1GB"]), seconds, used, monkeypatch) == (4, False)
    assert decide(load_job([*four, "memory=600MB"]), seconds, used, monkeypatch) == (4, True)
    with pytest.raises(UserError, match=r"900 MB.*with 4 task\(s\) at once; give .*, or fewer tasks_per_chunk, or"):
        decide(load_job([*four, "memory=600MB", "algo.remat=false"]), seconds, used, monkeypatch)
    assert decide(load_job([*four, "memory=1GB", "algo.remat=true"]), seconds, used, monkeypatch) == (4, True)
    first = [*four, "memory=600MB", "algo.first_order=true"]
    with pytest.raises(UserError, match=r"900 MB.*with 4 task\(s\) at once; .*, or fewer tasks_per_chunk, or a small"):
        decide(load_job(first), seconds, used, monkeypatch)


def test_ranks_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 MB are held, 700 free, of which 630 are to be used, by two: 615 MB each."""
    monkeypatch.setattr(autotune, "free_memory", lambda device: 10**9)
    job = load_job([*TINY, "memory=auto"])
    assert autotune._bound(job, CPU, 300 * 10**6, Ranks()) == 930 * 10**6
    assert autotune._bound(job, CPU, 300 * 10**6, Ranks(size=2, local_size=2)) == 615 * 10**6
    assert autotune._bound(load_job([*TINY, "memory=1GB"]), CPU, None, Ranks(size=2, local_size=2)) == 950 * 10**6


@pytest.mark.skipif(begin_peak(CPU) is None, reason="the system does not tell")
@pytest.mark.parametrize("mode", ["transductive", "one_query"])
def test_a_test_counts_as_well(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without a large network on 2 points, and a test on 20,000."""
    keys = ["model.hidden=[100]", "task.shot=1", "task.query=20000", f"batch_norm={mode}", "algo.first_order=true"]
    job = load_job([*TINY, *keys, "memory=8GB", "tasks_per_chunk=6"])
    monkeypatch.setattr(autotune, "_seconds", lambda learner, batch: 1.0)
    monkeypatch.setattr(Learner, "step", lambda learner, batch, step: None)
    trim_heap()  # what is kept for the next tensor, by this test or another, would not be counted
    before, best = begin_peak(CPU), autotune.choose_chunk(job, CPU, Console())
    assert before is not None
    assert best.peak is not None
    assert best.peak - before > 6 * 20_000 * 100 * 4


def test_a_number_of_a_preset_is_not_one_of_the_command(tmp_path: Path) -> None:
    images = ["task=omniglot", f"task.root={tmp_path}", "model=conv4"]
    job = load_job([*images, "memory=1GB"])
    assert job.run.tasks_per_chunk == 8
    assert autotune.may_cut(job)
    assert not autotune.may_cut(load_job([*images, "tasks_per_chunk=8"]))


RUN = [*TINY, "model.hidden=[250,250]", "algo.inner_steps=30", "algo.test_steps=1", "threads=1", "log_every=1"]
RUN += ["save_every=1", "task.shot=1", "task.query=1"]


@pytest.mark.nightly
@pytest.mark.skipif(begin_peak(CPU) is None, reason="the system does not tell")
def test_a_run_within_its_memory_that_was_killed_ends_with_the_bits_of_the_keys_that_were_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks at once, and nothing computed again, it would take more."""
    free = run(tmp_path, "train", *RUN, "memory=auto", "algo.remat=false", "name=free")
    assert free.code == 0, free.err
    least, *_, most = (float(peak) for peak in re.findall(r"at once: .* s a step, ([\d.]+) MB", free.err))
    bound = f"memory={(least + most) / 2 / autotune.USED:.0f}MB"
    command = ["train", *RUN, bound, "name=run"]
    good = MAML.meta_gradient

    def last(self: MAML, net: Any, meta: Any, batch: Any, number: int, carry: Any = None) -> Any:
        return os._exit(9) if number == 2 else good(self, net, meta, batch, number, carry)

    monkeypatch.setattr(MAML, "meta_gradient", last)
    assert run(tmp_path, *command).code == 9
    monkeypatch.undo()
    folder = tmp_path / "outputs" / "run"
    chosen = json.loads((folder / "choices.json").read_text())
    assert chosen["remat"] or chosen["tasks_per_chunk"] < 6
    again = run(tmp_path, *command)
    assert again.code == 0, again.err
    assert "continuing after step 2" in again.err
    assert f"for {bound}" in again.err
    tested = run(tmp_path, "eval", "run=outputs/run", "test_episodes=6")
    assert f"{chosen['tasks_per_chunk']} of 6 tasks go through at once" in tested.err
    explicit = [f"tasks_per_chunk={chosen['tasks_per_chunk']}", f"algo.remat={chosen['remat']}"]
    assert run(tmp_path, "train", *RUN, *explicit, "name=explicit").code == 0
    for name in ("metrics.jsonl", "episodes.npz"):
        assert (folder / name).read_bytes() == (folder.parent / "explicit" / name).read_bytes()


def test_the_choice_is_recorded_and_taken_again(tmp_path: Path) -> None:
    command = ["train", *TINY, "tasks_per_chunk=auto", "memory=8GB", "name=run"]
    first = run(tmp_path, *command)
    assert first.code == 0, first.err
    choices = tmp_path / "outputs" / "run" / "choices.json"
    chosen = json.loads(choices.read_text())
    assert 1 <= chosen["tasks_per_chunk"] <= 6
    assert "task(s) at once: " in first.err
    rewrite(choices, chosen | {"tasks_per_chunk": 5})
    again = run(tmp_path, *command, "steps=6", "log_every=1")
    assert again.code == 0, again.err
    assert "5 of 6 tasks go through at once" in again.err
    assert "a step" not in again.err  # nothing is measured again
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
    expected, *means = (results(tmp_path, name)["mean"] for name in ("all", "auto", "two", "four"))
    assert means == pytest.approx(3 * [expected], rel=1e-10)


@pytest.mark.parametrize("fastest", ["grouped", "product"])
def test_a_gpu_convolves_by_the_faster_way_and_a_cpu_grouped(
    fastest: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = ["algo=maml", "task=omniglot", f"task.root={tmp_path}", "model=conv4"]
    job = load_job([*images, "threads=1", "allocator=default"])

    def seconds(learner: Learner, batch: object) -> float:
        return 1.0 if learner.net.convolution.name == fastest else 2.0  # type: ignore[attr-defined]

    monkeypatch.setattr(autotune, "_seconds", seconds)
    monkeypatch.setattr(type(job), "training_draw", lambda *_: {})
    monkeypatch.setattr(type(job.task), "gather", lambda task, draw, device: None)
    assert autotune.fastest_convolution(job, CPU, Console()).name == fastest
    assert prepare(job, None, Console()).net.convolution is Convolution.auto  # type: ignore[attr-defined]
    assert new_learner(job).net.convolution is Convolution.auto  # type: ignore[attr-defined]


CHUNK, MEMORY = (
    "auto or a whole number, 1 or above, or null",
    "auto or a size with its unit, e.g. 4GB or 512MB, or null",
)


def test_what_cannot_be_meant_is_refused() -> None:
    for key, words in (("tasks_per_chunk=0", CHUNK), ("tasks_per_chunk=[1]", CHUNK), ("memory=4", MEMORY)):
        with pytest.raises(UserError, match=re.escape(f"{key} must be {words}")):
            load_job([*TINY, key])


def test_a_size_of_memory_has_a_unit() -> None:
    assert parse_memory("4GB") == 4 * 10**9
    assert parse_memory("1.5 MiB") == 1.5 * 1024**2
    for text in ("4", "GB", "4 gigabytes", "-1GB", "0GB"):
        assert parse_memory(text) == 0


@pytest.mark.skipif(begin_peak(CPU) is None, reason="the system does not tell")
def test_the_peak_of_memory_is_measured() -> None:
    trim_heap()  # what is kept for the next tensor, by this test or another, would not be counted
    before = begin_peak(CPU)
    held = torch.ones(50_000_000, dtype=torch.uint8).clone()
    del held
    peak = peak_memory(CPU)
    assert before is not None
    assert peak is not None
    assert 40e6 < peak - before < 200e6
    free = free_memory(CPU)
    assert free is not None
    assert before < free < 1e15
