"""How this machine runs a job: what is set for the process, and what is left to timing.

What was chosen stands in the run's choices.json and is chosen again when the run goes on: sums in another order are
other bits.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metalearn_cli import runs
from metalearn_cli.allocator import Allocator, give_back, set_allocator
from metalearn_cli.config import Job, Precision, check_precision, resolve_device
from metalearn_cli.errors import UserError
from metalearn_cli.learner import Learner, NonFinite
from metalearn_cli.measure import memory, parse_memory, peak_memory, timed
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.reduced import Reduced
from metalearn_cli.progress import Console
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch

_DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process has set another number


def new_learner(job: Job) -> Learner:
    """The learner of step 0. Raises UserError where the device is missing or the parts do not fit together."""
    settings = job.run
    device = resolve_device(settings.device)
    check_precision(settings.precision, device)
    rng = generator(settings.seed, "init")
    net = Reduced(job.net.spec, job.net) if settings.precision is Precision.bf16 else job.net
    chunk = settings.tasks_per_chunk if isinstance(settings.tasks_per_chunk, int) else None
    return Learner(
        *(job.algo, net, job.optimizer, rng, device, settings.dtype, chunk),
        compile=settings.compile,
        cuda_graph=settings.cuda_graph,
    )


def prepare(job: Job, folder: Path | None, console: Console, poll: Callable[[], None] = lambda: None) -> Job:
    """Set threads, allocator, determinism and precision for this process, and say what was chosen -> the job with what
    it leaves to timing decided.

    What was chosen in a run's folder is chosen again; without one nothing is read or written. `poll` may raise while it
    measures.
    """
    settings, device = job.run, resolve_device(job.run.device)
    path = folder / "choices.json" if folder else None
    chosen: dict[str, Any] = runs.read_json(path) if path and path.exists() else {}
    threads = settings.threads or chosen.get("threads", _DEFAULT_THREADS)
    torch.set_num_threads(threads)
    allocator = f"{settings.allocator.name} allocator"
    if not set_allocator(settings.allocator) and settings.allocator is not Allocator.default:
        allocator = "default allocator (this C library has no other)"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    torch.use_deterministic_algorithms(settings.deterministic)
    # Else each new tensor is filled first, by a kernel of its own; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Both said: torch's own start has TF32 in convolutions and not in products.
    is_tf32 = settings.precision is Precision.tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_tf32
    what = f"{job.choices['algo']} on {job.choices['task']}"
    where = f"{folder}: " if folder else ""
    precision = settings.precision.name
    console.say(f"{where}{what}, device {device}, {precision}, {threads} CPU thread(s), {allocator}")

    chosen = {"threads": threads, **{key: value for key, value in chosen.items() if key != "threads"}}
    if isinstance(job.net, Conv4) and job.net.convolution is Convolution.auto and device.type != "cpu":
        if "convolution" not in chosen:
            chosen["convolution"] = _fastest_convolution(job, device, console, poll)
        job = job._replace(net=dataclasses.replace(job.net, convolution=Convolution[chosen["convolution"]]))
    if settings.tasks_per_chunk == "auto":
        if "tasks_per_chunk" not in chosen:
            chosen["tasks_per_chunk"] = _fastest_chunk(job, device, console, poll)
            give_back()  # what larger chunks took
        console.say(f"{chosen['tasks_per_chunk']} of {settings.tasks_per_step} tasks go through at once")
        job = job._replace(run=dataclasses.replace(settings, tasks_per_chunk=chosen["tasks_per_chunk"], memory=None))
    if path:
        runs.write_json(path, chosen)
    return job


def _fastest_convolution(job: Job, device: torch.device, console: Console, poll: Callable[[], None]) -> str:
    """How a step is fastest, with as many tasks at once as is asked for (auto: all of them)."""
    seconds = {}
    for way in (Convolution.grouped, Convolution.product):
        poll()
        assert isinstance(job.net, Conv4)  # whoever calls
        learner = _still_learner(job._replace(net=dataclasses.replace(job.net, convolution=way)))
        seconds[way.name] = _seconds(learner, _first_batch(job, device))
    console.say("a step takes " + ", ".join(f"{value:.3g} s by {name} convolution" for name, value in seconds.items()))
    return min(seconds, key=lambda name: seconds[name])


def _fastest_chunk(job: Job, device: torch.device, console: Console, poll: Callable[[], None]) -> int:
    """The number of tasks at once with which a step is fastest, of those whose peak of memory is within `memory`.

    From one task on, doubled until memory ends or it is clearly slower. No size is tried whose peak, in line with the
    last two, would be above the bound.
    """
    settings = job.run
    bound = parse_memory(settings.memory) if settings.memory else None
    batch, learner = _first_batch(job, device), _still_learner(job)
    if bound is not None and memory(device) is None:
        raise UserError(
            f"memory={settings.memory} cannot be held here, where the system does not tell what a process uses: give "
            "tasks_per_chunk a number"
        )
    sizes = [2**power for power in range(settings.tasks_per_step.bit_length()) if 2**power < settings.tasks_per_step]
    seconds: dict[int, float] = {}
    peaks: dict[int, int] = {}
    for tasks in (*sizes, settings.tasks_per_step):
        poll()
        *_, before_last, last = (0, 0, *peaks)
        if bound is not None and before_last:
            slope = (peaks[last] - peaks[before_last]) / (last - before_last)
            if peaks[last] + slope * (tasks - last) > bound:
                break
        learner.tasks_per_chunk = tasks
        memory(device)
        taken = _seconds(learner, batch)
        peak = peak_memory(device)
        used = "" if peak is None else f", {peak / 1e6:.4g} MB"
        console.say(f"{tasks} task(s) at once: {taken:.3g} s a step{used}")
        if peak is not None:
            peaks[tasks] = peak
            if bound is not None and peak > bound:
                break
        seconds[tasks] = taken
        if taken > 1.25 * min(seconds.values()):
            break
    if not seconds:
        raise UserError(
            f"memory={settings.memory} is too little: a step takes {peaks[1] / 1e6:.4g} MB with one task at once, all "
            "that the process holds included; give more, algo.remat=true where the algorithm has it, or a smaller task"
        )
    return min(seconds, key=lambda tasks: seconds[tasks])


def _first_batch(job: Job, device: torch.device) -> Batch:
    draw = job.task.draw(job.run.tasks_per_step, "train", generator(job.run.seed, "train", 0))
    return job.task.gather(draw, device)


def _still_learner(job: Job) -> Learner:
    """One to be timed, whose parameters do not move: it cannot diverge. Its step is neither compiled nor captured."""
    run = dataclasses.replace(job.run, compile=False, cuda_graph=False)
    return new_learner(job._replace(run=run, optimizer=dataclasses.replace(job.optimizer, lr=0.0)))


def _seconds(learner: Learner, batch: Batch) -> float:
    """Of one step: the least of three, after one."""
    try:
        learner.step(batch, 0)
        return min(timed(learner.device, 1, lambda _: learner.step(batch, 0))[1] for _ in range(3))
    except NonFinite as failure:
        raise UserError(f"the {failure.what} of the first step is not finite, so that it cannot be timed") from failure
