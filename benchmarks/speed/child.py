"""One process for one variant: it reads a line of JSON, does what it says, and answers with one.

The parent asks one child after another for a slice of steps, so that all variants are timed side by side while each has
an allocator, threads and a peak of memory of its own. In between a child waits for its pipe and costs nothing; it tells
how much processor time it took all the same.
"""

import gc
import importlib
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np
import torch

from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.variants import MODULES
from benchmarks.speed.workloads import Workload
from metalearn_cli.errors import UserError
from metalearn_cli.system.allocator import Allocator, set_allocator, trim_heap
from metalearn_cli.system.measure import begin_peak, peak_memory

Answer = dict[str, Any]


class Child:
    def __init__(self, variant: str, allocator: str, device: str, threads: int, limit: int) -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        if device == "cpu":  # a driver reserves more than it uses
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        set_allocator(Allocator[allocator])
        kind, _, self.option = variant.partition("/")
        self.device = torch.device(device)
        # Without TF32, as the program has it; torch's own start has it in convolutions.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.module = importlib.import_module(f"benchmarks.speed.variants.{MODULES[kind]}")
        self.runner: Runner | None = None
        self.base = begin_peak(self.device) or 0
        self.idle_since = time.process_time()

    def build(self, workload: Workload) -> Answer:
        """One step, in which programs compile; the memory of those that follow is what is measured, `held` what there
        is between steps."""
        self.runner = None
        gc.collect()
        trim_heap()
        self.runner = self.module.build(workload, Setting(False, self.device.type, self.option))
        first = self._time(1)
        gc.collect()
        trim_heap()
        held = (begin_peak(self.device) or 0) - self.base  # the peak is that of what follows
        return {"first": first, "held": held}

    def slice(self, steps: int) -> Answer:
        """Seconds for each step, and the peak of memory since the first."""
        idle = time.process_time() - self.idle_since
        seconds = self._time(steps) / steps
        peak = (peak_memory(self.device) or 0) - self.base
        self.idle_since = time.process_time()
        return {"seconds": seconds, "peak": peak, "idle": idle}

    def check(self, workload: Workload) -> Answer:
        """The relative error of the meta-gradient against a loop of plain layers, both in float64, in little."""
        from benchmarks.speed import reference

        runner = self.module.build(workload.small(), Setting(True, self.device.type, self.option))
        runner.step()
        runner.wait()
        pairs = zip(runner.gradient(), reference.meta_gradient(workload.small()), strict=True)
        return {"error": max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)}

    def _time(self, steps: int) -> float:
        assert self.runner is not None
        self.runner.wait()
        began = time.perf_counter()
        for _ in range(steps):
            self.runner.step()
        self.runner.wait()
        return time.perf_counter() - began


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    child: Child | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        do, given = asked.pop("do"), asked
        if "workload" in given:
            given["workload"] = Workload(**given["workload"])
        try:
            if do == "start":
                child = Child(**given)
                answer: Answer = {}
            else:
                answer = getattr(child, do)(**given)
        except (ImportError, Unsupported, UserError) as error:
            answer = {"why": f"not installed: {error}" if isinstance(error, ImportError) else str(error)}
        except Exception as error:  # of any program: the others are measured all the same
            answer = {
                "why": f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
            }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
