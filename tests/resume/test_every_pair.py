"""Every algorithm on every task: killed in the middle and continued, a run ends with the bits of one that was not."""

import os
import signal
from pathlib import Path

import pytest
from commands import start, succeed, wait
from kills import what_must_be_equal
from pairs import ALIKE, PAIRS, built_or_refused, cases, small
from torch import Tensor

from metalearn_cli.config.job import load_job
from metalearn_cli.learning.learner import Learner
from metalearn_cli.tasks.base import Batch

SHORT = ["name=run", "threads=1", "steps=6", "save_every=2", "log_every=1", "eval_every=3", "eval_episodes=4"]
SHORT += ["test_episodes=4", "other_batch_norm=[]"]


@pytest.mark.parametrize(
    ("algo", "task"), cases([pair for pair in PAIRS if pair[1] not in ALIKE], ("maml",), ("omniglot",))
)
@pytest.mark.usefixtures("packed_images")
@pytest.mark.row("A3")
def test_killed_and_continued_ends_with_the_same_bits(tmp_path: Path, own_images: Path, algo: str, task: str) -> None:
    arguments = ["train", *small(algo, task, own_images), *SHORT]
    job = load_job(arguments[1:])
    if built_or_refused(job) is None:
        return
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    succeed(straight, *arguments)
    make_step = Learner.step

    def step_or_die(self: Learner, batch: Batch, step: int) -> Tensor:
        if step == 5:  # five are done, and the fifth is not saved
            os.kill(os.getpid(), signal.SIGKILL)
        return make_step(self, batch, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", step_or_die)
        assert wait(killed, start(killed, *arguments)).code == -signal.SIGKILL
    done = succeed(killed, *arguments)
    assert "continuing after step 4" in done.err
    assert what_must_be_equal(killed) == what_must_be_equal(straight)
