"""Count the work of each published row, and write metalearn_cli/papers/work.csv, from which `metalearn reproduce
--list` estimates times: python benchmarks/papers/work.py [ROW ...] (10 minutes for all; without names the rows that the
file lacks; no data are needed).

Each row's steps and tests run once for a single task on torch's device `meta`, which has shapes and no numbers. Counted
are floating-point operations of products and convolutions, calls of torch, and the bytes that are held at once.
"""

import csv
import dataclasses
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from metalearn_cli.algorithms.base import Algorithm, Meta
from metalearn_cli.algorithms.capabilities import images_in_batch, steps_at_test
from metalearn_cli.config.conf_folder import published_papers
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.config.stages import stage_jobs
from metalearn_cli.papers.work import COLUMNS, WORK, Work, counted
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Split
from metalearn_cli.tasks.episodes import Classes
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.images import ImageTask

META = torch.device("meta")
IMAGES = 600  # of a class
LOOPS = ("passes", "iterations", "refine_steps")
SHORT = (2, 4)


class Counter(TorchDispatchMode):
    """Counts operations and calls, and the bytes of all tensors that are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.calls = self.live = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls += 1
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self._hold(storage.nbytes())
                weakref.finalize(storage, self._hold, -storage.nbytes())
        return out

    def _hold(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


class Counted(NamedTuple):
    operations: float
    calls: float
    peak: float


def count(call: Callable[[Algorithm], None], algorithm: Algorithm) -> Counted:
    """Count a call. A long loop is counted at two lengths, and the rest is a straight line."""
    for key in LOOPS:
        if (length := getattr(algorithm, key, 0)) > SHORT[1]:
            short = [count(call, dataclasses.replace(algorithm, **{key: steps})) for steps in SHORT]  # type: ignore[type-var]
            share = (length - SHORT[0]) / (SHORT[1] - SHORT[0])
            first, second = short
            return Counted(*(a + share * (b - a) for a, b in zip(first[:2], second[:2], strict=True)), second.peak)
    with (counter := Counter()):
        call(algorithm)
    return Counted(counter.operations, counter.calls, counter.peak)


def one_task(job: Job, split: Split) -> Batch:
    """One task (or batch of images) of a split, as shapes."""
    task, rng = job.task, generator(0, "work")
    images = images_in_batch(job.algo, task.spec) if split == "train" else None
    if not isinstance(task, ImageTask):
        batch = task.gather(task.draw(1, split, rng), torch.device("cpu"))
        return Batch(**{name: tensor.to(META) for name, tensor in batch.tensors().items()})
    count = len(task.split_classes["train"])
    classes = Classes(torch.arange(count) * IMAGES, torch.full((count,), IMAGES), torch.zeros(count, dtype=torch.int64))
    draw = task.episodes.draw_classes(1, images, classes, rng) if images else task.episodes.draw(1, split, classes, rng)
    pixels = torch.empty(count * IMAGES, *task.spec.input_shape, dtype=torch.uint8, device=META)
    return gather_episodes(draw, pixels, META)


def of_job(job: Job) -> tuple[Counted, Counted]:
    """The work of one task in training (of each step, the calls), and in a test."""
    meta = job.algo.init(job.net, generator(0, "init"))
    params = {name: value.to(META).requires_grad_() for name, value in meta.params.items()}
    meta = Meta(params, {name: value.to(META) for name, value in meta.buffers.items()})

    trained, tested = one_task(job, "train"), one_task(job, "test")
    trained = trained._replace(progress=torch.empty(1, device=META))

    def step(algorithm: Algorithm) -> None:
        algorithm.meta_gradient(job.net, meta, trained, 0)

    def test(algorithm: Algorithm) -> None:
        with torch.no_grad():
            for predict in algorithm.adapt(job.net, meta, tested.support, steps_at_test(job.algo, job.net.spec)):
                predict(tested.query_x, job.test_modes[0], tested.query_mask)
            for mode in job.test_modes[1:]:
                predict(tested.query_x, mode, tested.query_mask)

    return count(step, job.algo) if job.run.steps else Counted(0, 0, 0), count(test, job.algo)


def of_row(name: str) -> Work:
    """The work of a row, its stages, validations and tests among it."""
    job = load_job([f"experiment={name}"])
    operations = calls = peak = 0.0
    for part in (*stage_jobs(job), job):
        run = part.run
        step, test = of_job(part)
        validations = run.steps // run.eval_every if run.eval_every else 0
        episodes = run.test_episodes + validations * run.eval_episodes
        operations += run.steps * run.tasks_per_step * step.operations + episodes * test.operations
        calls += run.steps * step.calls + episodes * test.calls
        peak = max(peak, step.peak, test.peak)
    return Work(job.choices["task"], len(job.run.stages), operations / 1e12, calls / 1e6, peak / 1e9)


def main() -> None:
    works = counted() if WORK.exists() else {}
    published = list(published_papers())
    try:
        for name in sys.argv[1:] or [name for name in published if name not in works]:
            works[name] = of_row(name)
            print(name, *works[name], file=sys.stderr, flush=True)
    finally:
        with WORK.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for name in (name for name in published if name in works):
                task, stages, *numbers = works[name]
                writer.writerow([name, task, stages, *(f"{number:.3g}" for number in numbers)])


if __name__ == "__main__":
    main()
