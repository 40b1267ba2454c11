"""Signals that a terminal sends."""

import contextlib
import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest
from commands import TINY


@pytest.mark.parametrize("hung_up", [True, False])
@pytest.mark.row("C17")
def test_a_closed_terminal_ends_a_run_that_saves_but_under_nohup_it_goes_on(tmp_path: Path, hung_up: bool) -> None:
    command = [sys.executable, "-m", "metalearn_cli", "train", *TINY, "name=one", "save_every=1000000"]
    command += [f"steps={1000000 if hung_up else 200}", "eval_every=0", "select=last"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        signal.signal(signal.SIGHUP, signal.SIG_DFL if hung_up else signal.SIG_IGN)
        os.execv(command[0], command)
    os.set_blocking(terminal, False)
    metrics = tmp_path / "outputs/one/metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size == 0:
        time.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (129 if hung_up else 0)
    assert len(list((tmp_path / "outputs/one/checkpoints").glob("step-*"))) == 1
    assert (tmp_path / "outputs/one/results.json").exists() is not hung_up
    assert "Traceback" not in (tmp_path / "outputs/one/train.log").read_text()
