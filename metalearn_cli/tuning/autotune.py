"""What is left to timing and measuring here: the way to convolve, the tasks that go through at once, and whether inner
steps are computed again in the backward pass, so that a run stays within its memory and is as fast as it can be there.
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
from metalearn_cli.learning.learner import Learner, NonFinite
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.pictures.first_tasks import first_tasks, picture
from metalearn_cli.system.allocator import give_back
from metalearn_cli.system.console import Console
from metalearn_cli.system.measure import free_memory, is_out_of_memory, memory, parse_memory, peak_memory, timed
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.base import Batch, draw_slice

USED = 0.95  # of the bound; the rest is for what is not measured, writers and checkpoints
USED_OF_FREE = 0.9  # of what is free, which others want to share


class Tried(NamedTuple):
    tasks: int  # that go through at once
    remat: bool
    seconds: float  # of a training step
    peak: int | None  # the most bytes that were held in steps and a test; None: the system does not tell


class Search(NamedTuple):
    """Numbers of tasks at once, from the least on."""

    fitting: list[Tried]
    beyond: int | None  # the first one that does not fit; None: those left out would be slower, or there are none
    peak: int | None  # of that one, where it was tried


def fastest_convolution(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Convolution:
    """How a step is fastest, with as many tasks at once as is asked for (auto: one, which fits if any does)."""
    seconds = {}
    chunk = 1 if job.run.tasks_per_chunk == "auto" or (job.run.memory and may_cut(job)) else job.run.tasks_per_chunk
    console.say("timing a step by two ways to convolve")
    for way in (Convolution.grouped, Convolution.product):
        assert isinstance(job.net, Conv4)  # whoever calls
        with_way = job._replace(net=dataclasses.replace(job.net, convolution=way))
        batch = job.task.gather(job.training_draw(0, ranks), device)
        seconds[way] = _seconds(still_learner(with_way, chunk), batch)
    console.say(
        "a step takes " + ", ".join(f"{value:.3g} s by {way.name} convolution" for way, value in seconds.items())
    )
    return min(seconds, key=lambda way: seconds[way])


def fit(job: Job, device: torch.device, console: Console, ranks: Ranks = ALONE) -> Tried:
    """The fastest way to take a training step whose peak of memory, and that of a test, is within `memory`, or within
    what is free here. What the command gives stays as it is: `tasks_per_chunk`, where it is a number, and `algo.remat`.

    Raises UserError where nothing fits.
    """
    settings = job.run
    give_back()  # what a job before this one took
    before = memory(device)
    bound = _bound(job, device, before, ranks)
    if settings.memory and (before is None or bound is None):
        raise UserError(
            f"memory={settings.memory} cannot be held here, where the system does not tell what a process uses: give "
            "tasks_per_chunk a number"
        )
    batch = job.task.gather(job.training_draw(0, ranks), device)
    own = len(batch.key)
    sizes = [2**power for power in range(own.bit_length()) if 2**power < own] + [own]
    if isinstance(settings.tasks_per_chunk, int) and not may_cut(job):
        sizes = [settings.tasks_per_chunk]
    console.say(
        f"timing steps and a part of the test, with {', '.join(map(str, sizes))} task(s) at once, while they fit"
    )
    plain = search = _search(job, sizes, bound, before, batch, device, console, ranks)
    if search.beyond is not None and settings.memory and may_rematerialise(job):
        # With as many tasks at once it is slower than without: more tasks is what it could be for.
        larger = [tasks for tasks in sizes if tasks >= search.beyond]
        remat = job._replace(algo=dataclasses.replace(job.algo, remat=True))  # type: ignore[type-var]
        search = _search(remat, larger, bound, before, batch, device, console, ranks)
    if not (fitting := [*plain.fitting, *search.fitting]):
        raise UserError(_too_little(job, search))
    return min(fitting, key=lambda tried: tried.seconds)


def may_cut(job: Job) -> bool:
    """Whether it is open how many tasks go through at once: a preset's number is one for nobody's memory."""
    return job.run.tasks_per_chunk in (None, "auto") or "tasks_per_chunk" not in job.given


def may_rematerialise(job: Job) -> bool:
    """Whether it is open if inner steps are computed again: there are some that are kept, and nobody has said it."""
    is_open = getattr(job.algo, "remat", None) is False and "algo.remat" not in job.given
    return is_open and not getattr(job.algo, "first_order", False)


def _bound(job: Job, device: torch.device, before: int | None, ranks: Ranks) -> float | None:
    """Bytes that this process may hold; None: unknown."""
    if job.run.memory not in (None, "auto"):
        return USED * parse_memory(job.run.memory)
    free = free_memory(device)
    if free is None or before is None or device.type == "cuda":
        return None if free is None else USED_OF_FREE * free
    return before + USED_OF_FREE * (free - before) / ranks.local_size  # the ranks of a machine share it


def _search(
    job: Job,
    sizes: list[int],
    bound: float | None,
    before: int | None,
    batch: Batch,
    device: torch.device,
    console: Console,
    ranks: Ranks,
) -> Search:
    """From the first size on until memory ends or it is clearly slower. None is tried whose peak, in line with the last
    two, would be above the bound."""
    fitting: list[Tried] = []
    peaks = {} if before is None else {0: before}  # bytes with so many tasks at once
    again = ", inner steps computed again" if getattr(job.algo, "remat", False) else ""
    for tasks in sizes:
        if bound is not None and len(peaks) > 1:
            *_, before_last, last = peaks
            slope = (peaks[last] - peaks[before_last]) / (last - before_last)
            if peaks[last] + slope * (tasks - last) > bound:
                return Search(fitting, tasks, None)
        tried = _try(job, tasks, batch, device, ranks)
        if tried is None:
            console.say(f"{tasks} task(s) at once{again}: out of memory")
            return Search(fitting, tasks, None)
        used = f", {size(tried.peak)}" if tried.peak else ""
        console.say(f"{tasks} task(s) at once{again}: {tried.seconds:.3g} s a step{used}")
        if tried.peak is not None:
            if len(peaks) == 1 and (warm := memory(device)) is not None:  # with what only the first step ever takes
                peaks[0] = min(warm, tried.peak)
            peaks[tasks] = tried.peak
            if bound is not None and tried.peak > bound:
                return Search(fitting, tasks, tried.peak)
        fitting.append(tried)
        if tried.seconds > 1.25 * min(one.seconds for one in fitting):
            break
    return Search(fitting, None, None)


def _try(job: Job, tasks: int, batch: Batch, device: torch.device, ranks: Ranks) -> Tried | None:
    """Steps, a test and a step, as a run takes them, since what is freed is not always taken again. None: memory has
    ended."""
    memory(device)  # from here on the peak is counted
    try:
        learner = still_learner(job, tasks)
        seconds = _seconds(learner, batch)
        _test_once(learner, job, ranks)
        learner.step(batch, 0)
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        torch.cuda.empty_cache()
        return None
    peak = peak_memory(device)
    give_back()
    return Tried(tasks, getattr(job.algo, "remat", False), seconds, peak)


def _test_once(learner: Learner, job: Job, ranks: Ranks) -> None:
    """What a test of the run holds at once: some episodes in all its modes, and the pictures of the first ones."""
    headline, modes = job.headline, job.test_modes
    draw = draw_block(job.task, "test", job.run.episodes_seed, 0)
    tasks = min(learner.tasks_per_chunk or BLOCK, -(-len(draw["key"]) // ranks.size))
    batch = job.task.gather(draw_slice(draw, 0, tasks), learner.device)
    if BatchNorm.one_query in modes and job.net.init_stats():  # a forward for each query: one is as large as all
        modes.remove(BatchNorm.one_query)
        mask = None if batch.query_mask is None else batch.query_mask[:, :1]
        one = batch._replace(query_x=batch.query_x[:, :1], query_y=batch.query_y[:, :1], query_mask=mask)
        learner.evaluate(one, [BatchNorm.one_query])
    if modes:
        learner.evaluate(batch, modes)
    picture(learner, job, "test", headline)
    first_tasks(learner, job, headline)


def still_learner(job: Job, tasks_per_chunk: int | str | None) -> Learner:
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


def _too_little(job: Job, search: Search) -> str:
    asked, tasks = job.run.memory, search.beyond
    given = f"memory={asked}" if asked not in (None, "auto") else "the memory that is free here"
    takes, more = "more", "more"
    if search.peak is not None:
        takes = f"{size(search.peak)}, all that the process holds included"
        if asked not in (None, "auto"):
            more = f"memory={size(_rounded_up(search.peak / USED)).replace(' ', '')} or more"
    ways = ["fewer tasks_per_chunk"] if tasks != 1 else []
    if getattr(job.algo, "remat", None) is False and "algo.remat" in job.given:
        ways.append("algo.remat=true")
    ways += ["algo.first_order=true"] if getattr(job.algo, "first_order", None) is False else []
    return (
        f"{given} is too little: steps and a test take {takes}, with {tasks} task(s) at once; give {more}, or "
        f"{', or '.join([*ways, 'a smaller task or model'])}"
    )


def _rounded_up(count: float) -> int:
    """To the three digits that `size` shows at least."""
    unit: int = 10 ** max(0, len(str(int(count))) - 3)
    return unit * math.ceil(count / unit)


def size(count: int) -> str:
    return f"{count / 1e6:.4g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"
