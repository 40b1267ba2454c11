"""Episodes of one size: classes and images at random, perhaps with different numbers of queries, or unlabelled images.

Unequal queries are those of Veilleux et al. 2021 (arXiv 2204.11181): the shares of the classes are from a symmetric
Dirichlet distribution. Unlabelled images, and those of distractors, classes without support or query, are those of Ren
et al. 2018 (arXiv 1803.00676).

Shapes, besides those of tasks/base.py: N images of a packed set, W classes of a task and D distractors.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.base import Draw, draw_keys


def draw_classes(tasks: int, way: int, classes: int, rng: torch.Generator, members: Tensor | None = None) -> Tensor:
    """Draw `way` different classes of `classes` for each task, [T, way], each equally likely for each label. Those in
    members [T, classes] bool come first."""
    keys = sort_keys(tasks, classes, rng=rng)
    return (keys if members is None else keys.masked_fill(~members, -1)).topk(way).indices


def draw_images(start: Tensor, count: Tensor, turn: Tensor | None, shot: int, query: int, rng: torch.Generator) -> Draw:
    """Draw images of classes: those of task t's class with label w are start[t, w] to start[t, w] + count[t, w] - 1,
    after turn[t, w] quarter turns (None: not turned).

    start, count, turn [T, way] -> support_image, support_turn, support_y [T, S], query_* [T, Q], key [T]. The support
    and the query share no image; each is in random order. Without turns there are no *_turn.
    """
    tasks, way = start.shape
    if (fewest := int(count.min())) < shot + query:
        raise ValueError(f"{shot} + {query} images asked of a class that has {fewest}")
    most = int(count.max())
    keys = sort_keys(tasks, way, most, rng=rng).masked_fill_(torch.arange(most) >= count[..., None], -1)
    image = start[..., None] + keys.topk(shot + query).indices  # [T, way, shot + query]
    draw: Draw = {}
    for name, part in (("support", image[..., :shot]), ("query", image[..., shot:])):
        order = sort_keys(tasks, part[0].numel(), rng=rng).argsort()
        label = order // part.shape[-1]
        draw[f"{name}_image"] = part.flatten(1).gather(1, order)
        draw[f"{name}_y"] = label
        if turn is not None:
            draw[f"{name}_turn"] = turn.gather(1, label)
    draw["key"] = draw_keys(tasks, rng)
    return draw


def sort_keys(*shape: int, rng: torch.Generator) -> Tensor:
    """Draw numbers to sort by: the greatest k are a sample without replacement (with 53 bits, ties do not matter)."""
    return torch.rand(shape, generator=rng, dtype=torch.float64)


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
