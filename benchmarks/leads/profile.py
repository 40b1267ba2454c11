"""Where the time of a step goes: each workload of benchmarks/speed, the operations of torch by kind.

python -m benchmarks.leads.profile          # two threads; about two minutes on a quiet machine
"""

import sys
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.runner import Setting
from benchmarks.speed.variants import ours
from benchmarks.speed.workloads import WORKLOADS
from metalearn_cli.system.allocator import Allocator, set_allocator

KINDS = {
    "convolutions": ("convolution", "mkldnn"),
    "matrix products": ("mm", "linear"),
    "pooling and its places": ("max_pool", "scatter", "gather", "index"),
    "sums and statistics": ("sum", "mean", "var", "norm"),
    "copies and fills": ("copy", "fill", "zero", "cat", "clone", "empty", "contiguous"),
    "gates (sigmoid, tanh)": ("sigmoid", "tanh"),
}
REST = "element by element"
CHUNKS = {"W1": "ours", "W2": "ours/8", "W2b": "ours/2", "W3": "ours/2", "W3-FO": "ours/2", "W3-5": "ours/1"}


def variant_of(workload: str) -> str:
    """This program with as many tasks at once as are fastest."""
    return CHUNKS.get(workload, "ours/1" if workload == "W4" else "ours/4")


def kind_of(operation: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in operation for word in words)), REST)


def main() -> None:
    set_allocator(Allocator.tuned)
    threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {threads} threads, tuned allocator; share of a step's time in %\n")
    print("| | " + " | ".join([*KINDS, REST]) + " |")
    print("|---" * (len(KINDS) + 2) + "|")
    for workload in WORKLOADS:
        variant = variant_of(workload.name)
        setting = Setting(False, "cpu", variant.partition("/")[2])
        learner, batch = ours._learner(workload, setting, ours._net(workload)), ours._batch(workload, setting)
        for step in range(2):
            learner.step(batch, step)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            learner.step(batch, 2)
        shares: dict[str, float] = defaultdict(float)
        for event in recorded.key_averages():
            if event.key.startswith("aten::"):
                shares[kind_of(event.key)] += event.self_cpu_time_total
        total = sum(shares.values())
        row = [f"{100 * shares[kind] / total:.0f}" for kind in [*KINDS, REST]]
        print(f"| {workload.name} ({variant}) | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
