"""Prepare this process for a job, and choose what is left to this machine. The choices stand in the run's choices.json
and are made again when the run goes on: sums in another order are other bits."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.config.job import Job
from metalearn_cli.nets.capabilities import variants
from metalearn_cli.run_folder.environment import CHOICES, Choices, read_choices
from metalearn_cli.run_folder.records import write_record
from metalearn_cli.system.console import Console
from metalearn_cli.system.device import DEFAULT_THREADS, own_device, set_process
from metalearn_cli.system.ranks import ALONE, Ranks, busy, cores
from metalearn_cli.tuning.autotune import bytes_shown, choose_chunk, fastest_convolution, may_cut, may_rematerialise


def prepare(job: Job, folder: Path | None, console: Console, ranks: Ranks = ALONE) -> Job:
    """Set threads, allocator, determinism and precision for this process -> the job with what it leaves to timing
    decided. The choices in a run's folder are made again, unless the number of ranks is another one; without a folder
    nothing is read or written. The first rank chooses for all."""
    settings, device = job.run, own_device(job.run.device, ranks)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    chosen = ranks.from_first(lambda: _chosen(folder))
    denormals_are_zero = chosen.denormals_are_zero
    if chosen.ranks != ranks.size:
        chosen = Choices(denormals_are_zero)
    alone = DEFAULT_THREADS if ranks.size == 1 else max(1, cores() // ranks.local_size)
    threads = settings.threads or ranks.from_first(lambda: chosen.threads or alone)
    with_what = set_process(settings.precision, threads, settings.allocator, settings.deterministic, denormals_are_zero)
    what = f"{f'{folder}: ' if folder else ''}{job.choices['algo']} on {job.choices['task']}"
    each = f"{ranks.size} ranks, each {device.type}" if ranks.size > 1 else str(device)
    console.say(f"{what}, {each}, {settings.precision.name}, {threads} CPU thread(s), {with_what}")

    is_new = settings.threads is None and chosen.threads is None and ranks.size == 1
    if is_new and (sentence := _too_many(threads)):
        console.say_once(sentence)
    chosen = dataclasses.replace(chosen, threads=threads, ranks=ranks.size)
    if device.type != "cpu" and (ways := variants(job.net)):
        fastest = chosen.convolution or ranks.from_first(lambda: fastest_convolution(job, device, console, ranks))
        chosen = dataclasses.replace(chosen, convolution=fastest)
        job = job._replace(net=ways[fastest])
    is_left_open = settings.memory is not None or settings.tasks_per_chunk == "auto"
    if is_left_open and (chosen.tasks_per_chunk is None or settings.memory not in (None, chosen.memory)):
        for key in ("compile", "cuda_graph"):
            if settings.memory and getattr(settings, key):
                console.say(f"memory={settings.memory} is measured without {key}=true, which takes more")
        best = ranks.from_first(lambda: choose_chunk(job, device, console, ranks))
        chosen = dataclasses.replace(
            chosen, tasks_per_chunk=best.tasks, memory=settings.memory, peak_memory=best.peak, remat=best.remat
        )
    if is_left_open or (chosen.tasks_per_chunk is not None and may_cut(job)):  # chosen for an earlier command's bound
        job = _as_chosen(job, chosen, console, ranks)
    if folder and ranks.is_first:
        write_record(folder / CHOICES, chosen)
    return job


def _too_many(threads: int) -> str | None:
    """Say that other processes keep this machine busy, where they do; the number of threads stays as it is."""
    processors, others = os.cpu_count() or 1, busy()
    fitting = max(1, math.floor(processors - others))
    if fitting >= threads or os.environ.get("OMP_NUM_THREADS"):  # the user has chosen the number
        return None
    return (
        f"the machine is busy: other processes run on {min(others, processors):.1f} of its {processors} processors, "
        f"where {threads} threads slow one another down: threads={fitting} fits"
    )


def _chosen(folder: Path | None) -> Choices:
    """Read what was chosen in the folder of a run earlier. A run of a version that kept denormal numbers keeps them."""
    if folder is None or not ((folder / CHOICES).exists() or (folder / "checkpoints").exists()):
        return Choices(denormals_are_zero=True)
    return read_choices(folder)


def _as_chosen(job: Job, chosen: Choices, console: Console, ranks: Ranks) -> Job:
    """Return the job with the chosen number of tasks at once, and with inner steps computed again if so chosen."""
    tasks, parts = chosen.tasks_per_chunk, [f"{job.run.tasks_per_step // ranks.size} tasks go through at once"]
    algo: Any = job.algo
    if may_rematerialise(job) and chosen.remat:
        algo = dataclasses.replace(algo, remat=True)
        parts.append("inner steps are computed again in the backward pass")
    if chosen.memory and chosen.peak_memory:
        parts.append(f"{bytes_shown(chosen.peak_memory)} at the peak, for memory={chosen.memory}")
    console.say(f"{tasks} of {', '.join(parts)}")
    return job._replace(algo=algo, run=dataclasses.replace(job.run, tasks_per_chunk=tasks, memory=None))
