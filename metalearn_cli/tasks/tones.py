"""How bright pictures are, and how much of a picture is brighter than the rest: whether some are like the training's.

Shapes: N pictures of C channels of H x W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Split, TaskDistribution

PICTURES = 2000  # of the training, that are looked at
MARGIN = 0.1  # of the range: what is that far outside of it still counts as like them


class Tones(NamedTuple):
    """The least and the greatest of many pictures, after their preparation, of pixels in 0..1."""

    brightness: tuple[float, float]  # the mean of a picture's pixels
    spread: tuple[float, float]  # their standard deviation


def tones_of(task: TaskDistribution) -> Tones:
    """Measure some of the training's pictures, which are drawn at random."""
    values = _measured(drawn(task, "train"))
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    return Tones(*zip(low, high, strict=True))


def drawn(task: TaskDistribution, split: Split) -> Tensor:
    """Pictures of a split, [N, C, H, W] in 0..1."""
    parts: list[Tensor] = []
    rng = generator("tones", split)
    while sum(map(len, parts)) < PICTURES:
        batch = task.gather(task.draw(1, split, rng), torch.device("cpu")).task(0)
        parts += [batch.support_x[0], batch.query_x[0]]
    return torch.cat(parts)


def outside(x: Tensor, known: Tones) -> Tensor:
    """Which pictures x [N, C, H, W] in 0..1 have another brightness or spread than those, [N] bool."""
    low, high = (torch.tensor(end) for end in zip(*known, strict=True))
    margin = MARGIN * (high - low)
    values = _measured(x)
    return ((values < low - margin) | (values > high + margin)).any(1)


def warnings(x: Tensor, known: Tones, what: str, names: list[str]) -> list[str]:
    """A sentence on those of the pictures x [N, C, H, W], each with its name, that are outside; none where none is."""
    flags = outside(x, known).tolist()
    if not any(flags):
        return []
    first = flags.index(True)
    parts = [
        f"{word} {value:.2g}, where those had {low:.2g} to {high:.2g}"
        for word, value, (low, high) in zip(("brightness", "spread"), _measured(x)[first].tolist(), known, strict=True)
    ]
    return [
        f"warning: {sum(flags)} of {len(flags)} pictures in {what} are unlike the training's in brightness or spread, "
        f"first {names[first]} with {' and '.join(parts)} (as the net gets it): what is predicted of them is a guess"
    ]


def _measured(x: Tensor) -> Tensor:
    """[N, C, H, W] -> mean and standard deviation of each, [N, 2]."""
    deviation, mean = torch.std_mean(x.flatten(1), 1)
    return torch.stack([mean, deviation], 1)
