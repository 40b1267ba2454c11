"""How this machine runs a job: what is set for the process, and what is left to timing.

What was chosen stands in the run's choices.json and is chosen again when the run goes on: sums in another order are
other bits.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch

from metalearn_cli import runs
from metalearn_cli.allocator import Allocator, give_back, set_allocator
from metalearn_cli.config import Job, Precision, check_precision, resolve_device
from metalearn_cli.errors import UserError
from metalearn_cli.learner import Learner, NonFinite
from metalearn_cli.loop import training_draw
from metalearn_cli.measure import free_memory, memory, parse_memory, peak_memory, timed
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.reduced import Reduced
from metalearn_cli.parallel import ALONE, Ranks, cores
from metalearn_cli.progress import Console
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch

_DEFAULT_THREADS = torch.get_num_threads()  # before a run of this process has set another number


def own_device(text: str, ranks: Ranks) -> torch.device:
    """The device that the key names; of several ranks on the GPUs of a machine, each has its own. Raises UserError for
    one that is not here."""
    device = resolve_device(text)
    if ranks.size == 1 or device.type == "cpu":
        return device
    if device.index is not None:
        raise UserError(f"device={text} is one GPU for {ranks.size} ranks: give device=cuda, and each takes its own")
    if ranks.local_size > torch.cuda.device_count():
        raise UserError(
            f"{ranks.local_size} ranks on a machine of {torch.cuda.device_count()} GPU(s): start as many as there are, "
            "or give device=cpu"
        )
    return torch.device("cuda", ranks.local_rank)


def require_shares(job: Job, ranks: Ranks) -> None:
    """Raises UserError where a training cannot be split over these ranks."""
    settings = job.run
    if settings.tasks_per_step % ranks.size:
        fitting = ranks.size * max(1, round(settings.tasks_per_step / ranks.size))
        raise UserError(
            f"tasks_per_step={settings.tasks_per_step} cannot be split evenly over {ranks.size} ranks: give a multiple,"
            f" e.g. {fitting}, or start another number of ranks"
        )
    for key in ("compile", "cuda_graph"):
        if ranks.size > 1 and getattr(settings, key):
            raise UserError(f"{key}=true is for one process, and these are {ranks.size} ranks: give {key}=false")


def new_learner(job: Job, ranks: Ranks = ALONE) -> Learner:
    """The learner of step 0. Raises UserError where the device is missing or the parts do not fit together."""
    settings = job.run
    device = own_device(settings.device, ranks)
    check_precision(settings.precision, device)
    rng = generator(settings.seed, "init")
    net = Reduced(job.net.spec, job.net) if settings.precision is Precision.bf16 else job.net
    chunk = settings.tasks_per_chunk if isinstance(settings.tasks_per_chunk, int) else None
    return Learner(
        *(job.algo, net, job.optimizer, rng, device, settings.dtype, chunk),
        compile=settings.compile,
        cuda_graph=settings.cuda_graph,
        ranks=ranks,
    )


def prepare(job: Job, folder: Path | None, console: Console, ranks: Ranks = ALONE) -> Job:
    """Set threads, allocator, determinism and precision for this process, and say what was chosen -> the job with what
    it leaves to timing decided.

    What was chosen in a run's folder is chosen again, unless the number of ranks is another one; without a folder
    nothing is read or written. The first rank chooses for all.
    """
    settings, device = job.run, own_device(job.run.device, ranks)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    path = folder / "choices.json" if folder else None
    chosen: dict[str, Any] = ranks.from_first(lambda: runs.read_json(path) if path and path.exists() else {})
    if chosen.get("ranks", 1) != ranks.size:
        chosen = {}
    alone = _DEFAULT_THREADS if ranks.size == 1 else max(1, cores() // ranks.local_size)
    threads = settings.threads or ranks.from_first(lambda: chosen.get("threads", alone))
    allocator = set_process(settings.precision, threads, settings.allocator, settings.deterministic)
    what = f"{job.choices['algo']} on {job.choices['task']}"
    where = f"{folder}: " if folder else ""
    precision = settings.precision.name
    each = f"{ranks.size} ranks, each {device.type}" if ranks.size > 1 else str(device)
    console.say(f"{where}{what}, {each}, {precision}, {threads} CPU thread(s), {allocator}")

    chosen = {**chosen, "threads": threads, "ranks": ranks.size}
    if isinstance(job.net, Conv4) and job.net.convolution is Convolution.auto and device.type != "cpu":
        if "convolution" not in chosen:
            chosen["convolution"] = ranks.from_first(lambda: _fastest_convolution(job, device, console, ranks))
        job = job._replace(net=dataclasses.replace(job.net, convolution=Convolution[chosen["convolution"]]))
    if settings.tasks_per_chunk == "auto":
        if "tasks_per_chunk" not in chosen or settings.memory not in (None, chosen.get("memory")):
            chosen["tasks_per_chunk"] = ranks.from_first(lambda: _fastest_chunk(job, device, console, ranks))
            chosen["memory"] = settings.memory
        console.say(f"{chosen['tasks_per_chunk']} of {settings.tasks_per_step // ranks.size} tasks go through at once")
        job = job._replace(run=dataclasses.replace(settings, tasks_per_chunk=chosen["tasks_per_chunk"], memory=None))
    if path and ranks.is_first:
        runs.write_json(path, chosen)
    return job


def set_process(precision: Precision, threads: int | None, allocator: Allocator, deterministic: bool = True) -> str:
    """What holds for the whole process (threads None: as many as there are cores) -> the allocator, in words."""
    torch.set_num_threads(threads or _DEFAULT_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what makes cuBLAS deterministic
    torch.use_deterministic_algorithms(deterministic)
    # Else each new tensor is filled first, by a kernel of its own; nothing here reads what was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Both said: torch's own start has TF32 in convolutions and not in products.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision is Precision.tf32
    if not set_allocator(allocator) and allocator is not Allocator.default:
        return "default allocator (this C library has no other)"
    return f"{allocator.name} allocator"


def _fastest_convolution(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> str:
    """How a step is fastest, with as many tasks at once as is asked for (auto: one, which fits if any does)."""
    seconds = {}
    chunk = 1 if job.run.tasks_per_chunk == "auto" else job.run.tasks_per_chunk
    for way in (Convolution.grouped, Convolution.product):
        assert isinstance(job.net, Conv4)  # whoever calls
        with_way = job._replace(net=dataclasses.replace(job.net, convolution=way))
        batch = job.task.gather(training_draw(job, 0, ranks), device)
        seconds[way.name] = _seconds(_still_learner(with_way, chunk), batch)
    console.say("a step takes " + ", ".join(f"{value:.3g} s by {name} convolution" for name, value in seconds.items()))
    return min(seconds, key=lambda name: seconds[name])


def _fastest_chunk(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> int:
    """The number of tasks at once with which a step is fastest, of those whose peak of memory is within `memory`, or
    within what is free here.

    From one task on, doubled until memory ends or it is clearly slower. No size is tried whose peak, in line with the
    last two, would be above the bound.
    """
    settings = job.run
    bound = parse_memory(settings.memory) if settings.memory else free_memory(device)
    batch = job.task.gather(training_draw(job, 0, ranks), device)
    give_back()  # what a job before this one took
    before = memory(device)
    if settings.memory and before is None:
        raise UserError(
            f"memory={settings.memory} cannot be held here, where the system does not tell what a process uses: give "
            "tasks_per_chunk a number"
        )
    own = len(batch.key)
    sizes = [2**power for power in range(own.bit_length()) if 2**power < own]
    seconds: dict[int, float] = {}
    peaks = {} if before is None else {0: before}  # bytes with so many tasks at once
    for tasks in (*sizes, own):
        if bound is not None and len(peaks) > 1:
            *_, before_last, last = peaks
            slope = (peaks[last] - peaks[before_last]) / (last - before_last)
            if peaks[last] + slope * (tasks - last) > bound:
                break
        memory(device)
        try:
            taken = _seconds(_still_learner(job, tasks), batch)
        except torch.OutOfMemoryError:
            console.say(f"{tasks} task(s) at once: out of the GPU's memory")
            torch.cuda.empty_cache()
            break
        peak = peak_memory(device)
        give_back()
        console.say(f"{tasks} task(s) at once: {taken:.3g} s a step" + (f", {peak / 1e6:.4g} MB" if peak else ""))
        if peak is not None:
            peaks[tasks] = peak
            if bound is not None and peak > bound:
                break
        seconds[tasks] = taken
        if taken > 1.25 * min(seconds.values()):
            break
    if not seconds:
        given = f"memory={settings.memory}" if settings.memory else "the memory that is free here"
        takes = f"{peaks[1] / 1e6:.4g} MB, all that the process holds included" if 1 in peaks else "more"
        raise UserError(
            f"{given} is too little: a step takes {takes}, with one task at once; give more, algo.remat=true where the "
            "algorithm has it, or a smaller task"
        )
    return min(seconds, key=lambda tasks: seconds[tasks])


def _still_learner(job: Job, tasks_per_chunk: int | str | None) -> Learner:
    """One to be timed, neither compiled nor captured, whose parameters do not move, so that it cannot diverge."""
    plain = dataclasses.replace(job.run, tasks_per_chunk=tasks_per_chunk, memory=None, compile=False, cuda_graph=False)
    return new_learner(job._replace(run=plain, optimizer=dataclasses.replace(job.optimizer, lr=0.0)))


def _seconds(learner: Learner, batch: Batch) -> float:
    """Of one step: the least of three, after one."""
    try:
        learner.step(batch, 0)
        return min(timed(learner.device, 1, lambda _: learner.step(batch, 0))[1] for _ in range(3))
    except NonFinite as failure:
        raise UserError(f"the {failure.what} of the first step is not finite, so that it cannot be timed") from failure
