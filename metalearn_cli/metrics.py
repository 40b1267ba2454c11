"""From one value per episode to what is reported: mean, 95% interval, median, diverged share."""

import math
from typing import TypedDict

import torch
from torch import Tensor


class Summary(TypedDict):
    mean: float | None
    ci95: float | None
    median: float | None
    diverged: float


def summarise(metric: Tensor, diverged: Tensor) -> Summary:
    """One value per episode [E] and who diverged [E] bool -> the figures; None where a figure is not finite.

    ci95 is the half width of the 95% interval, 1.96 sd / sqrt(E), with the standard deviation over episodes (ddof 0) as
    the field reports it. It tells the noise of sampling episodes for one trained model, not that of training.
    Diverged episodes stay in every figure.
    """
    metric = metric.double()
    ci95 = 1.96 * metric.std(correction=0) / math.sqrt(len(metric))
    return {
        "mean": _finite(metric.mean()),
        "ci95": _finite(ci95),
        "median": _finite(metric.nanquantile(0.5)),
        "diverged": diverged.double().mean().item(),
    }


def has_diverged(kind: str, loss: Tensor, before: Tensor) -> Tensor:
    """Loss [E, *] -> [E, *] bool: not finite, or above 10 (values) or ten times the loss `before` [E] (classes)."""
    limit = torch.tensor(10.0, dtype=loss.dtype) if kind == "values" else 10 * before[:, None]
    return ~torch.isfinite(loss) | (loss > limit)


def is_better(metric_name: str, value: float | None, than: float | None) -> bool:
    """Accuracy is better higher, every error lower; anything is better than nothing."""
    if value is None or than is None:
        return value is not None
    return value > than if metric_name == "accuracy" else value < than


def _finite(value: Tensor) -> float | None:
    number = value.item()
    return number if math.isfinite(number) else None
