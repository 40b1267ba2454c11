"""How well distributions agree with what is drawn: calibration, coverage and the continuous ranked probability score.

Shapes: T tasks, B examples, V values of an example, W classes, Z components of a mixture.
"""

import math

import torch
from torch import Tensor

from metalearn_cli.tasks.metrics import COVERAGES

BINS = 15  # of confidence, for the calibration error of classes
LEVELS = 20  # equal parts of 0..1, for the calibration error of values


def central(below: Tensor) -> dict[str, Tensor]:
    """Whether values are inside central intervals, [T, B] each, and `pit` [T, B, LEVELS]: in which of so many equal
    parts of 0..1 the probability of less than the value lies (the probability integral transform), below [T, B, V]."""
    inside = (2 * below - 1).abs()  # the smallest central interval that holds the value
    place = (LEVELS * below.nan_to_num()).ceil().long().sub(1).clamp(0, LEVELS - 1)
    pit = one_hot(place, LEVELS).to(below.dtype).mean(2)
    return {"pit": pit} | {f"coverage_{share}": (inside <= share / 100).to(below.dtype).mean(-1) for share in COVERAGES}


def continuous_ranked_probability(mean: Tensor, deviation: Tensor, y: Tensor) -> Tensor:
    """The continuous ranked probability score of mixtures of normal distributions (Grimit et al. 2006), [T, B, V]:
    E|Y - y| - E|Y - Y'| / 2, with mean and deviation [T, B, Z, V] and y [T, B, V]."""
    apart = mean.unsqueeze(2) - mean.unsqueeze(3)
    spread = (deviation.square().unsqueeze(2) + deviation.square().unsqueeze(3)).sqrt()
    return _mean_size(y.unsqueeze(2) - mean, deviation).mean(2) - 0.5 * _mean_size(apart, spread).mean((2, 3))


def _mean_size(mean: Tensor, deviation: Tensor) -> Tensor:
    """E|Y| of Y ~ N(mean, deviation^2)."""
    z = mean / deviation
    density = (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi)
    size: Tensor = mean * (2 * torch.special.ndtr(z) - 1) + 2 * deviation * density
    return size


def calibration(out: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """What a calibration error is made of (Guo et al. 2017, arXiv 1706.04599): of the examples of each task whose
    highest probability lies in ((i - 1) / 15, i / 15] their number, the sum of that probability, and how many are
    right. Logits out [T, B, W], y [T, B], mask [T, B] -> [T, 3, 15]."""
    confidence, predicted = out.softmax(-1).max(-1)
    place = (BINS * confidence.nan_to_num()).ceil().long().sub(1).clamp(0, BINS - 1)
    parts = torch.stack([torch.ones_like(confidence), confidence, (predicted == y).to(out.dtype)], 1)  # [T, 3, B]
    parts = parts if mask is None else parts.where(mask[:, None], 0)
    return (parts[..., None] * one_hot(place, BINS)[:, None]).sum(2)


def by_label(out: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """How many examples of each task have each label, and how many of them are right: logits out [T, B, W], y [T, B],
    mask [T, B] -> [T, W, 2] int16."""
    right = (out.argmax(-1) == y).byte()
    parts = torch.stack([torch.ones_like(right), right], -1)  # [T, B, 2]
    parts = parts if mask is None else parts.where(mask.unsqueeze(-1), 0)
    return (one_hot(y, out.shape[-1]).unsqueeze(-1) * parts.unsqueeze(2)).sum(1).short()


def one_hot(numbers: Tensor, size: int) -> Tensor:
    """[T, B] -> [T, B, size] of 0 and 1."""
    return (numbers[..., None] == torch.arange(size, device=numbers.device)).byte()
