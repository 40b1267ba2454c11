"""How bright pictures are, and by how much their pixels differ: it tells whether pictures are like the training's.

Shapes: N pictures of C channels of H x W pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Split, TaskDistribution

PICTURES = 2000  # of the training that are measured
MARGIN = 0.1  # of the range: a picture that is less far outside still counts as like the training's


class Tones(NamedTuple):
    """The least and the greatest values of many pictures after their preparation, with pixels in 0..1."""

    brightness: tuple[float, float]  # the mean of a picture's pixels
    spread: tuple[float, float]  # their standard deviation


def tones_of(task: TaskDistribution) -> Tones:
    """Measure randomly drawn pictures of the training."""
    low, high = _measured(drawn(task, "train")).aminmax(dim=0)
    return Tones(*zip(low.tolist(), high.tolist(), strict=True))


def drawn(task: TaskDistribution, split: Split) -> Tensor:
    """Draw pictures of a split, [N, C, H, W] in 0..1."""
    parts: list[Tensor] = []
    rng = generator("tones", split)
    while sum(map(len, parts)) < PICTURES:
        batch = task.gather(task.draw(1, split, rng), torch.device("cpu")).task(0)
        parts += [batch.support_x[0], batch.query_x[0]]
    return torch.cat(parts)


def outside(x: Tensor, known: Tones) -> Tensor:
    """Find the pictures x [N, C, H, W] in 0..1 whose brightness or spread is outside of the known range, [N] bool."""
    low, high = (torch.tensor(end) for end in zip(*known, strict=True))
    margin = MARGIN * (high - low)
    values = _measured(x)
    return ((values < low - margin) | (values > high + margin)).any(1)


def warnings(x: Tensor, known: Tones, what: str, names: list[str]) -> list[str]:
    """Say which of the pictures x [N, C, H, W], each with its name, are outside; nothing if none is."""
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
        f"first {names[first]} with {' and '.join(parts)} (as the network gets it): their predictions are guesses"
    ]


def _measured(x: Tensor) -> Tensor:
    """Measure mean and standard deviation of each picture: [N, C, H, W] -> [N, 2]."""
    deviation, mean = torch.std_mean(x.flatten(1), 1)
    return torch.stack([mean, deviation], 1)
