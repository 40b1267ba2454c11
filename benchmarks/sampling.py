"""What sampling costs: drawing the tasks of a meta-batch and gathering their pixels, beside the training step.

    python benchmarks/sampling.py > benchmarks/sampling.md      # about five minutes; METALEARN_DATA holds the data sets

Medians of interleaved rounds, as `metalearn bench` takes them. What lacks its data is named, and left out.
"""

import datetime
import platform
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.system.console import Console
from metalearn_cli.tuning.bench import Round, one_round, product
from metalearn_cli.tuning.prepare import prepare

RUNS = (
    "experiment=maml/sinusoid",
    "experiment=maml/sinusoid task.shot=10 algo.first_order=true",
    "experiment=maml/omniglot_5w1s",
    "experiment=maml/omniglot_5w1s_first_order",
    "experiment=protonet/omniglot_5w1s",
    "experiment=protonet/omniglot_5w1s task.rotations=none task.within_group=true task.train_way=10",
    "experiment=protonet/omniglot_5w1s task.variable=true task.shot=10 task.query=10 task.train_way=20",
    "experiment=protonet/cifar_fs_5w1s",
    "experiment=protonet/cifar_fs_5w1s task.augment=[crop,flip,jitter]",
    "experiment=maml/cifar_fs_5w1s",
    "experiment=maml/cifar_fs_5w1s task.augment=[crop,flip,jitter]",
)
SECONDS = 20  # of each


def measure(words: str) -> Round:
    """Medians of the seconds of a meta-iteration's parts."""
    job = load_job([*words.split(), "select=last", "eval_every=0", "threads=1"])
    console = Console()
    _ = job.task.fingerprint  # reads the data, or says what is missing
    job = prepare(job, None, console)
    learner = new_learner(job)
    multiply = product(learner.device, learner.dtype)
    rounds = [one_round(job, learner, 0, 1, multiply, 1)]
    steps = max(1, round(0.2 / rounds[0].step))
    number = max(5, round(SECONDS / (steps * rounds[0].step)))
    rounds = [one_round(job, learner, 1 + i * steps, steps, multiply, 1) for i in range(number)]
    return Round(*map(statistics.median, zip(*rounds, strict=True)))


def main() -> None:
    print("# What sampling costs\n")
    print(
        "Made by `python benchmarks/sampling.py > benchmarks/sampling.md`: medians of interleaved rounds, seed of the"
    )
    print("preset, one CPU thread, float32, random weights at the start of training.\n")
    cpu = next((line for line in open("/proc/cpuinfo") if line.startswith("model name")), "model name: unknown")
    device = f"cpu ({cpu.partition(':')[2].strip()})"
    print(f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {datetime.date.today()}\n")
    print("Command: `metalearn train KEYS select=last eval_every=0 threads=1`.\n")
    print("| KEYS | draw, ms | gather, ms | step, ms | share of draw and gather |")
    print("|---|---|---|---|---|")
    for words in RUNS:
        try:
            times = measure(words)
        except UserError as sentence:
            print(f"{words}: {sentence}", file=sys.stderr)
            continue
        share = (times.draw + times.gather) / (times.draw + times.gather + times.step)
        parts = " | ".join(f"{1e3 * seconds:.3g}" for seconds in times[:3])
        print(f"| `{words}` | {parts} | {share:.1%} |", flush=True)


if __name__ == "__main__":
    main()
