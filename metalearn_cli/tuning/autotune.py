"""Choose by timing and measuring on this machine: the way to convolve, how many tasks go through at once, and whether
inner steps are computed again in the backward pass, so that a run stays within its memory and is as fast as it can be.
"""

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
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.pictures.arrays import first_tasks
from metalearn_cli.system.allocator import trim_heap
from metalearn_cli.system.console import Console
from metalearn_cli.system.limits import parse_memory
from metalearn_cli.system.measure import begin_peak, free_memory, is_out_of_memory, peak_memory, timed
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch, draw_slice

USED = 0.95  # of the bound; the rest is for what is not measured, writers and checkpoints
USED_OF_FREE = 0.9  # of what is free, which others want to share


class Tried(NamedTuple):
    """What training steps and a test took with so many tasks at once."""

    tasks: int
    remat: bool  # whether inner steps were computed again
    seconds: float  # of a training step
    peak: int | None  # the most bytes that were held; None: the system does not tell


class Scan(NamedTuple):
    """The numbers of tasks at once that were tried, in rising order."""

    fitting: list[Tried]
    beyond: int | None  # the first number that does not fit; None: the larger ones would be slower, or there are none
    peak: int | None  # bytes that this number took, where it was tried


class Room(NamedTuple):
    """Where steps are tried, on which tasks, and the bytes that they may take."""

    device: torch.device
    ranks: Ranks
    batch: Batch
    before: int | None  # bytes in use before; None: the system does not tell
    bound: float | None  # None: unknown


def fastest_convolution(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Convolution:
    """The convolution by which a step is fastest, with as many tasks at once as the job asks for (auto: one, which fits
    if any number does)."""
    seconds = {}
    chunk = 1 if job.run.tasks_per_chunk == "auto" or (job.run.memory and may_cut(job)) else job.run.tasks_per_chunk
    console.say("timing a step by two ways to convolve")
    for way, net in job.net.variants().items():
        batch = job.task.gather(job.training_draw(0, ranks), device)
        seconds[way] = _seconds(still_learner(job._replace(net=net), chunk), batch)
    console.say(
        "a step takes " + ", ".join(f"{value:.3g} s by {way.name} convolution" for way, value in seconds.items())
    )
    return min(seconds, key=lambda way: seconds[way])


def choose_chunk(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Tried:
    """The fastest way to take a training step whose peak of memory, and that of a test, is within `memory`, or within
    what is free here. What the command gives stays as it is: `tasks_per_chunk`, where it is a number, and `algo.remat`.

    Raises UserError where nothing fits.
    """
    settings = job.run
    trim_heap()  # what an earlier job took
    before = begin_peak(device)
    bound = _bound(job, device, before, ranks)
    if settings.memory and (before is None or bound is None):
        raise UserError(
            f"memory={settings.memory} cannot be held here, where the system does not tell what a process uses: give "
            "tasks_per_chunk a number"
        )
    room = Room(device, ranks, job.task.gather(job.training_draw(0, ranks), device), before, bound)
    most = len(room.batch.key)
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    if isinstance(settings.tasks_per_chunk, int) and not may_cut(job):
        sizes = [settings.tasks_per_chunk]
    console.say(
        f"timing steps and a part of the test, with {', '.join(map(str, sizes))} task(s) at once, while they fit"
    )
    scan = _scan(job, sizes, room, console)
    fitting = scan.fitting
    if scan.beyond is not None and settings.memory and may_rematerialise(job):
        # With as many tasks at once it is slower than without: more tasks is what it could be for.
        larger = [tasks for tasks in sizes if tasks >= scan.beyond]
        remat = job._replace(algo=dataclasses.replace(job.algo, remat=True))  # type: ignore[type-var]
        scan = _scan(remat, larger, room, console)
        fitting = [*fitting, *scan.fitting]
    if not fitting:
        raise UserError(_too_little(job, scan))
    return min(fitting, key=lambda tried: tried.seconds)


def may_cut(job: Job) -> bool:
    """Whether it is open how many tasks go through at once: a preset's number was chosen for nobody's memory."""
    return job.run.tasks_per_chunk in (None, "auto") or "tasks_per_chunk" not in job.given


def may_rematerialise(job: Job) -> bool:
    """Whether it is open if inner steps are computed again: the algorithm keeps them, and the command says nothing."""
    return "remat" in job.algo.open_memory_savers() and "algo.remat" not in job.given


def _bound(job: Job, device: torch.device, before: int | None, ranks: Ranks) -> float | None:
    """The bytes that this process may hold; None: unknown."""
    if job.run.memory not in (None, "auto"):
        return USED * parse_memory(job.run.memory)
    free = free_memory(device)
    if free is None or before is None or device.type == "cuda":
        return None if free is None else USED_OF_FREE * free
    return before + USED_OF_FREE * (free - before) / ranks.local_size  # the ranks of a machine share it


def _scan(job: Job, sizes: list[int], room: Room, console: Console) -> Scan:
    """Try one size after another until memory ends or a step is clearly slower. A size whose peak would be above the
    bound, in line with the last two, is not tried."""
    fitting: list[Tried] = []
    peaks = {} if room.before is None else {0: room.before}  # bytes with so many tasks at once
    again = ", inner steps computed again" if job.algo.remat else ""
    for tasks in sizes:
        if room.bound is not None and len(peaks) > 1:
            *_, before_last, last = peaks
            slope = (peaks[last] - peaks[before_last]) / (last - before_last)
            if peaks[last] + slope * (tasks - last) > room.bound:
                return Scan(fitting, tasks, None)
        tried = _try(job, tasks, room)
        if tried is None:
            console.say(f"{tasks} task(s) at once{again}: out of memory")
            return Scan(fitting, tasks, None)
        used = f", {bytes_shown(tried.peak)}" if tried.peak else ""
        console.say(f"{tasks} task(s) at once{again}: {tried.seconds:.3g} s a step{used}")
        if tried.peak is not None:
            if len(peaks) == 1 and (warm := begin_peak(room.device)) is not None:  # with what only the first step takes
                peaks[0] = min(warm, tried.peak)
            peaks[tasks] = tried.peak
            if room.bound is not None and tried.peak > room.bound:
                return Scan(fitting, tasks, tried.peak)
        fitting.append(tried)
        if tried.seconds > 1.25 * min(faster.seconds for faster in fitting):
            break
    return Scan(fitting, None, None)


def _try(job: Job, tasks: int, room: Room) -> Tried | None:
    """Take steps, a test and a step, as a run does, since what is freed is not always taken again. None: there was not
    enough memory."""
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
        return None
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
    """A learner to be timed: neither compiled nor captured, and its parameters do not move, so that it cannot
    diverge."""
    plain = dataclasses.replace(job.run, tasks_per_chunk=tasks_per_chunk, memory=None, compile=False, cuda_graph=False)
    return new_learner(job._replace(run=plain, optimizer=dataclasses.replace(job.optimizer, lr=0.0)))


def _seconds(learner: Learner, batch: Batch) -> float:
    """Seconds of one step: the least of three, after a step to warm up."""
    try:
        learner.step(batch, 0)
        return min(timed(learner.device, 1, lambda _: learner.step(batch, 0))[1] for _ in range(3))
    except NonFinite as failure:
        raise UserError(f"the {failure.what} of the first step is not finite, so that it cannot be timed") from failure


def _too_little(job: Job, scan: Scan) -> str:
    asked, more, takes = job.run.memory, "more", "more"
    is_a_size = asked not in (None, "auto")
    if scan.peak is not None:
        takes = f"{bytes_shown(scan.peak)}, all that the process holds included"
        if is_a_size:
            more = f"memory={bytes_shown(_rounded_up(scan.peak / USED)).replace(' ', '')} or more"
    ways = ["fewer tasks_per_chunk"] if scan.beyond != 1 else []
    savers = [f"algo.{key}" for key in job.algo.open_memory_savers()]
    ways += [f"{key}=true" for key in savers if key != "algo.remat" or key in job.given]
    return (
        f"{f'memory={asked}' if is_a_size else 'the memory that is free here'} is too little: steps and a test take "
        f"{takes}, with {scan.beyond} task(s) at once; give {more}, or "
        f"{', or '.join([*ways, 'a smaller task or model'])}"
    )


def _rounded_up(count: float) -> int:
    """The next number of bytes with the three digits that `bytes_shown` shows at least."""
    unit: int = 10 ** max(0, len(str(int(count))) - 3)
    return unit * math.ceil(count / unit)


def bytes_shown(count: int) -> str:
    return f"{count / 1e6:.4g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"
