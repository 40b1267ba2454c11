"""Episodes whose way and shot vary, with different shots for each class: the protocol of Meta-Dataset.

Triantafillou et al. 2020 (arXiv 1903.03096, section 3.2 and appendix A): the number of classes is uniform; every class
gets the same number of query images, at most half of what the smallest class has; the size of the support set is drawn
(beta), and is shared out by the sizes of the classes and a random factor of each (alpha). Examples are padded to the
most that there can be, and masks tell which are real.

Differs from it in: all classes of a split are equally likely, where ImageNet's and Omniglot's there follow their
hierarchies (`task.within_group=true` takes all classes from one alphabet or superclass).

Shapes: T tasks, W classes of a task at most, S and Q support and query examples of a task at most.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.tasks.base import Draw, draw_keys


def draw_way(least: int, most: Tensor, rng: torch.Generator) -> Tensor:
    """The number of classes of each task, uniform in least ... most[t]: most [T] -> [T]."""
    return least + (torch.rand(len(most), generator=rng, dtype=torch.float64) * (most - least + 1)).long()


class Chosen(NamedTuple):
    """The classes of T tasks, in the order of their labels."""

    start: Tensor  # [T, W]: the first image of each
    images: Tensor  # [T, W]: how many it has
    turn: Tensor | None  # [T, W]: by how many quarter turns they are seen; None: they are never turned


class Most(NamedTuple):
    """The most that a task of sizes that vary has."""

    shot: int  # of a class, that counts in the size of the support set
    query: int  # of a class
    max_support: int  # of a task


def draw_variable(chosen: Chosen, largest: int, way: Tensor, most: Most, rng: torch.Generator) -> Draw:
    """The first way[t] of the classes that were chosen, with support sets of sizes that are drawn.

    way [T] -> support_image, support_turn, support_y, support_mask [T, S], query_* [T, Q], way, key [T], with S the
    lesser of max_support and W * shot, and Q = W * query. `largest` is the size of the largest class that there is, so
    that every draw has one shape.
    """
    start, count, turn = chosen
    shot, query, max_support = most
    tasks, classes = start.shape
    present = torch.arange(classes) < way[:, None]
    queries = count.masked_fill(~present, largest).amin(1).div(2, rounding_mode="floor").clamp(max=query)[:, None]
    shots = _draw_shots(count, count - queries, present, shot, max_support, rng)
    number = torch.arange(largest)
    keys = torch.rand(tasks, classes, largest, generator=rng, dtype=torch.float64)
    image = start[..., None] + keys.masked_fill_(number >= count[..., None], -1).argsort(descending=True)
    after = shots[..., None] + queries[..., None] * present[..., None]  # a class that is not present has none
    draw: Draw = {"way": way}
    parts = {
        "support": (number < shots[..., None], min(max_support, classes * min(shot, largest - 1))),
        "query": ((number >= shots[..., None]) & (number < after), classes * query),
    }
    for name, (real, size) in parts.items():
        order = torch.rand(tasks, classes * largest, generator=rng, dtype=torch.float64)
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
    """Support images of each class, at least 1 where it is present: [T, W]; `room` is what the query set leaves."""
    beta = 1 - torch.rand(len(count), 1, generator=rng, dtype=torch.float64)
    total = ((beta * room.clamp(max=shot)).ceil() * present).sum(1, keepdim=True).clamp(max=max_support)
    alpha = math.log(0.5) + math.log(4) * torch.rand(count.shape, generator=rng, dtype=torch.float64)
    weight = alpha.exp() * count * present
    share = weight / weight.sum(1, keepdim=True) * (total - present.sum(1, keepdim=True))
    return torch.minimum(share.long() + 1, room) * present
