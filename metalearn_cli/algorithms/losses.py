"""Losses and scores of tasks, and the update that a loss asks for.

Shapes: T tasks, B examples of either set, C channels.
"""

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Meta, Update
from metalearn_cli.nets.base import Call, Noise, Params, Pass
from metalearn_cli.tasks.base import Batch, Spec, Support
from metalearn_cli.tasks.calibration import by_label, calibration


def call_on(tasks: Support | Batch, examples: Pass, mask: Tensor | None, step: int = 0) -> Call:
    """The call of a forward of these examples after `step` inner steps: with noise where it belongs to a training."""
    noise = None if tasks.progress is None else Noise(tasks.key, examples, tasks.progress)
    return Call(mask=mask, step=step, noise=noise)


def task_loss(spec: Spec, out: Tensor, y: Tensor, mask: Tensor | None = None, way: Tensor | None = None) -> Tensor:
    """Mean loss of each task, [T], by its likelihood; out [T, B, outputs].

    Over the examples of mask [T, B], where it is given, and the first way[t] outputs of task t.
    """
    return mean_of_real(spec.likelihood.loss(without_absent_classes(out, way), y), mask)


def task_scores(
    spec: Spec, out: Tensor, y: Tensor, mask: Tensor | None = None, way: Tensor | None = None
) -> dict[str, Tensor]:
    """Every metric of each task, [T] by name; what the calibration error is made of, of densities [T, 20], of classes
    [T, 3, 15]; and of these how the examples of each label are told, [T, outputs, 2]. out [T, B, outputs], mask [T, B],
    way [T]."""
    out = without_absent_classes(out, way)
    scores = {name: mean_of_real(values, mask) for name, values in spec.likelihood.scores(out, y).items()}
    if spec.kind == "classes":
        scores |= {"calibration": calibration(out, y, mask), "by_label": by_label(out, y, mask)}
    return scores


def without_absent_classes(out: Tensor, way: Tensor | None) -> Tensor:
    """Logits [T, B, outputs] with the lowest finite number for the classes beyond the way[t] ones of task t."""
    if way is None:
        return out
    absent = torch.arange(out.shape[-1], device=out.device) >= way[:, None, None]
    return out.masked_fill(absent, torch.finfo(out.dtype).min)


def mean_of_real(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each task's real values, by mask [T, B]: [T, B, ...] -> [T, ...]."""
    if mask is None:
        return values.mean(1)
    mask = mask.view(*mask.shape, *[1] * (values.dim() - 2))
    return values.where(mask, 0).sum(1) / mask.sum(1)


def mean_gradient(loss: Tensor, params: Params) -> Params:
    """The gradient of the mean of loss [T] in each parameter."""
    if not params:  # vectors as they are, compared
        return {}
    return dict(zip(params, torch.autograd.grad(loss.mean(), list(params.values())), strict=True))


def gradient_update(meta: Meta, loss: Tensor, stats: Params) -> Update:
    """The update by the gradient of the mean of loss [T]; `stats` are the batch-norm statistics behind that loss."""
    return Update(mean_gradient(loss, meta.params), loss.detach(), running_average(meta.buffers, stats))


def running_average(buffers: Params, stats: Params) -> Params:
    """Batch-norm buffers moved by a tenth (torch's momentum) towards the mean over tasks of `stats` [T, C].

    The variance is averaged as it normalised the batch, biased; torch's layer stores n/(n-1) times that.
    """
    return {name: buffers[name].lerp(value.detach().mean(0), 0.1) for name, value in stats.items()}
