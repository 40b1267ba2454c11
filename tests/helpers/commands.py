"""Run the real command in a process of its own, a fork: importing torch again would take most of the time."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch._inductor
import torch.distributed as dist
import torch.utils.tensorboard  # noqa: F401  as the one above: what commands import, once instead of in each fork

from metalearn_cli.cli import main
from metalearn_cli.system.signals import catch, end_at_once

TINY = ["model.hidden=[8]", "algo.test_steps=2", "threads=1", "debug=quick"]  # a run of a second


class Finished(NamedTuple):
    code: int
    out: str
    err: str


def start(folder: Path, *arguments: str, first: Callable[[], object] | None = None) -> int:
    """`metalearn ARGUMENTS` in `folder` -> the pid; stdout and stderr are appended to the files out and err there.

    `first` is called in the process before the command.
    """
    folder.mkdir(exist_ok=True)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whether or not these tests run under nohup
            os.chdir(folder)
            for descriptor, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            if first is not None:
                first()
            code = main(list(arguments))
            catch(end_at_once)  # as `entry` does
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:  # what Python would print on its way out
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return pid


def wait(folder: Path, pid: int) -> Finished:
    """Wait for the process -> its code, and what it and earlier ones in this folder have printed."""
    _, status = os.waitpid(pid, 0)
    out, err = ((folder / name).read_text() if (folder / name).exists() else "" for name in ("out", "err"))
    return Finished(os.waitstatus_to_exitcode(status), out, err)


def run(folder: Path, *arguments: str, first: Callable[[], object] | None = None) -> Finished:
    """Start `metalearn ARGUMENTS`, wait for it, and give what it alone has printed."""
    for name in ("out", "err"):
        (folder / name).unlink(missing_ok=True)
    return wait(folder, start(folder, *arguments, first=first))


def in_a_fork(work: Callable[[], object]) -> int:
    """The exit code of a process that does `work`, which may end it: 1 where it raises."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def succeed(folder: Path, *arguments: str, first: Callable[[], object] | None = None) -> Finished:
    """Run a command that ends with exit code 0."""
    done = run(folder, *arguments, first=first)
    assert done.code == 0, done.err
    return done


def refuse(folder: Path, *arguments: str, first: Callable[[], object] | None = None) -> str:
    """Run a command that ends with exit code 1, and without a traceback -> its sentence, the last line of stderr."""
    done = run(folder, *arguments, first=first)
    assert done.code == 1, done
    assert "Traceback" not in done.err
    said = done.err.splitlines()[-1]
    assert said.startswith("metalearn: ")
    return said


def is_running(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def start_ranks(
    folder: Path, size: int, *arguments: str, first: Callable[[int], object] = lambda rank: None
) -> list[int]:
    """The same command in `size` processes that belong together, as torchrun starts them -> their pids.

    `first` is called in each of them, with its rank, before the command.
    """
    port = start_store()

    def join_as(rank: int) -> Callable[[], object]:
        def prepare() -> None:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            first(rank)

        return prepare

    return [start(folder, *arguments, first=join_as(rank)) for rank in range(size)]


def start_store() -> str:
    """What torchrun keeps for its ranks, in a process that ends with this one -> its port."""
    reading, writing = os.pipe()
    parent = os.getpid()
    if os.fork() == 0:
        try:
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            os.write(writing, str(store.port).encode())
            while os.getppid() == parent:
                time.sleep(0.5)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        return pipe.read(5)


def wait_ranks(folder: Path, pids: list[int]) -> tuple[list[int], str]:
    """Their exit codes, and what all of them have said."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    return codes, (folder / "err").read_text()


def results(folder: Path, name: str) -> dict[str, Any]:
    """The content of results.json of the run of this name."""
    content: dict[str, Any] = json.loads((folder / "outputs" / name / "results.json").read_text())
    return content
