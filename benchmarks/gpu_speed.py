"""How fast a step is on a device in every way in which it can be asked for, and how exact; tables on stdout.

A workload and a way are what would stand on the command line of `metalearn train`; a way that cannot be had here says
why. All ways of a workload are measured in turn, step by step, in one process, and the figures are medians. No data are
needed: the images are noise.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Meta
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.seeding import generator
from metalearn_cli.system.console import Console
from metalearn_cli.system.device import Precision, resolve_device
from metalearn_cli.system.measure import begin_peak, peak_memory, timed
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tuning.bench import PRODUCT_SIZE, count_flop, product
from metalearn_cli.tuning.prepare import prepare

# Which convolution is the faster one is a row of the tables, not left to timing.
OMNIGLOT = "task=omniglot task.query=15 model.filters=64 model.convolution=grouped"
MINI_IMAGENET = "task=mini_imagenet task.query=15 model.filters=32 model.convolution=grouped"
W3 = f"algo=maml {MINI_IMAGENET} algo.inner_steps=5 tasks_per_step=4"
WORKLOADS = {
    "W1": "algo=maml task=sinusoid tasks_per_step=25",
    "W2": f"algo=maml {OMNIGLOT} algo.inner_lr=0.4 tasks_per_step=32",
    "W2b": f"algo=maml {OMNIGLOT} task.way=20 algo.inner_lr=0.1 algo.inner_steps=5 tasks_per_step=16",
    "W3": W3,
    "W3-FO": f"{W3} algo.first_order=true",
    "W3-5": f"{W3} task.shot=5",
    "W4": f"algo=protonet {OMNIGLOT} task.train_way=60 task.shot=5 task.query=5 tasks_per_step=1",
    "W5-R": f"algo=reptile {MINI_IMAGENET} task.train_shot=15 task.train_query=1 algo.inner_steps=5 tasks_per_step=5",
    "W5-L": f"algo=meta_lstm {MINI_IMAGENET} algo.inner_steps=8 tasks_per_step=1",
}
TRIAL = "model.filters=8 tasks_per_step=2 task.query=2"  # of every workload with images
# A new key of how a step runs is one more line here; where this version has no such key, its row says so.
WAYS = {
    "fp32": "",
    "fp32, not deterministic": "deterministic=false",
    "tf32": "precision=tf32",
    "tf32, not deterministic": "precision=tf32 deterministic=false",
    "bf16": "precision=bf16",
    "convolution by a product": "model.convolution=product",
    "the same, tf32": "model.convolution=product precision=tf32",
    "CUDA graph": "cuda_graph=true",
    "CUDA graph, tf32": "cuda_graph=true precision=tf32",
    "fp32 on the CPU here": "device=cpu",
}
# Where gradients are compared: the same with fewer tasks, so that float64 is no long wait on any card.
COMPARED = {"W2": "tasks_per_step=8", "W3": "tasks_per_step=2", "W3-FO": "tasks_per_step=2", "W4": "task.train_way=20"}


class Quiet(Console):
    def say(self, text: str) -> None:
        """Nothing: what is said once of a run would be said at every step."""


class Way(NamedTuple):
    job: Job
    learner: Learner
    batch: Batch
    peak: int | None  # bytes of a GPU's memory at a step's peak above those before
    multiply: Callable[[int], Tensor]  # a plain product in the same precision
    steps: list[float]  # seconds
    products: list[float]


def make_job(words: str) -> Job:
    return load_job([*words.split(), "select=last", "eval_every=0"])


def draw_tasks(job: Job, device: torch.device, seed: int = 0) -> Batch:
    """A meta-batch of the job's shapes."""
    rng, number = generator("gpu", seed), job.run.tasks_per_step
    if job.task.spec.kind == "values":
        return job.task.gather(job.task.draw(number, "train", rng), device)
    way, shot, query = job.task.episodes.size("train").values()

    def part(examples: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(number, way * examples, *job.task.spec.input_shape, generator=rng)
        return x.to(device), torch.arange(way).repeat(examples).expand(number, -1).to(device)

    return Batch(*part(shot), *part(query), torch.arange(number).to(device))


def begin(words: str) -> Way:
    """After three steps. Raises UserError where this way cannot be had here."""
    job = make_job(words)
    learner = new_learner(job)
    device, dtype = learner.device, torch.bfloat16 if job.run.precision is Precision.bf16 else learner.dtype
    batch = draw_tasks(job, device)
    prepare(job, None, Quiet())
    before = begin_peak(device)
    for step in range(3):
        learner.step(batch, step)
    peak = peak_memory(device)
    # A CPU's process holds what earlier ways have freed: there `metalearn bench` says it of one configuration.
    above = peak - before if device.type == "cuda" and peak is not None and before is not None else None
    return Way(job, learner, batch, above, product(device, dtype), [], [])


def race(workload: str, words: str, device: torch.device, rounds: int) -> None:
    """A table with a row for each way."""
    print(f"\n{workload}: `{words}`\n")
    print("| | steps/s | of fp32's | of torch.mm's rate | memory, MB |\n|---|---|---|---|---|", flush=True)
    ways: dict[str, Way] = {}
    for name, extra in WAYS.items():
        if extra == "device=cpu" and device.type == "cpu":
            continue
        try:
            ways[name] = begin(f"{words} device={device} {extra}")
        except UserError as reason:
            print(f"| {name} | {str(reason).partition(':')[0]} | | | |", flush=True)
    work = count_flop(ways["fp32"].learner, ways["fp32"].batch)
    for step in range(3, 3 + rounds):
        for way in ways.values():
            prepare(way.job, None, Quiet())
            way.steps.append(seconds_of_step(way, step))
            way.products.append(timed(way.learner.device, 3, way.multiply)[1])
    for name, way in ways.items():
        seconds = statistics.median(way.steps)
        ratio = statistics.median(ways["fp32"].steps) / seconds
        bound = 2 * PRODUCT_SIZE[way.learner.device.type] ** 3 / statistics.median(way.products)
        peak = "" if way.peak is None else f"{way.peak / 1e6:.0f}"
        print(f"| {name} | {1 / seconds:.3g} | {ratio:.2f} | {work / seconds / bound:.1%} | {peak} |", flush=True)


def seconds_of_step(way: Way, step: int) -> float:
    return timed(way.learner.device, 1, lambda _: way.learner.step(way.batch, step))[1]


def gradient(words: str, seed: int) -> Tensor:
    """The meta-gradient as one vector, in float64 on the CPU."""
    job = make_job(words)
    learner = new_learner(job)
    prepare(job, None, Quiet())
    params = {name: value.detach().requires_grad_() for name, value in learner.meta.params.items()}
    batch = draw_tasks(job, learner.device, seed).to(learner.dtype)
    update = learner.algorithm.meta_gradient(learner.net, Meta(params, learner.meta.buffers), batch, 0)
    return torch.cat([value.flatten().double().cpu() for value in update.gradient.values()])


def compare(workload: str, words: str, device: torch.device) -> None:
    """One row: |g - exact| / |exact| and the cosine of the two in each precision, medians over three meta-batches."""
    exact = [gradient(f"{words} device={device} precision=fp64", seed) for seed in range(3)]
    row = [f"{workload} with {COMPARED[workload]}"]
    for precision in ("fp32", "tf32", "bf16"):
        try:
            found = [gradient(f"{words} device={device} precision={precision}", seed) for seed in range(3)]
        except UserError as reason:
            row.append(str(reason).partition(",")[0])
            continue
        pairs = list(zip(found, exact, strict=True))
        error = statistics.median(((g - e).norm() / e.norm()).item() for g, e in pairs)
        cosine = statistics.median(torch.cosine_similarity(g, e, 0).item() for g, e in pairs)
        row.append(f"{error:.1e}, {cosine:.4f}")
    print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device")
    parser.add_argument("--trial", action="store_true", help="small networks and few steps: does the script run?")
    parser.add_argument("--exactness", action="store_true", help="the comparison of gradients only")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="those to be timed, e.g. W1,W2 (default: all)")
    given = parser.parse_args()
    device, small = resolve_device(given.device), TRIAL if given.trial else ""
    print("\n| meta-gradient: relative error, cosine to float64's | fp32 | tf32 | bf16 |\n|---|---|---|---|")
    for workload, fewer in COMPARED.items():
        compare(workload, f"{WORKLOADS[workload]} {fewer} {small}", device)
    for workload in [] if given.exactness else given.workloads.split(","):
        words = WORKLOADS[workload] if workload == "W1" else f"{WORKLOADS[workload]} {small}".strip()
        race(workload, words, device, rounds=3 if given.trial else 15)


if __name__ == "__main__":
    main()
