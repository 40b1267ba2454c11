"""Episodes in which classes have different numbers of queries, or unlabelled images beside them.

Unequal queries are those of Veilleux et al. 2021 (arXiv 2204.11181): the shares of the classes are from a symmetric
Dirichlet distribution. Unlabelled images, and those of distractors, classes without support or query, are those of Ren
et al. 2018 (arXiv 1803.00676).

Shapes, besides those of tasks/base.py: W classes of a task and D distractors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.base import Draw


def draw_numbers(tasks: int, way: int, queries: int, concentration: int, rng: torch.Generator) -> Tensor:
    """Divide the queries of each task among its classes by shares from Dirichlet(concentration, ...), rounded, [T, W].

    Of W * concentration - 1 numbers in 0..1, in their order, every concentration-th bounds a class: without a
    logarithm, which machines round differently.
    """
    bounds = torch.rand(tasks, way * concentration - 1, generator=rng, dtype=torch.float64).sort().values
    bounds = bounds[:, concentration - 1 :: concentration].contiguous()  # [T, W - 1]
    places = (torch.arange(queries, dtype=torch.float64) + 0.5) / queries
    return F.one_hot(torch.searchsorted(bounds, places.repeat(tasks, 1)), way).sum(1)


def rank_in_class(label: Tensor) -> Tensor:
    """Number the examples of each class of a task, from 1: label [T, B] -> [T, B]."""
    return F.one_hot(label).cumsum(1).gather(2, label.unsqueeze(-1)).squeeze(-1)


def divided(draw: Draw, number: Tensor, most: int) -> Draw:
    """Keep the first number[t, k] queries of class k, of a draw of W + D classes with `most` of each or more, and make
    unlabelled_* of all after the first `most`: number [T, W]."""
    way, label = number.shape[1], draw["query_y"]
    distractors = int(label.max()) + 1 - way
    number = F.pad(number, (0, distractors))
    rank = rank_in_class(label)
    parts = (
        ("support", "support", draw["support_y"] < way),
        ("query", "query", rank <= number.gather(1, label)),
        ("unlabelled", "query", rank > most),
    )
    kept = {"key": draw["key"]}
    for name, source, chosen in parts:
        for what in ("image", "y", "turn"):
            if chosen.any() and f"{source}_{what}" in draw:
                kept[f"{name}_{what}"] = draw[f"{source}_{what}"][chosen].view(len(label), -1)
    return kept
