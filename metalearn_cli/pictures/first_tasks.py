"""The first tasks of a split, drawn: for the terminal, TensorBoard and test.png."""

from typing import Any

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.job import Job
from metalearn_cli.learning.draws import draw_block
from metalearn_cli.learning.learner import Learner
from metalearn_cli.pictures.arrays import of_classes, of_values
from metalearn_cli.pictures.raster import MAX_TASKS, episode, fits
from metalearn_cli.pictures.terminal import plot
from metalearn_cli.tasks.base import Batch, Draw, Split, draw_slice


def picture(learner: Learner, job: Job, split: Split, mode: BatchNorm) -> Tensor | None:
    """The first episodes of `split`, uint8 [H, W, 3]; None where the kind of task has no picture."""
    if (kind := pictured(job)) is None:
        return None
    batch = first_batch(learner, job, split)
    return (episode if kind == "classes" else fits)(learner, batch, mode)


def first_tasks(learner: Learner, job: Job, mode: BatchNorm) -> dict[str, Any] | None:
    """The first test episodes as arrays; None where the kind of task has no picture."""
    if (kind := pictured(job)) is None:
        return None
    draw = first_draw(job, "test")
    batch = job.task.gather(draw, learner.device)
    found = (of_classes if kind == "classes" else of_values)(learner, batch, mode)
    names = job.task.label_names(draw) if kind == "classes" else ()
    return {name: tensor.cpu().numpy() for name, tensor in found.items()} | ({"names": names} if names else {})


def first_batch(learner: Learner, job: Job, split: Split) -> Batch:
    return job.task.gather(first_draw(job, split), learner.device)


def first_draw(job: Job, split: Split) -> Draw:
    return draw_slice(draw_block(job.task, split, job.run.episodes_seed, 0), 0, MAX_TASKS)


def pictured(job: Job) -> str | None:
    """ "classes" of images, or one-dimensional "values": what can be shown."""
    spec = job.task.spec
    is_images = spec.kind == "classes" and len(spec.input_shape) == 3 and spec.input_shape[0] in (1, 3)
    is_curve = spec.kind == "values" and spec.input_shape == (1,) and spec.outputs == 1
    return spec.kind if is_images or is_curve else None


def fit_picture(learner: Learner, job: Job, mode: BatchNorm) -> str:
    """The first test episode of a one-dimensional regression: the truth, and the network before and after adapting."""
    draw = draw_slice(draw_block(job.task, "test", job.run.episodes_seed, 0), 0, 1)
    batch = job.task.gather(draw, learner.device).to(learner.dtype).task(0)
    low, high = (end.item() for end in batch.query_x.aminmax())
    x = torch.linspace(low, high, 200, dtype=learner.dtype, device=learner.device).view(1, -1, 1)
    before, after = (learner.adapt(batch.support, steps)(x, mode)[0, :, 0].cpu() for steps in (0, None))
    line = x[0, :, 0].cpu()
    queries, targets = batch.query_x[0, :, 0].cpu(), batch.query_y[0, :, 0].cpu()
    support = (batch.support_x[0, :, 0].cpu(), batch.support_y[0, :, 0].cpu())
    picture = plot({".": (queries, targets), "-": (line, before), "+": (line, after), "o": support})
    last = f"after {job.algo.test_steps} step{'s' * (job.algo.test_steps > 1)}"
    return f"the first test task: . truth, o support, - before adapting, + {last}\n{picture}"
