"""What a person waits for: says how far it is, answers a signal at once, and is not lost when it is stopped."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import results, run
from kills import what_must_be_equal
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.learning import learner
from metalearn_cli.learning.learner import Scores
from metalearn_cli.run_folder import scored_parts
from metalearn_cli.system.console import Console, Progress

# A validation and a test are four blocks each, and the metric of a block is asked for three times: after 0, 1, 2 steps.
RUN = ["task=sinusoid", "model.hidden=[4]", "algo.test_steps=2", "threads=1", "name=run", "save_every=50"]
RUN += ["log_every=1", "eval_episodes=200", "test_episodes=200", "eval_every=4"]


def signal_at(call: int, number: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """The signal comes when a metric is asked for the `call`th time; how often it is asked for stands in a file."""

    def install() -> None:
        metric, asked = learner.task_scores, [0]

        def counted(*arguments: object) -> dict[str, Tensor]:
            asked[0] += 1
            Path("asked").write_text(str(asked[0]))
            if asked[0] == call:
                os.kill(os.getpid(), number)
            value = metric(*arguments)  # type: ignore[arg-type]
            return value

        learner.task_scores = counted
        scored_parts.WORTH_KEEPING = 0.0

    return install


def asked(folder: Path) -> int:
    return int((folder / "asked").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bits of eight steps to which nothing happens: validations of steps 4 and 8, and the test."""
    folder = tmp_path_factory.mktemp("straight")
    done = run(folder, "train", *RUN, "steps=8")
    assert done.code == 0, done.err
    return what_must_be_equal(folder)


def test_a_signal_within_a_block_of_a_validation_is_answered_there(tmp_path: Path, straight: dict[str, bytes]) -> None:
    stopped = run(tmp_path, "train", *RUN, "steps=8", first=signal_at(5))
    assert stopped.code == 143
    assert asked(tmp_path) == 5, "what was computed after the signal"
    assert stopped.err.splitlines()[-1].startswith("metalearn: stopped; saved step 4; continue with: metalearn train ")
    assert "finishing the step" not in stopped.err
    assert run(tmp_path, "train", *RUN, "steps=8").code == 0
    assert what_must_be_equal(tmp_path) == straight


def test_a_test_that_was_stopped_goes_on_with_what_was_scored(tmp_path: Path, straight: dict[str, bytes]) -> None:
    stopped = run(tmp_path, "train", *RUN, "steps=8", first=signal_at(24 + 7, signal.SIGINT))
    assert stopped.code == 130
    assert asked(tmp_path) == 24 + 7
    assert "stopped; saved step 8 and a part of its test; continue with: metalearn train" in stopped.err
    assert "finishing the step" not in stopped.err
    outputs = tmp_path / "outputs/run"
    first, second = sorted(outputs.glob(f"{scored_parts.FOLDER}/*/*"))
    # Once more, before the rest: a part that is damaged is scored again, and what is none is not read.
    second.write_bytes(second.read_bytes()[:-1] + bytes([second.read_bytes()[-1] ^ 1]))
    (first.parent / "00000003-8-0123456789abcdef.safetensors").write_bytes(b"mine")
    stopped = run(tmp_path, "train", *RUN, "steps=8", first=signal_at(5))
    assert "going on with the test after 64 of 200 episodes" in stopped.err
    done = run(tmp_path, "train", *RUN, "steps=8", first=signal_at(0))
    assert done.code == 0, done.err
    assert "going on with the test after 128 of 200 episodes" in done.err
    assert asked(tmp_path) == 6, "two blocks were left"
    assert what_must_be_equal(tmp_path) == straight
    assert not (outputs / scored_parts.FOLDER).exists()


def test_a_part_of_a_block_is_kept_where_few_tasks_go_through_at_once(tmp_path: Path) -> None:
    """Five at once, 13 times in a block: a part is ten episodes."""
    chunked = [*RUN, "steps=2", "tasks_per_chunk=5", "test_episodes=70"]
    assert run(tmp_path / "whole", "train", *chunked).code == 0
    stopped = run(tmp_path, "train", *chunked, first=signal_at(3 * 9 + 1))
    assert stopped.code == 143
    done = run(tmp_path, "train", *chunked, first=signal_at(0))
    assert "going on with the test after 40 of 70 episodes" in done.err
    assert asked(tmp_path) == 3 * (5 + 2)
    assert what_must_be_equal(tmp_path) == what_must_be_equal(tmp_path / "whole")


def test_what_was_scored_of_another_test_is_not_taken(tmp_path: Path, straight: dict[str, bytes]) -> None:
    """A longer run has other weights, and a test with another number of episodes has other blocks at its end."""
    run(tmp_path, "train", *RUN, "steps=4", first=signal_at(12 + 7))
    assert list((tmp_path / "outputs/run").glob(f"{scored_parts.FOLDER}/*/*"))
    done = run(tmp_path, "train", *RUN, "steps=8")
    assert "going on with the test" not in done.err
    assert what_must_be_equal(tmp_path) == straight


def test_the_scores_of_other_weights_are_those_of_another_test() -> None:
    one, other = (new_learner(load_job(["device=cpu", "model.hidden=[4]", f"seed={seed}"])) for seed in (0, 1))
    keys = {scored_parts.part_key(learner, about) for learner in (one, other) for about in ("running", "inductive")}
    assert len(keys) == 4
    assert scored_parts.part_key(one, "running") in keys


def test_parts_are_read_for_the_modes_and_the_episodes_that_they_are_of(tmp_path: Path) -> None:
    modes = [BatchNorm.running, BatchNorm.inductive]
    places = [(0, 64), (64, 64), (128, 8)]
    for place in places:
        part = {mode: Scores(torch.rand(place[1], 1), torch.rand(place[1], 1), {}) for mode in modes}
        scored_parts.write_part(tmp_path, place, part)
    assert list(scored_parts.read_parts(tmp_path, modes)) == places
    assert list(scored_parts.read_parts(tmp_path, modes[1:])) == places
    assert scored_parts.read_parts(tmp_path, [*modes, BatchNorm.one_query]) == {}
    (last,) = tmp_path.glob("00000128-*")
    last.rename(tmp_path / last.name.replace("-8-", "-9-"))
    (other,) = tmp_path.glob("00000064-*")
    (tmp_path / other.name.replace("00000064", "00000192")).symlink_to(other)
    assert list(scored_parts.read_parts(tmp_path, modes)) == places[:2]


def test_an_evaluation_that_was_stopped_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path, "train", *RUN, "steps=4").code == 0
    command = ["eval", "run=outputs/run", "episodes_seed=1"]
    early = run(tmp_path, *command, first=signal_at(2))
    assert early.code == 143
    assert not list((tmp_path / "outputs/run/eval").iterdir()), "nothing was scored"
    stopped = run(tmp_path, *command, first=signal_at(8))
    assert stopped.code == 143
    assert asked(tmp_path) == 8
    assert "saved a part of the test; continue with: metalearn eval run=outputs/run episodes_seed=1" in stopped.err
    done = run(tmp_path, *command, first=signal_at(0))
    assert done.code == 0, done.err
    assert "going on with the test after 128 of 200 episodes" in done.err
    assert asked(tmp_path) == 6
    (folder,) = (tmp_path / "outputs/run/eval").iterdir()
    kept = [(folder / name).read_bytes() for name in ("results.json", "episodes.npz")]
    for path in folder.iterdir():
        path.unlink()
    assert run(tmp_path, *command).code == 0
    assert [(folder / name).read_bytes() for name in ("results.json", "episodes.npz")] == kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_how_long_it_will_take_is_said_once_where_it_is_more_than_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(Console(), "test", 600, 0, announced="testing 600 episodes in 3 batch-norm modes") as progress:
        clock[0] += 1
        progress.advance(1, "episodes")  # too early to tell
        clock[0] += 3
        progress.advance(10, "episodes")
        progress.advance(11, "episodes")
    assert capsys.readouterr().err.splitlines() == ["testing 600 episodes in 3 batch-norm modes: about 4 minutes"]
    with Progress(Console(), "test", 600, 0, announced="testing 600 episodes") as progress:
        clock[0] += 3
        progress.advance(60, "episodes")  # half a minute
        clock[0] += 100
        progress.advance(64, "episodes")
    assert capsys.readouterr().err.splitlines() == ["test 64/600  episodes  0.621/s  14:22 left"]


def test_of_a_validation_something_is_seen_where_it_takes_long(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for seconds, seen in ((1, []), (10, ["validate 100/200  episodes  10/s  0:10 left"])):
        with Progress(Console(), "validate", 200, passing=True) as progress:
            clock[0] += seconds
            progress.advance(100, "episodes")
            progress.advance(200, "episodes")
        assert capsys.readouterr().err.splitlines() == seen


def what_is_tested(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("testing step")]


def test_which_step_is_tested_is_said_with_the_reason(tmp_path: Path) -> None:
    short = [*RUN, "eval_episodes=4", "test_episodes=4"]
    assert what_is_tested(run(tmp_path, "train", *short, "steps=2").err) == [
        "testing step 2, the last, as there was no validation to choose by"
    ]
    assert what_is_tested(run(tmp_path, "train", *short, "steps=2", "select=last").err) == ["testing step 2, the last"]
    done = run(tmp_path, "train", *short, "steps=4", "select=best", "optimizer.lr=0.001")
    assert what_is_tested(done.err) == ["testing step 4, the best of 1 validation by mse"]


def test_the_last_step_is_validated_too_and_a_prolonged_run_is_as_one_long_one(tmp_path: Path) -> None:
    short = [*RUN, "eval_episodes=4", "test_episodes=4"]
    # Steps 4 and 6: a rate at which each step is better than the one before, or worse.
    for number, (rate, step) in enumerate((("0.001", 6), ("0", 4))):
        folder = tmp_path / str(number)
        done = run(folder, "train", *short, "steps=6", f"optimizer.lr={rate}")
        assert what_is_tested(done.err) == [f"testing step {step}, the best of 2 validations by mse"], done.err
        assert "step 6, the last, has val mse" in done.err
        assert results(folder, "run")["step"] == step
        assert '"step": 6, "val' not in (folder / "outputs/run/metrics.jsonl").read_text()
        assert run(folder, "train", *short, "steps=8", f"optimizer.lr={rate}").code == 0
        whole = folder / "whole"
        assert run(whole, "train", *short, "steps=8", f"optimizer.lr={rate}").code == 0
        ours, long = what_must_be_equal(folder), what_must_be_equal(whole)
        assert ours["metrics.jsonl"] == long["metrics.jsonl"]
        assert ours["results.json"] == long["results.json"]


def test_no_steps_test_what_is_there(tmp_path: Path) -> None:
    short = [*RUN, "eval_episodes=4", "test_episodes=4", "algo=reptile", "optimizer.schedule=linear"]
    done = run(tmp_path, "train", *short, "steps=0")
    assert done.code == 0, done.err
    assert what_is_tested(done.err) == ["testing step 0, before any training"]
    assert [results(tmp_path, "run")[key] for key in ("step", "steps")] == [0, 0]
    lines = (tmp_path / "outputs/run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0]  # the validation that was asked for
    unasked = [key for key in short if not key.startswith("eval_every=")]
    assert run(tmp_path / "unasked", "train", *unasked, "steps=0").code == 0
    assert not (tmp_path / "unasked/outputs/run/metrics.jsonl").read_text()
    assert "already finished, 0 steps" in run(tmp_path, "train", *short, "steps=0").err
    assert run(tmp_path, "eval", "run=outputs/run").code == 0
    assert run(tmp_path, "report", "outputs/run", "out=report.html").code == 0
    # And they can be the beginning of more.
    done = run(tmp_path, "train", *short, "steps=4")
    assert done.code == 0, done.err
    assert "continuing after step 0" in done.err
    assert run(tmp_path / "whole", "train", *short, "steps=4").code == 0
    ours, long = what_must_be_equal(tmp_path), what_must_be_equal(tmp_path / "whole")
    assert {**ours, **long} == ours
