"""Choose by measuring on this machine, so that a run stays within its memory and is as fast as it can be: the way to
convolve, how many tasks go through at once, and whether inner steps are computed again in the backward pass."""

import dataclasses
import math
from typing import NamedTuple

import torch

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import BLOCK, draw_block
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.nets.capabilities import variants
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.pictures.arrays import first_tasks
from metalearn_cli.system.allocator import trim_heap
from metalearn_cli.system.console import Console
from metalearn_cli.system.limits import parse_memory
from metalearn_cli.system.measure import begin_peak, free_memory, is_out_of_memory, peak_memory, timed
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch, draw_slice

USED = 0.95  # of the bound; the rest is for what is not measured, writers and checkpoints
USED_OF_FREE = 0.9  # of what is free, for other processes too


class Tried(NamedTuple):
    """What training steps and a test took with so many tasks at once."""

    tasks: int
    remat: bool  # whether inner steps were computed again
    seconds: float  # of a training step; infinite: it does not fit
    peak: int | None  # the most bytes that were held; None: unknown


class Room(NamedTuple):
    """Where steps are tried, on which tasks, and the bytes that they may take."""

    device: torch.device
    ranks: Ranks
    batch: Batch
    before: int | None  # bytes in use before; None: the system does not tell
    bound: float | None  # None: unknown


def fastest_convolution(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Convolution:
    """Find the convolution by which a step is fastest, with the job's number of tasks at once (auto: one)."""
    chunk = 1 if job.run.tasks_per_chunk == "auto" or (job.run.memory and may_cut(job)) else job.run.tasks_per_chunk
    console.say("timing a step by two ways to convolve")
    batch = job.task.gather(job.training_draw(0, ranks), device)
    nets = variants(job.net).items()
    seconds = {way: _seconds(still_learner(job._replace(net=net), chunk), batch) for way, net in nets}
    timings = ", ".join(f"{value:.3g} s by {way.name} convolution" for way, value in seconds.items())
    console.say(f"a step takes {timings}")
    return min(seconds, key=lambda way: seconds[way])


def choose_chunk(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Tried:
    """Find the fastest way to take a training step whose peak of memory, and that of a test, is within `memory`, or
    within what is free here. A number of `tasks_per_chunk` and `algo.remat` stay as the command gives them. Raises
    UserError where nothing fits."""
    settings = job.run
    trim_heap()  # what an earlier job took
    before = begin_peak(device)
    bound = _bound(job, device, before, ranks)
    if settings.memory and (before is None or bound is None):
        why = "cannot be held here, where the system does not tell what a process uses: give tasks_per_chunk a number"
        raise UserError(f"memory={settings.memory} {why}")
    room = Room(device, ranks, job.task.gather(job.training_draw(0, ranks), device), before, bound)
    most = len(room.batch.key)
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    if isinstance(settings.tasks_per_chunk, int) and not may_cut(job):
        sizes = [settings.tasks_per_chunk]
    numbers = ", ".join(map(str, sizes))
    console.say(f"timing steps and a part of the test, with {numbers} task(s) at once, while they fit")
    every = _scan(job, sizes, room, console)
    if every[-1].seconds == math.inf and settings.memory and may_rematerialise(job):
        # With as many tasks at once it would be slower: it is of use where it lets more tasks through.
        larger = [tasks for tasks in sizes if tasks >= every[-1].tasks]
        remat = job._replace(algo=dataclasses.replace(job.algo, remat=True))  # type: ignore[type-var]
        every += _scan(remat, larger, room, console)
    best = min(every, key=lambda tried: tried.seconds)
    if best.seconds == math.inf:
        raise UserError(_too_little(job, every[-1]))
    return best


def may_cut(job: Job) -> bool:
    """Whether it is open how many tasks go through at once: a preset's number was not chosen for this memory."""
    return job.run.tasks_per_chunk in (None, "auto") or "tasks_per_chunk" not in job.given_keys


def may_rematerialise(job: Job) -> bool:
    """Whether it is open if inner steps are computed again: the algorithm keeps them, and the command says nothing."""
    return "remat" in job.algo.open_memory_savers() and "algo.remat" not in job.given_keys


def _bound(job: Job, device: torch.device, before: int | None, ranks: Ranks) -> float | None:
    """The bytes that this process may hold; None: unknown."""
    if job.run.memory not in (None, "auto"):
        return USED * parse_memory(job.run.memory)
    free = free_memory(device)
    if free is None or before is None or device.type == "cuda":
        return None if free is None else USED_OF_FREE * free
    return before + USED_OF_FREE * (free - before) / ranks.local_size  # the ranks of a machine share it


def _scan(job: Job, sizes: list[int], room: Room, console: Console) -> list[Tried]:
    """Try one size after another until one does not fit, or a step is clearly slower. A size is not tried where its
    peak, by the last two, would be above the bound."""
    every: list[Tried] = []
    peaks = {} if room.before is None else {0: room.before}  # bytes with so many tasks at once
    again = ", inner steps computed again" if job.algo.remat else ""
    for tasks in sizes:
        if room.bound is not None and len(peaks) > 1:
            *_, before_last, last = peaks
            slope = (peaks[last] - peaks[before_last]) / (last - before_last)
            if peaks[last] + slope * (tasks - last) > room.bound:
                return [*every, Tried(tasks, job.algo.remat, math.inf, None)]
        tried = _try(job, tasks, room)
        if tried.seconds == math.inf:
            console.say(f"{tasks} task(s) at once{again}: out of memory")
            return [*every, tried]
        used = f", {bytes_shown(tried.peak)}" if tried.peak else ""
        console.say(f"{tasks} task(s) at once{again}: {tried.seconds:.3g} s a step{used}")
        if tried.peak is not None:
            if len(peaks) == 1 and (warm := begin_peak(room.device)) is not None:  # with what only the first step takes
                peaks[0] = min(warm, tried.peak)
            peaks[tasks] = tried.peak
            if room.bound is not None and tried.peak > room.bound:
                return [*every, tried._replace(seconds=math.inf)]
        every.append(tried)
        if tried.seconds > 1.25 * min(faster.seconds for faster in every):
            break
    return every


def _try(job: Job, tasks: int, room: Room) -> Tried:
    """Take steps, a test and a step, as a run does, since freed memory is not always used again."""
    begin_peak(room.device)
    try:
        learner = still_learner(job, tasks)
        seconds = _seconds(learner, room.batch)
        _test_once(learner, job, room.ranks)
        learner.step(room.batch, 0)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        torch.cuda.empty_cache()
        return Tried(tasks, job.algo.remat, math.inf, None)
    peak = peak_memory(room.device)
    trim_heap()
    return Tried(tasks, job.algo.remat, seconds, peak)


def _test_once(learner: Learner, job: Job, ranks: Ranks) -> None:
    """Hold what a test of the run holds at once: some episodes in all modes, and the pictures of the first ones."""
    headline, modes = job.headline, job.test_modes
    draw = draw_block(job.task, "test", job.run.episodes_seed, 0)
    tasks = min(learner.tasks_per_chunk or BLOCK, -(-len(draw["key"]) // ranks.size))
    batch = job.task.gather(draw_slice(draw, 0, tasks), learner.device)
    if BatchNorm.one_query in modes and job.net.init_stats():  # a forward for each query: one is as large as all
        modes.remove(BatchNorm.one_query)
        mask = None if batch.query_mask is None else batch.query_mask[:, :1]
        with_one = batch._replace(query_x=batch.query_x[:, :1], query_y=batch.query_y[:, :1], query_mask=mask)
        for chunk in with_one.chunks(learner.scored_at_once(with_one)):
            learner.evaluate(chunk, [BatchNorm.one_query])
    for chunk in batch.chunks(learner.scored_at_once(batch)) if modes else []:
        learner.evaluate(chunk, modes)
    first_tasks(learner, job, "test", headline)


def still_learner(job: Job, tasks_per_chunk: int | str | None) -> Learner:
    """Make a learner to be timed: not compiled or captured, and with parameters that do not move."""
    plain = dataclasses.replace(job.run, tasks_per_chunk=tasks_per_chunk, memory=None, compile=False, cuda_graph=False)
    return new_learner(job._replace(run=plain, optimizer=dataclasses.replace(job.optimizer, lr=0.0)))


def _seconds(learner: Learner, batch: Batch) -> float:
    """Seconds of one step: the least of three, after a step to warm up."""
    try:
        learner.step(batch, 0)
        return min(timed(learner.device, 1, lambda _: learner.step(batch, 0))[1] for _ in range(3))
    except NonFinite as failure:
        raise UserError(f"the {failure.what} of the first step is not finite, so that it cannot be timed") from failure


def _too_little(job: Job, tried: Tried) -> str:
    """Say that nothing fits, and what would."""
    bound, more, takes = job.run.memory, "more", "more"
    is_a_size = bound not in (None, "auto")
    if tried.peak is not None:
        takes = f"{bytes_shown(tried.peak)}, all that the process holds included"
        if is_a_size:
            more = f"memory={bytes_shown(_rounded_up(tried.peak / USED)).replace(' ', '')} or more"
    ways = ["fewer tasks_per_chunk"] if tried.tasks != 1 else []
    savers = [f"algo.{key}" for key in job.algo.open_memory_savers()]
    ways += [f"{key}=true" for key in savers if key != "algo.remat" or key in job.given_keys]
    given = f"memory={bound}" if is_a_size else "the memory that is free here"
    needed = f"steps and a test take {takes}, with {tried.tasks} task(s) at once"
    return f"{given} is too little: {needed}; give {', or '.join([more, *ways, 'a smaller task or model'])}"


def _rounded_up(count: float) -> int:
    """Round up to a number of bytes with three digits, as `bytes_shown` shows at least."""
    unit: int = 10 ** max(0, len(str(int(count))) - 3)
    return unit * math.ceil(count / unit)


def bytes_shown(count: int) -> str:
    return f"{count / 1e6:.4g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"
