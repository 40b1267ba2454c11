"""A compiled run resumes like any other."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from commands import start, succeed, wait
from kills import kill_after, what_must_be_equal

# torch's own, of what it imports to compile.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

COMMAND = ["train", "task=sinusoid", "algo=maml", "tasks_per_step=4", "model.hidden=[8,8]", "steps=300", "name=run"]
COMMAND += ["threads=1", "log_every=5", "eval_every=30", "eval_episodes=8", "test_episodes=16", "save_every=10"]


@pytest.mark.nightly
def test_a_run_that_was_killed_and_compiled_again_ends_with_the_same_bits(tmp_path: Path, inductor_cache: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = succeed(straight, *COMMAND, "compile=true")
    assert "compiled in" in done.err
    assert kill_after(start(killed, *COMMAND, "compile=true"), killed / "outputs/run", 5)
    shutil.rmtree(inductor_cache)
    done = succeed(killed, *COMMAND, "compile=true")
    assert "continuing after step" in done.err
    assert what_must_be_equal(killed) == what_must_be_equal(straight)


def test_a_signal_while_it_compiles_leaves_at_once(tmp_path: Path, inductor_cache: Path) -> None:
    shutil.rmtree(inductor_cache, ignore_errors=True)
    pid = start(tmp_path, *COMMAND, "compile=true")
    log = tmp_path / "outputs/run/train.log"
    while not log.exists() or "compiling" not in log.read_text():
        time.sleep(0.01)
    time.sleep(1)
    os.kill(pid, signal.SIGTERM)
    done = wait(tmp_path, pid)
    assert done.code == 143, done.err
    assert "nothing was trained yet; continue with: metalearn train" in done.err
    assert "finishing the step" not in done.err
