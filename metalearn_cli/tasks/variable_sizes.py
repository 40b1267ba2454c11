"""Episodes whose way and shot vary, with different shots for each class: the protocol of Meta-Dataset.

Triantafillou et al. 2020 (arXiv 1903.03096, section 3.2 and appendix A): the number of classes is uniform; every class
gets the same number of query images, at most half of the smallest class; the size of the support set is drawn (beta),
and divided by the sizes of the classes and a random factor of each (alpha). Examples are padded to the largest possible
number, and masks tell which are real.

Differs from the paper in: all classes of a split are equally likely, where the paper's ImageNet and Omniglot follow
their hierarchies (`task.within_group=true` takes all classes from one alphabet or superclass).

Shapes: T tasks, W classes of a task at most, S and Q support and query examples of a task at most.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Draw, draw_keys
from metalearn_cli.tasks.one_size import sort_keys


def draw_way(least: int, most: Tensor, rng: torch.Generator) -> Tensor:
    """Draw the number of classes of each task, uniform in least ... most[t]: most [T] -> [T]."""
    return least + (torch.rand(len(most), generator=rng, dtype=torch.float64) * (most - least + 1)).long()


class Sizes(NamedTuple):
    """The sizes of T tasks: drawn ways, and limits of what is drawn with them."""

    way: Tensor  # [T]: classes
    shot: int  # images of a class that count in the size of the support set
    query: int  # the most query images of a class
    max_support: int  # the most support images of a task
    largest: int  # images of the largest class of the split: all draws get the same shape by it


def draw_variable(start: Tensor, count: Tensor, turn: Tensor | None, sizes: Sizes, rng: torch.Generator) -> Draw:
    """Draw images of the first way[t] of the W classes of each task, and how many of each. As in one_size.draw_images,
    start and count say which images they have, and turn how these are turned.

    start, count, turn [T, W] -> support_image, support_turn, support_y, support_mask [T, S], query_* [T, Q], way, key
    [T], with S the lesser of max_support and W * shot, and Q = W * query.
    """
    way, shot, query, max_support, largest = sizes
    tasks, classes = start.shape
    present = torch.arange(classes) < way[:, None]
    queries = count.masked_fill(~present, largest).amin(1).div(2, rounding_mode="floor").clamp(max=query)[:, None]
    shots = _draw_shots(count, count - queries, present, shot, max_support, rng)
    number = torch.arange(largest)
    keys = sort_keys(tasks, classes, largest, rng=rng)
    image = start[..., None] + keys.masked_fill_(number >= count[..., None], -1).argsort(descending=True)
    after = shots[..., None] + queries[..., None] * present[..., None]  # a class that is not present has none
    draw: Draw = {"way": way}
    parts = {
        "support": (number < shots[..., None], min(max_support, classes * min(shot, largest - 1))),
        "query": ((number >= shots[..., None]) & (number < after), classes * query),
    }
    for name, (real, size) in parts.items():
        order = sort_keys(tasks, classes * largest, rng=rng)
        # The real ones first.
        order = order.masked_fill_(~real.flatten(1), -1).topk(min(size, classes * largest)).indices
        mask, label = real.flatten(1).gather(1, order), order // largest
        draw[f"{name}_mask"] = mask
        draw[f"{name}_y"] = label.masked_fill(~mask, 0)
        draw[f"{name}_image"] = torch.where(mask, image.flatten(1).gather(1, order), start[:, :1])
        if turn is not None:
            draw[f"{name}_turn"] = turn.gather(1, label)
    draw["key"] = draw_keys(tasks, rng)
    return draw


def _draw_shots(
    count: Tensor, room: Tensor, present: Tensor, shot: int, max_support: int, rng: torch.Generator
) -> Tensor:
    """Draw the number of support images of each class, [T, W], at least 1 of a present one; `room` is their limit."""
    beta = 1 - torch.rand(len(count), 1, generator=rng, dtype=torch.float64)
    total = ((beta * room.clamp(max=shot)).ceil() * present).sum(1, keepdim=True).clamp(max=max_support)
    alpha = math.log(0.5) + math.log(4) * torch.rand(count.shape, generator=rng, dtype=torch.float64)
    weight = alpha.exp() * count * present
    share = weight / weight.sum(1, keepdim=True) * (total - present.sum(1, keepdim=True))
    return torch.minimum(share.long() + 1, room) * present
