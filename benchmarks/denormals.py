"""What denormal numbers cost: training steps with them as 0, as a run has them, and with them kept.

    python -m benchmarks.denormals > benchmarks/denormals.md         # on one thread; about 20 minutes of a processor

First ProtoNet on pictures of 84 pixels that are told apart with ease, then each workload of benchmarks/speed. Two
learners with the same start take the same steps in turn, one with denormal numbers as 0 and one with them kept, and the
processor's seconds of each step are counted, so that other work on the machine says little.
"""

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.leads.profile import variant_of
from benchmarks.speed.runner import Setting
from benchmarks.speed.variants import ours
from benchmarks.speed.workloads import WORKLOADS, Workload
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import load_job
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.run_folder.environment import processor
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.device import Precision, set_denormals, set_process
from metalearn_cli.tasks.base import Batch

PROTONET = ["algo=protonet", "task=image_folder", "task.shot=5", "task.query=5", "threads=1"]
STEPS = 40

HEAD = """\
# What denormal numbers cost

Made by `python -m benchmarks.denormals --rounds {rounds} > benchmarks/denormals.md`: processor seconds of training
steps with numbers below 1e-38 as 0, as a run has them, and with them kept. Two learners with the same start (seed 0)
take the same steps in turn.

{made}

## ProtoNet on pictures of 84 pixels

`{command}`, {steps} steps;
16 classes of patterns that the script makes; batch norm transductive.
"""

Seconds = dict[bool, list[float]]  # of each step, by whether denormal numbers are 0


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.denormals", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="steps of each workload of benchmarks/speed")
    rounds = parser.parse_args().rounds
    set_process(Precision.fp32, 1, Allocator.tuned)
    made = f"cpu ({processor()}), one thread, torch {torch.__version__}, {datetime.date.today()};\n"
    made += f"a load of {os.getloadavg()[0]:.0f} on {os.cpu_count()} processors"
    print(HEAD.format(made=made, command=" ".join(PROTONET), steps=STEPS, rounds=rounds))
    print("| denormal numbers | seconds | the slowest step | the median step |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        seconds, same = of_pictures(Path(folder))
    for zero, each in seconds.items():
        parts = (sum(each), max(each), statistics.median(each))
        print(f"| {'as 0' if zero else 'kept'} | " + " | ".join(f"{part:.3g}" for part in parts) + " |")
    print(f"\nRatio {sum(seconds[False]) / sum(seconds[True]):.2f}. Test accuracies on 64 episodes are ", end="")
    print(f"{'the same in every episode' if same else 'not the same'}.\n")
    print(f"## The workloads of benchmarks/speed\n\nMedians of {rounds} steps after one, on its fixed batch.\n")
    print("| | as 0, s | kept, s | ratio | the slowest of each | losses |\n|---|---|---|---|---|---|", flush=True)
    for workload in WORKLOADS:
        seconds, same = of_workload(workload, rounds)
        zero, kept = (statistics.median(seconds[key]) for key in (True, False))
        slowest = f"{max(seconds[True]):.3g}, {max(seconds[False]):.3g}"
        row = f"{zero:.3g} | {kept:.3g} | {kept / zero:.2f} | {slowest} | {'same bits' if same else 'differ'}"
        print(f"| {workload.name} ({variant_of(workload.name)}) | {row} |", flush=True)


def in_turn(steps: int, step: Callable[[bool, int], Tensor]) -> tuple[Seconds, bool]:
    """Processor seconds of each step in both ways, and whether all losses have the same bits."""
    seconds: Seconds = {True: [], False: []}
    same = True
    for number in range(steps):
        losses = []
        for zero in (True, False) if number % 2 else (False, True):
            set_denormals(zero)
            began = time.process_time()
            losses.append(step(zero, number))
            seconds[zero].append(time.process_time() - began)
        same = same and torch.equal(*losses)
    set_denormals(False)
    return seconds, same


def of_pictures(folder: Path) -> tuple[Seconds, bool]:
    make_pictures(folder)
    job = load_job([*PROTONET, f"task.root={folder}"])
    learners = {zero: new_learner(job) for zero in (True, False)}

    def batch(number: int) -> Batch:
        return job.task.gather(job.training_draw(number), learners[True].device)

    seconds, _ = in_turn(STEPS, lambda zero, number: learners[zero].step(batch(number), number))
    found = []
    for zero, learner in learners.items():
        set_denormals(zero)
        scores = evaluate(learner, job.task, EpisodeRange("test", 64, 0), [BatchNorm.transductive]).scores
        found.append(scores[BatchNorm.transductive].metric)
    return seconds, torch.equal(*found)


def make_pictures(folder: Path) -> None:
    """16 classes of 30 soft patterns each, which share a part by which ProtoNet tells most of them apart at its start:
    its gradient is then a denormal number in some steps."""
    for name in range(16):
        rng = torch.Generator().manual_seed(name)
        shared = torch.rand(3, 5, 5, generator=rng)
        (folder / f"class{name:02}").mkdir()
        for number in range(30):
            patches = 0.45 * shared + 0.55 * torch.rand(3, 5, 5, generator=rng)
            pixels = interpolate(patches[None], 100, mode="bicubic")[0]
            pixels += 0.05 * torch.randn(3, 100, 100, generator=rng)
            picture = Image.fromarray((255 * pixels.clamp(0, 1)).byte().permute(1, 2, 0).numpy())
            picture.save(folder / f"class{name:02}" / f"{number:02}.png")


def of_workload(workload: Workload, rounds: int) -> tuple[Seconds, bool]:
    setting = Setting(False, "cpu", variant_of(workload.name).partition("/")[2])
    batch = ours._batch(workload, setting)
    learners = {zero: ours._learner(workload, setting, ours._net(workload)) for zero in (True, False)}
    repeated = 200 if workload.name == "W1" else 1  # its step takes a thousandth of a second

    def step(zero: bool, number: int) -> Tensor:
        losses = [learners[zero].step(batch, 0) for _ in range(repeated)]
        return losses[-1]

    seconds, same = in_turn(rounds + 1, step)
    return {zero: [one / repeated for one in each[1:]] for zero, each in seconds.items()}, same


if __name__ == "__main__":
    main()
