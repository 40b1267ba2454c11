"""A variant in a process of its own, as the parent sees it."""

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple

from benchmarks.speed.workloads import Workload

ROOT = Path(__file__).parents[2]


class Host(NamedTuple):
    """What all variants of a run share."""

    device: str
    threads: int
    patience: float  # seconds after which a variant that does not answer is ended
    log: IO[str]  # what the programs print


class Remote:
    """Every answer is a dict: with `why`, the sentence that says why there is no figure, and the process is gone."""

    def __init__(self, variant: str, allocator: str, host: Host) -> None:
        self.host = host
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "OMP_NUM_THREADS": str(host.threads),
            "MKL_NUM_THREADS": str(host.threads),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # JAX must leave the card's memory to the others
        }
        if host.device == "cpu":
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=host.log,
            text=True,
            env=environment,
        )
        limit = int(0.9 * available_memory())
        given = {"variant": variant, "allocator": allocator, "device": host.device, "threads": host.threads}
        self.started = self._ask({"do": "start", "limit": limit, **given})

    def build(self, workload: Workload) -> dict[str, Any]:
        return self._ask({"do": "build", "workload": dataclasses.asdict(workload)})

    def check(self, workload: Workload) -> dict[str, Any]:
        return self._ask({"do": "check", "workload": dataclasses.asdict(workload)})

    def slice(self, steps: int) -> dict[str, Any]:
        return self._ask({"do": "slice", "steps": steps})

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, as the answer will tell
            print(json.dumps(question), file=self.process.stdin, flush=True)
        ready, _, _ = select.select([self.process.stdout], [], [], self.host.patience)
        line = self.process.stdout.readline() if ready else ""
        answer: dict[str, Any]
        if line:
            answer = json.loads(line)
        elif ready:
            answer = {"why": f"its process ended with {self.process.wait()} (-9: out of memory)"}
        else:
            answer = {"why": f"no step within {self.host.patience:.0f} s"}
        if "why" in answer:
            self.close()
        return answer


def available_memory() -> int:
    """Bytes that the machine could still give."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
