"""Two ranks of one thread against one process of two threads, interleaved: how many meta-iterations a second.

    python benchmarks/scaling.py [rounds]

Prints the rows of benchmarks/scaling.md: the median over rounds of each way, and of the ratio within a round.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMON = ["eval_every=0", "select=last", "test_episodes=2", "other_batch_norm=[]", "name=run", "save_every=100000"]
WORKLOADS = {
    "maml/sinusoid, 24 tasks a step": ["experiment=maml/sinusoid", "tasks_per_step=24", "steps=100", "log_every=20"],
    "maml/omniglot_5w1s, 32 tasks a step": ["experiment=maml/omniglot_5w1s", "steps=12", "log_every=4"],
    "protonet/omniglot_5w1s, 8 tasks a step": [
        *("experiment=protonet/omniglot_5w1s", "tasks_per_step=8", "steps=12", "log_every=4"),
    ],
}
ALONE = [sys.executable, "-m", "metalearn_cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "metalearn_cli"]
WAYS = {"1 process, 2 threads": (ALONE, "2"), "2 ranks, 1 thread": (TORCHRUN, "1")}


def speed(command: list[str], keys: list[str]) -> float:
    """Steps a second, the median over the lines of the log but the first."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("OMP_NUM_THREADS", None)
        subprocess.run(
            [*command, "train", *COMMON, *keys], cwd=folder, env=environment, check=True, capture_output=True
        )
        lines = (Path(folder) / "outputs" / "run" / "timing.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["steps_per_second"] for line in lines[1:])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, keys in WORKLOADS.items():
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, (command, threads) in WAYS.items():
                found[way].append(speed(command, [*keys, f"threads={threads}"]))
        one, two = found.values()
        ratios = sorted(b / a for a, b in zip(one, two, strict=True))
        figures = f"{statistics.median(one):.3g} | {statistics.median(two):.3g} | {statistics.median(ratios):.2f}"
        print(f"| {name} | {figures} | {ratios[0]:.2f} to {ratios[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
