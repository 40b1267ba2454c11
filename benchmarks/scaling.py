"""Two ranks of one thread against one process of two threads, and what more ranks would give.

    python benchmarks/scaling.py [rounds]

Prints the tables of benchmarks/scaling.md. The first is measured, interleaved: the median over rounds of each way, and
of the ratio within a round. The second is a model of N ranks with one task or more each,

    seconds of a step = fixed + each * (tasks / N) + 2 * (2 (N - 1) * latency) + 2 (N - 1) / N * bytes / bandwidth

of what is measured (the first two terms, by steps of one process with few and with all tasks; the bytes of a step's one
message) and of what is assumed of a network: two collectives a step (the meta-gradient, and whether a signal came),
each a ring of 2 (N - 1) messages. The terms of the network are checked against two ranks on this machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import distributed as dist

ROOT = Path(__file__).resolve().parents[1]
COMMON = ["eval_every=0", "select=last", "test_episodes=2", "other_batch_norm=[]", "name=run", "save_every=100000"]


class Workload(NamedTuple):
    keys: list[str]
    tasks: int  # a step


WORKLOADS = {
    "maml/sinusoid": Workload(["experiment=maml/sinusoid", "steps=200", "log_every=40"], 24),
    "maml/omniglot_5w1s": Workload(["experiment=maml/omniglot_5w1s", "steps=12", "log_every=3"], 32),
    "protonet/omniglot_5w1s": Workload(["experiment=protonet/omniglot_5w1s", "steps=12", "log_every=3"], 8),
}
ALONE = [sys.executable, "-m", "metalearn_cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
WAYS = {"1 process, 2 threads": (ALONE, "2"), "2 ranks, 1 thread": ([*TORCHRUN, "-m", "metalearn_cli"], "1")}


class Network(NamedTuple):
    """What is assumed: of one message, and of one rank's sending."""

    latency: float  # seconds
    bandwidth: float  # bytes a second


NETWORKS = {
    "8 GPUs, NVLink": (8, Network(5e-6, 200e9)),
    "64 nodes, 25 Gbit/s": (64, Network(30e-6, 3e9)),
    "64 nodes, 1 Gbit/s": (64, Network(100e-6, 0.12e9)),
}


def train(command: list[str], keys: list[str]) -> tuple[float, int]:
    """Seconds of a step, the median over the lines of the log but the first, and the bytes of the parameters."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("OMP_NUM_THREADS", None)
        done = subprocess.run(
            [*command, "train", *COMMON, *keys], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        run = Path(folder) / "outputs" / "run"
        lines = [json.loads(line)["steps_per_second"] for line in (run / "timing.jsonl").read_text().splitlines()]
        found = min((run / "checkpoints").iterdir())
        with safe_open(found, framework="pt") as file:
            bytes_sent = sum(file.get_tensor(name).nbytes for name in list(file.keys()) if name.startswith("params."))
    return 1 / statistics.median(lines[1:]), bytes_sent


def all_reduce(size: int) -> float:
    """Seconds that two gloo ranks here take for the two collectives of a step, the median of many."""
    command = [*TORCHRUN, __file__, "--collectives", str(size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def collectives(size: int) -> None:
    """What one of the two ranks does; the first prints the seconds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    values, number, taken = torch.zeros(size // 4), torch.tensor(0), []
    for _ in range(200):
        began = time.perf_counter()
        dist.all_reduce(values)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        taken.append(time.perf_counter() - began)
    if dist.get_rank() == 0:
        print(statistics.median(taken))
    dist.destroy_process_group()


def modelled(fixed: float, each: float, tasks: int, size: int, ranks: int, network: Network) -> float:
    """Seconds of a step of so many ranks."""
    talking = 4 * (ranks - 1) * network.latency + 2 * (ranks - 1) / ranks * size / network.bandwidth
    return fixed + each * tasks / ranks + talking


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    sizes = {}
    print(
        "| workload | 1 process, 2 threads | 2 ranks, 1 thread | ratio, median | ratio, range |\n|---|---|---|---|---|"
    )
    for name, (keys, tasks) in WORKLOADS.items():
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, (command, threads) in WAYS.items():
                seconds, sizes[name] = train(command, [*keys, f"tasks_per_step={tasks}", f"threads={threads}"])
                found[way].append(1 / seconds)
        one, two = found.values()
        ratios = sorted(b / a for a, b in zip(one, two, strict=True))
        figures = f"{statistics.median(one):.3g} | {statistics.median(two):.3g} | {statistics.median(ratios):.2f}"
        print(f"| {name}, {tasks} tasks | {figures} | {ratios[0]:.2f} to {ratios[-1]:.2f} |", flush=True)

    heads = " | ".join(NETWORKS)
    print(f"\n| workload | fixed, ms | each task, ms | message, kB | two gloo ranks here, ms | {heads} |")
    print("|---" * (5 + len(NETWORKS)) + "|")
    for name, (keys, tasks) in WORKLOADS.items():
        few = max(1, tasks // 8)
        points = {}
        for number in (few, tasks):
            taken = [train(ALONE, [*keys, f"tasks_per_step={number}", "threads=1"])[0] for _ in range(rounds)]
            points[number] = statistics.median(taken)
        each = (points[tasks] - points[few]) / (tasks - few)
        fixed = max(0.0, points[few] - each * few)
        shares = []
        for ranks, network in NETWORKS.values():
            tasks_there = max(tasks, ranks)  # a task for each rank at least
            alone = fixed + each * tasks_there
            gain = alone / modelled(fixed, each, tasks_there, sizes[name], ranks, network)
            shares.append(f"{gain:.1f} times, {tasks_there} tasks")
        cells = [f"{fixed * 1e3:.2f}", f"{each * 1e3:.2f}", f"{sizes[name] / 1e3:.1f}"]
        print("| " + " | ".join([name, *cells, f"{all_reduce(sizes[name]) * 1e3:.2f}", *shares]) + " |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--collectives"]:
        collectives(int(sys.argv[2]))
    else:
        main()
