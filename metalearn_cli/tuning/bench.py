"""Measure how fast a configuration trains on this machine, and where its time goes; nothing is written.

The work of a step is counted, and its time measured in turn with that of a plain matrix product, of the same precision
on the same device and threads: the ratio of the two rates says how much a faster program could gain by the same maths.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.config.assemble import new_learner, require_parts
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.learning.draws import BLOCK, EpisodeRange
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.seeding import generator
from metalearn_cli.system.console import Console, Progress
from metalearn_cli.system.device import Precision
from metalearn_cli.system.measure import begin_peak, peak_memory, timed
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.capabilities import make_ready, notes_of, task_count
from metalearn_cli.tuning.prepare import prepare

TURN = 0.1  # seconds that the steps of a round take at least, and its products
BUDGET = 15.0  # seconds of all rounds, and of the episodes in each choice of modes
LEAST, MOST = 5, 50  # rounds
PRODUCT_SIZE = {"cpu": 2048, "cuda": 4096}  # of the product's square matrices


class Round(NamedTuple):
    """Seconds of one call of each part."""

    draw: float
    gather: float
    step: float
    product: float


class EpisodeTime(NamedTuple):
    modes: list[BatchNorm]
    number: int
    seconds: float  # of one


class Timings(NamedTuple):
    times: Round  # medians
    rounds: int
    work: int  # FLOP of a step
    peak: int | None  # bytes of memory at a step's peak above those before the first one; None: unknown here
    episodes: dict[str, EpisodeTime]


def bench(job: Job, console: Console) -> str:
    """Run the steps and episodes of this configuration for about a minute -> a table. Raises UserError for what `train`
    would refuse, and where the configuration does not train."""
    require_parts(job)
    _ = job.task.fingerprint  # reads the data, or says what is missing
    for note in (*job.notes, *notes_of(job.task)):
        console.say(note)
    job = prepare(job, None, console)
    for split in job.splits_used:
        make_ready(job.task, split)
    learner = new_learner(job)
    try:
        return table(job, learner.device, time_parts(job, learner, console))
    except NonFinite as failure:
        raise UserError(
            f"the {failure.what} of step {failure.step} is not finite, so that there is nothing to measure: "
            "try a lower algo.inner_lr or optimizer.lr"
        ) from failure


def time_parts(job: Job, learner: Learner, console: Console) -> Timings:
    """Time the parts of a step beside matrix products, and episodes in each choice of modes."""
    device = learner.device
    batch = job.task.gather(job.training_draw(0), device)
    if job.run.compile or job.run.cuda_graph:
        console.say("compiling, or capturing, the step, which can take minutes")
        learner.warm_up(batch, 0)
    console.say("two steps to warm up, and for the peak of memory")
    before = begin_peak(device)
    learner.step(batch, 0)
    _, step_once = timed(device, 1, lambda _: learner.step(batch, 1))
    peak = peak_memory(device)
    console.say("one step to count its work")
    work = count_flop(learner, batch)
    multiply = product(device, torch.bfloat16 if job.run.precision is Precision.bf16 else learner.dtype)
    _, product_once = timed(device, 2, multiply)

    steps, products = (math.ceil(TURN / seconds) for seconds in (step_once, product_once))
    number = min(max(int(BUDGET / (steps * step_once + products * product_once)), LEAST), MOST)
    console.say(f"{number} rounds of {steps} step(s) and {products} matrix product(s)")
    rounds: list[Round] = []
    with Progress(console, "rounds", number) as progress:
        for done in range(number):
            rounds.append(one_round(job, learner, 2 + done * steps, steps, multiply, products))
            progress.advance(done + 1, f"{1 / rounds[-1].step:.3g} steps/s")
    times = Round(*map(statistics.median, zip(*rounds, strict=True)))

    modes = {"validation": [job.headline], "test": job.test_modes}
    if modes["test"] == modes["validation"]:
        del modes["validation"]
    episodes = {what: time_episodes(job, learner, modes[what], what, console) for what in modes}
    return Timings(times, number, work, None if before is None or peak is None else peak - before, episodes)


def one_round(
    job: Job, learner: Learner, first: int, steps: int, multiply: Callable[[int], Tensor], products: int
) -> Round:
    """Time `steps` meta-iterations from number `first` on, part by part, and then as long a turn of matrix products."""
    device = learner.device
    draws, drawing = timed(device, steps, lambda i: job.training_draw(first + i))
    batches, gathering = timed(device, steps, lambda i: job.task.gather(draws[i], device))
    _, stepping = timed(device, steps, lambda i: learner.step(batches[i], first + i))
    learner.check()  # on a GPU: whether the steps were made at all
    _, multiplying = timed(device, products, multiply)
    return Round(drawing, gathering, stepping, multiplying)


def product(device: torch.device, dtype: torch.dtype) -> Callable[[int], Tensor]:
    """Make the function that multiplies two square matrices, as fast as this device can."""
    size = PRODUCT_SIZE[device.type]
    a, b = (torch.rand(size, size, generator=generator("bench", i)).to(device, dtype) for i in range(2))
    out = torch.empty_like(a)
    return lambda _: torch.mm(a, b, out=out)


def count_flop(learner: Learner, batch: Batch) -> int:
    """Count twice the multiplications of a step's matrix products and convolutions, with those of all derivatives."""
    params = {name: value.detach().requires_grad_() for name, value in learner.meta.params.items()}
    meta = Meta(params, learner.meta.buffers)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_flop}) as mode:
        for chunk in batch.to(learner.dtype).chunks(learner.tasks_per_chunk or len(batch.key)):
            carry = learner.algorithm.meta_gradient(learner.net, meta, chunk, 0).carry
            while carry is not None:
                carry = learner.algorithm.meta_gradient(learner.net, meta, chunk, 0, carry).carry
    return int(mode.get_total_flops())


def _backward_flop(grad: list[int], x: list[int], weight: list[int], *rest: Any, out_shape: Any = None) -> int:
    """The FLOP of convolution_backward, from the shapes of its arguments: each of its gradients costs a forward. The
    formula of torch 2.13 takes the groups of a grouped convolution's weight gradient for one."""
    *_, transposed, _, _, is_needed = rest
    gradients: int = sum(is_needed[:2])
    return 2 * math.prod(x if transposed else grad) * math.prod(weight[1:]) * gradients


def time_episodes(job: Job, learner: Learner, modes: list[BatchNorm], what: str, console: Console) -> EpisodeTime:
    """Time a block of test episodes in these batch-norm modes, or as many of it as the time allows, after four."""

    def seconds(number: int) -> float:
        """Time one of so many episodes."""
        episodes = EpisodeRange("test", number, job.run.episodes_seed)
        return timed(learner.device, 1, lambda _: evaluate(learner, job.task, episodes, modes))[1] / number

    most = min(BLOCK, task_count(job.task, "test") or BLOCK)
    number = min(most, max(4, int(BUDGET / seconds(min(4, most)))))
    console.say(f"{number} episodes, scored as in a {what}")
    return EpisodeTime(modes, number, seconds(number))


def table(job: Job, device: torch.device, measured: Timings) -> str:
    settings, times = job.run, measured.times
    whole = times.draw + times.gather + times.step
    size = PRODUCT_SIZE[device.type]
    rate, bound = measured.work / times.step, 2 * size**3 / times.product
    peak = "unknown on this system" if measured.peak is None else f"{measured.peak / 1e6:.4g} MB"
    lines = [
        f"tasks per second  {settings.tasks_per_step / whole:.4g}, in steps of {settings.tasks_per_step}; "
        f"medians of {measured.rounds} rounds",
        f"of the peak       {rate / bound:.1%}: a step's {measured.work / 1e9:.4g} GFLOP at {rate / 1e9:.4g} GFLOP/s, "
        f"torch.mm of {size}x{size} {settings.precision.name} at {bound / 1e9:.4g}",
        f"memory            {peak} at a step's peak, above what was in use before the first",
        "",
        f"{'part':<24}{'seconds':>10}{'share of a step':>17}",
    ]
    for name in ("draw", "gather", "step"):
        seconds = getattr(times, name)
        lines.append(f"{name:<24}{seconds:>10.3g}{seconds / whole:>17.1%}")
    for what, (modes, number, seconds) in measured.episodes.items():
        scored = f" in {', '.join(mode.name for mode in modes)}" if job.net.init_stats() else ""
        lines.append(f"{f'episode of a {what}':<24}{seconds:>10.3g}  {number} timed{scored}")
    return "\n".join(lines)
