"""Real processes, killed at random moments and started again by the same command, end with the same bits."""

import os
import signal
from pathlib import Path

import pytest
import torch
from commands import start, wait
from kills import kill_after, what_must_be_equal

from metalearn_cli.run_folder import checkpoint
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.tasks.base import Draw
from metalearn_cli.tasks.sinusoid import Sinusoid

SINUSOID = ["task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8,8]", "algo.test_steps=2", "steps=400"]
OMNIGLOT = ["task=omniglot", "model.filters=4", "task.query=2", "steps=40"]
MATCHING = ["algo=matching", "algo.fce=true", "algo.reads=1", "algo.learn_temperature=true", "algo.test_steps=1"]
META_LSTM = ["algo=meta_lstm", "algo.inner_steps=2", "algo.test_steps=2", "algo.hidden=4", "tasks_per_step=2"]
QUADRATICS = ["task=quadratics", "task.dimension=3", "tasks_per_step=4", "algo.test_steps=4", "save_every=5"]
COMMON = ["name=run", "threads=1", "log_every=5", "eval_episodes=8", "test_episodes=16"]
CASES = {
    "maml on sinusoid": [*SINUSOID, "save_every=10", "eval_every=30"],
    "maml on omniglot": [*OMNIGLOT, "algo=maml", "tasks_per_step=2", "save_every=2", "eval_every=6"],
    "learned optimizer on quadratics": [
        *(*QUADRATICS, "algo=learned_optimizer", "algo.hidden=[4]", "algo.unroll=3", "algo.horizon=9"),
        *("algo.batch_size=2", "steps=150", "eval_every=15"),
    ],
    "hand optimizer on quadratics": [
        *(*QUADRATICS, "algo=hand_optimizer", "algo.horizon=9", "steps=200", "eval_every=15"),
    ],
    "protonet on omniglot": [*OMNIGLOT, "algo=protonet", "save_every=2", "eval_every=6"],
    "matching on omniglot": [*OMNIGLOT, *MATCHING, "save_every=2", "eval_every=6"],
    "meta_lstm on omniglot": [*OMNIGLOT, *META_LSTM, "save_every=2", "eval_every=6"],
}


def begin(folder: Path, arguments: list[str]) -> int:
    return start(folder, "train", *arguments, *COMMON)


def finish(folder: Path, arguments: list[str]) -> str:
    """Run the command to its end -> all that commands in this folder have said so far."""
    done = wait(folder, begin(folder, arguments))
    assert done.code == 0, done.err
    return done.err


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("packed_omniglot")
@pytest.mark.row("A3")
def test_killed_and_continued_ends_with_the_bits_of_an_uninterrupted_run(tmp_path: Path, case: str) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    finish(straight, CASES[case])
    run, kills = killed / "outputs" / "run", 0
    for saves in (1, 5, 3):
        kills += kill_after(begin(killed, CASES[case]), run, saves)
    assert kills == 3
    assert not (run / "results.json").exists()
    assert "continuing after step" in finish(killed, CASES[case])
    assert what_must_be_equal(killed) == what_must_be_equal(straight)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_gives_the_same_bits(tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    case = CASES["maml on sinusoid"]
    finish(straight, case)
    kill_after(begin(killed, case), killed / "outputs" / "run", 6)
    newest = checkpoint.list_newest_first(killed / "outputs" / "run" / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert f"skipping {Path('outputs/run/checkpoints') / newest.name}" in finish(killed, case)
    assert what_must_be_equal(killed) == what_must_be_equal(straight)


@pytest.mark.row("A16")
@pytest.mark.row("C16")
def test_more_steps_continue_a_finished_run_as_if_it_had_been_one(tmp_path: Path) -> None:
    straight, raised = tmp_path / "straight", tmp_path / "raised"
    straight.mkdir()
    raised.mkdir()
    case = CASES["maml on sinusoid"]
    finish(straight, case)
    finish(raised, [*case, "steps=95"])  # neither a multiple of save_every nor of eval_every
    assert "continuing after step 95" in finish(raised, case)
    assert what_must_be_equal(raised) == what_must_be_equal(straight)
    before = what_must_be_equal(raised)
    assert "already finished" in finish(raised, case)
    assert what_must_be_equal(raised) == before


@pytest.mark.row("A17")
def test_other_intervals_of_saving_and_logging_train_the_same(tmp_path: Path) -> None:
    last = []
    for number, intervals in enumerate((["save_every=10"], ["save_every=77", "log_every=9"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        finish(folder, [*SINUSOID, "eval_every=30", *intervals])
        last.append(checkpoint.load_newest(folder / "outputs" / "run" / "checkpoints")[0])
    assert last[0] is not None
    assert last[1] is not None
    assert last[0].step == last[1].step == 400
    assert all((last[0].tensors[name] == last[1].tensors[name]).all() for name in last[0].tensors)


def test_metrics_that_were_written_after_the_last_checkpoint_are_not_there_twice(tmp_path: Path) -> None:
    finish(tmp_path, [*SINUSOID, "save_every=150", "eval_every=30"])
    kept = list(read_lines(tmp_path / "outputs" / "run" / "metrics.jsonl"))
    (tmp_path / "again").mkdir()
    process = begin(tmp_path / "again", [*SINUSOID, "save_every=150", "eval_every=0", "select=last"])
    kill_after(process, tmp_path / "again" / "outputs" / "run", 1)
    with open(tmp_path / "again" / "outputs" / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 155, "train/loss": 1.0}\n{"step": 16')  # the second line was being written
    finish(tmp_path / "again", [*SINUSOID, "save_every=150", "eval_every=0", "select=last"])
    again = list(read_lines(tmp_path / "again" / "outputs" / "run" / "metrics.jsonl"))
    assert again == [line for line in kept if "train/loss" in line]


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        *((signal.SIGTERM, 143, moment) for moment in ("training", "validation", "test")),
        *((signal.SIGINT, 130, moment) for moment in ("training", "validation", "test")),
        (signal.SIGHUP, 129, "training"),
    ],
)
@pytest.mark.usefixtures("packed_omniglot")
def test_a_signal_saves_the_very_step_and_the_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int, moment: str
) -> None:
    """The signal is raised inside the process, at a known place, so that it always lands where it should."""
    case = [*SINUSOID, "save_every=100", "eval_every=30", "eval_episodes=128", "steps=90", "test_episodes=128"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    finish(straight, case)
    split = {"training": "train", "validation": "val", "test": "test"}[moment]
    draw, drawn = Sinusoid.draw, {"train": 0, "val": 0, "test": 0}

    def draw_and_raise(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
        drawn[which] += 1
        if which == split and drawn[which] == (47 if split == "train" else 1):
            os.kill(os.getpid(), number)
        return draw(self, tasks, which, rng)

    monkeypatch.setattr(Sinusoid, "draw", draw_and_raise)
    done = wait(stopped, begin(stopped, case))
    monkeypatch.undo()
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    step = {"training": 47, "validation": 30, "test": 90}[moment]
    assert f"saved step {step}; continue with: metalearn train" in done.err
    newest, _ = checkpoint.load_newest(stopped / "outputs" / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == step
    assert newest.record["to_validate"] is (moment == "validation")
    finish(stopped, case)
    assert what_must_be_equal(stopped) == what_must_be_equal(straight)


def test_a_second_signal_leaves_at_once_with_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come inside step 25: after one alone, that step would be finished and saved."""
    draw, drawn = Sinusoid.draw, [0]

    def draw_and_raise(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
        drawn[0] += 1
        for _ in range(2 if drawn[0] == 25 else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, tasks, which, rng)

    monkeypatch.setattr(Sinusoid, "draw", draw_and_raise)
    done = wait(tmp_path, begin(tmp_path, [*SINUSOID, "save_every=10", "eval_every=0", "select=last"]))
    assert done.code == 130
    assert "Traceback" not in done.err
    newest, skipped = checkpoint.load_newest(tmp_path / "outputs" / "run" / "checkpoints")
    assert newest is not None
    assert newest.step == 20
    assert skipped == []


@pytest.mark.row("A16")
def test_a_run_that_was_stopped_in_its_last_validation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And killed once more right after that validation was written: its line does not come twice."""
    case = [*SINUSOID, "save_every=50", "eval_every=20", "steps=60", "optimizer.lr=0"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir()
    stopped.mkdir()
    finish(straight, case)
    draw, drawn = Sinusoid.draw, {"train": 0, "val": 0, "test": 0}

    def interrupted(at: tuple[str, int], number: signal.Signals) -> None:
        def draw_and_raise(self: Sinusoid, tasks: int, which: str, rng: torch.Generator) -> Draw:
            drawn[which] += 1
            if (which, drawn[which]) == at:
                os.kill(os.getpid(), number)
            return draw(self, tasks, which, rng)

        monkeypatch.setattr(Sinusoid, "draw", draw_and_raise)
        wait(stopped, begin(stopped, case))
        monkeypatch.setattr(Sinusoid, "draw", draw)

    interrupted(("val", 2), signal.SIGTERM)  # within the validation of step 20: nothing is better than the first
    interrupted(("train", 5), signal.SIGKILL)  # that validation is written, and no checkpoint since
    interrupted(("val", 4), signal.SIGTERM)  # within that of the last step
    finish(stopped, case)
    assert what_must_be_equal(stopped) == what_must_be_equal(straight)
