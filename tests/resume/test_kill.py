"""Real processes, killed at random moments and started again by the same command, end with the same bits."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from metalearn_cli import checkpoint
from metalearn_cli.cli import main
from metalearn_cli.writers import read_lines

SINUSOID = ["task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8,8]", "algo.test_steps=2", "steps=400"]
OMNIGLOT = ["task=omniglot", "model.filters=4", "task.query=2", "steps=40"]
COMMON = ["name=run", "threads=1", "log_every=5", "eval_episodes=8", "test_episodes=16"]
CASES = {
    "maml on sinusoid": [*SINUSOID, "save_every=10", "eval_every=30"],
    "maml on omniglot": [*OMNIGLOT, "algo=maml", "tasks_per_step=2", "save_every=2", "eval_every=6"],
    "protonet on omniglot": [*OMNIGLOT, "algo=protonet", "save_every=2", "eval_every=6"],
}


def start(folder: Path, arguments: list[str]) -> int:
    """Run the command in a process of its own -> its pid. Forked: importing torch anew would take most of the time."""
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        code = 99
        try:
            code = main(["train", *arguments, *COMMON])
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid


def finish(folder: Path, arguments: list[str]) -> str:
    """Run the command to its end -> all that commands in this folder have said so far."""
    _, status = os.waitpid(start(folder, arguments), 0)
    said = (folder / "log").read_text()
    assert os.waitstatus_to_exitcode(status) == 0, said
    return said


def what_must_be_equal(folder: Path) -> dict[str, bytes]:
    """Every checkpoint that is kept (their names are hashes of their bits), metrics, results, episodes."""
    run = folder / "outputs" / "run"
    paths = [*(run / "checkpoints").iterdir(), run / "metrics.jsonl", run / "results.json", run / "episodes.npz"]
    return {path.name: path.read_bytes() for path in paths}


def kill_after(pid: int, run: Path, saves: int) -> bool:
    """SIGKILL once `saves` checkpoints have appeared that were not there, and a random moment later."""
    seen = set((run / "checkpoints").glob("step-*")) if run.exists() else set()
    new: set[Path] = set()
    while len(new) < saves and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        new |= set((run / "checkpoints").glob("step-*")) - seen
        time.sleep(0.0005)
    time.sleep(random.Random(saves).random() * 0.01)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("packed_omniglot")
def test_killed_and_continued_ends_with_the_bits_of_an_uninterrupted_run(tmp_path: Path, case: str) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    finish(straight, CASES[case])
    run, kills = killed / "outputs" / "run", 0
    for saves in (1, 5, 3):
        kills += kill_after(start(killed, CASES[case]), run, saves)
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
    kill_after(start(killed, case), killed / "outputs" / "run", 6)
    newest = checkpoint.list_newest_first(killed / "outputs" / "run" / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert f"skipping {Path('outputs/run/checkpoints') / newest.name}" in finish(killed, case)
    assert what_must_be_equal(killed) == what_must_be_equal(straight)


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
    kept = read_lines(tmp_path / "outputs" / "run" / "metrics.jsonl")
    (tmp_path / "again").mkdir()
    process = start(tmp_path / "again", [*SINUSOID, "save_every=150", "eval_every=0", "select=last"])
    kill_after(process, tmp_path / "again" / "outputs" / "run", 1)
    with open(tmp_path / "again" / "outputs" / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 155, "train/loss": 1.0}\n{"step": 16')  # the second line was being written
    finish(tmp_path / "again", [*SINUSOID, "save_every=150", "eval_every=0", "select=last"])
    again = read_lines(tmp_path / "again" / "outputs" / "run" / "metrics.jsonl")
    assert again == [line for line in kept if "train/loss" in line]
