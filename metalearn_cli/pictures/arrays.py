"""What a learner does with the first tasks of a split, as numbers: they are drawn without data or checkpoint.

Arrays of examples.npz, of N images of the first task, and of P points of each of the first tasks T:
  classes  support_x, query_x [N, H, W, 1 or 3] uint8; support_y, query_y, predicted [N]; probability [N] of what was
           predicted; queries and right: how many query images there were, and how many were classified rightly;
           names [way] of the classes, where the data have them
  values   support_x, support_y, query_x, query_y [T, P], where tasks differ in size padded with NaN; line_x [T, 200];
           line_y [K, T, 200] after steps [K]; errors [K, T], squared, of the query points; of a normal distribution
           deviation [T, 200] around the last line; without inner steps early_y and early_deviation [T, 200], as it is
           after the first `early` support points
  pixels   completed [T, K, H, W, 3] uint8: what is given, the mean, its deviation if it has one, and the truth; given
           [T], how many pixels are
Runs of earlier versions lack errors, and conditions: the inner steps and the batch-norm mode in words.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.capabilities import steps_at_test
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.config.job import Job
from metalearn_cli.learning.draws import draw_block
from metalearn_cli.learning.learner import Learner
from metalearn_cli.tasks.base import Batch, Split, draw_slice
from metalearn_cli.tasks.capabilities import label_names, offers, whole_images
from metalearn_cli.tasks.embedded import pictured
from metalearn_cli.tasks.likelihood import SquaredError

TASKS, POINTS = 4, 200
EARLY = 3  # support points that arrive first
CLASSES, SUPPORT, QUERY = 20, 5, 15  # of a classification task, at most, and images of each class
SIDE = 64  # pixels that an image has at most
GROUND = (96, 112, 144)  # the colour of a pixel that is not given: no grey has it

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def first_tasks(learner: Learner, job: Job, split: Split, batch_norm: BatchNorm) -> Arrays:
    """The first episodes of `split`; {} where this kind of task has no picture."""
    spec, shown = job.task.spec, pictured(job.task)
    shape = shown.spec.input_shape
    is_images = spec.kind == "classes" and len(shape) == 3 and shape[0] in (1, 3)
    is_curves = spec.kind == "values" and spec.input_shape == (1,) and spec.targets == 1
    if not (is_images or is_curves or offers(job.task, "whole_images")):
        return {}
    draw = draw_slice(draw_block(job.task, split, job.run.episodes_seed, 0), 0, TASKS)
    batch = job.task.gather(draw, learner.device)
    if is_images:
        pictures = batch if shown is job.task else shown.gather(draw, learner.device)
        tensors = of_classes(learner, batch, batch_norm, pictures)
    elif (whole := whole_images(job.task, draw, learner.device)) is not None:
        tensors = of_pixels(learner, whole, batch_norm)
    else:
        tensors = of_values(learner, batch, batch_norm)
    arrays: Arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    steps = steps_at_test(learner.algorithm, spec)
    conditions = f"{steps or 'no'} inner step{'s' * (steps != 1)}"
    conditions += f", batch norm {batch_norm.name}" if learner.net.init_stats() else ""
    arrays["conditions"] = np.array(conditions)
    if is_images and (names := label_names(job.task, draw)):
        arrays["names"] = np.array(names)
    return arrays


def of_classes(learner: Learner, batch: Batch, batch_norm: BatchNorm, shown: Batch) -> dict[str, Tensor]:
    """The first classification task of the batch, with its images, which `shown` has."""
    batch, shown = batch.to(learner.dtype).task(0), shown.task(0)
    out = learner.adapt(batch.support)(batch.query_x, batch_norm)[0]  # [Q, way]
    out = out if batch.way is None else out[:, : int(batch.way)]
    predicted = out.argmax(-1)
    support, query = _few(batch.support_y[0], SUPPORT), _few(batch.query_y[0], QUERY)
    return {
        "support_x": _levels(shown.support_x[0][support]),
        "support_y": batch.support_y[0][support],
        "query_x": _levels(shown.query_x[0][query]),
        "query_y": batch.query_y[0][query],
        "predicted": predicted[query],
        "probability": out.softmax(-1).amax(-1)[query].float(),
        "queries": torch.tensor(len(predicted)),
        "right": (predicted == batch.query_y[0]).sum(),
    }


def of_values(learner: Learner, batch: Batch, batch_norm: BatchNorm) -> dict[str, Tensor]:
    """One-dimensional regressions: the points, and the network's line before adapting, after one step and after all.

    Where batch norm takes the query's own statistics, a line has those of its 200 points, and an error those of the
    query points.
    """
    batch = batch.chunks(TASKS)[0].to(learner.dtype)
    tasks = [batch.task(number) for number in range(len(batch.key))]
    ends = [torch.cat([task.support_x, task.query_x], 1).aminmax(dim=1, keepdim=True) for task in tasks]
    low, high = (torch.cat(end) for end in zip(*ends, strict=True))
    grid = low + (high - low) * torch.linspace(0, 1, POINTS, dtype=low.dtype, device=low.device).view(1, -1, 1)
    last = steps_at_test(learner.algorithm, learner.net.spec)
    steps = sorted({0, min(1, last), last})
    predictors = [learner.adapt(batch.support, number) for number in steps]
    spec, moments = learner.net.spec._replace(likelihood=SquaredError()), learner.net.spec.likelihood.moments
    lines, deviations = zip(*[moments(predict(grid, batch_norm)) for predict in predictors], strict=True)
    values = [moments(predict(batch.query_x, batch_norm, batch.query_mask))[0] for predict in predictors]
    errors = [task_loss(spec, y, batch.query_y, batch.query_mask) for y in values]
    arrays = {
        "line_x": grid[..., 0].float(),
        "line_y": torch.stack(lines)[..., 0].float(),
        "steps": torch.tensor(steps),
    }
    arrays["errors"] = torch.stack(errors).float()
    if deviations[-1] is not None:
        arrays["deviation"] = deviations[-1][..., 0].float()
    if not last and batch.support_x.shape[1] > EARLY:
        line, deviation = moments(learner.adapt(batch.support.first(EARLY))(grid, batch_norm))
        arrays |= {"early": torch.tensor(EARLY), "early_y": line[..., 0].float()}
        if deviation is not None:
            arrays["early_deviation"] = deviation[..., 0].float()
    for name in ("support_x", "support_y", "query_x", "query_y"):
        rows = [getattr(task, name).flatten().float() for task in tasks]
        arrays[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=math.nan)
    return arrays


def of_pixels(learner: Learner, whole: Batch, batch_norm: BatchNorm) -> dict[str, Tensor]:
    """Images of which some pixels are given, where the query set is all pixels of a square image."""
    whole = whole.to(learner.dtype)
    with torch.no_grad():
        out = learner.adapt(whole.support)(whole.query_x, batch_norm)
    mean, deviation = learner.net.spec.likelihood.moments(out)
    side = math.isqrt(mean.shape[1])
    tasks = [whole.task(number) for number in range(len(whole.key))]
    given = torch.tensor(GROUND, device=mean.device).expand(len(tasks), side, side, 3).clone()
    for number, task in enumerate(tasks):
        rows, columns = ((task.support_x[0] + 1) / 2 * (side - 1)).round().long().unbind(-1)
        given[number, rows, columns] = (255 * (task.support_y[0] + 0.5)).round().long()
    shown = [mean + 0.5, *([] if deviation is None else [2 * deviation]), whole.query_y + 0.5]  # white: 0.5 and above
    images = [(255 * x.clamp(0, 1)).round().view(*given.shape[:3], -1).expand(given.shape) for x in shown]
    return {
        "completed": torch.stack([given, *images], 1).to(torch.uint8),
        "given": torch.tensor([task.support_x.shape[1] for task in tasks]),
    }


def _few(labels: Tensor, most: int) -> Tensor:
    """The places of the first `most` of each of the first classes, class by class."""
    classes = range(min(CLASSES, int(labels.max()) + 1))
    return torch.cat([(labels == label).nonzero().flatten()[:most] for label in classes])


def _levels(x: Tensor) -> Tensor:
    """Images [N, C, H, W] as [N, H, W, C] uint8 of at most SIDE pixels a side."""
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 1.0)  # 0..1, unless the data are standardised
    shrink = math.ceil(max(x.shape[2:]) / SIDE)
    small = torch.nn.functional.avg_pool2d(x.float(), shrink, ceil_mode=True) if shrink > 1 else x.float()
    return ((small - low) / (high - low) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
