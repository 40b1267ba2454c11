"""Many tasks of a family of curves, and the ranges that their parameters must fill."""

import pytest
import torch

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, TaskDistribution


def gathered(task: TaskDistribution, tasks: int = 2000) -> tuple[dict[str, torch.Tensor], Batch]:
    draw = task.draw(tasks, "train", generator(0, "train", 0))
    return draw, task.gather(draw, torch.device("cpu"))


def check_ranges(*uniform: tuple[torch.Tensor, float, float]) -> None:
    for values, low, high in uniform:
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
