"""How many points the sets of a task have, where that is drawn as in the code of Transformer Neural Processes.

S = 3 ... M - 4 support points are drawn, and then Q = 3 ... M - 1 - S query points (M = `max_points`): one pair of
sizes for all tasks of a training batch, and in a test one for every 16 tasks, which are padded to the largest of their
draw.

Shapes: T tasks, G pairs of sizes.
"""

import math
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.system.limits import Limit
from metalearn_cli.tasks.base import Draw, Split

LEAST, OF_ONE_SIZE = 3, 16  # points of a set; tasks of a test

Total = Annotated[int, Limit("a whole number, 8 or above", lambda value: value >= 8)]


class Sizes(NamedTuple):
    support: Tensor  # [T]: how many points the support sets have
    query: Tensor  # [T]
    most: tuple[int, ...]  # points of each to which both are padded
    masks: Draw  # which points of the sets are real, [T, most] each; empty where nothing is padded


def draw_sizes(tasks: int, split: Split, max_points: int, bucket: int, rng: torch.Generator) -> Sizes:
    """Draw the sizes of T = `tasks` tasks. Both sets are padded to a multiple of `bucket` points, and to no more than a
    set can have: with a bucket of `max_points` all draws have tensors of one shape."""
    groups = 1 if split == "train" else math.ceil(tasks / OF_ONE_SIZE)
    support = _draw_up_to(torch.full((groups,), max_points - 4), rng)
    query = _draw_up_to(max_points - 1 - support, rng)
    most = tuple(min(-(-int(size.max()) // bucket) * bucket, max_points - 4) for size in (support, query))
    support, query = (size.repeat_interleave(OF_ONE_SIZE if groups > 1 else tasks)[:tasks] for size in (support, query))
    masks = {}
    if groups > 1 or bucket > 1:
        parts = zip(("support", "query"), (support, query), most, strict=True)
        masks = {f"{name}_mask": torch.arange(room) < size[:, None] for name, size, room in parts}
    return Sizes(support, query, most, masks)


def _draw_up_to(most: Tensor, rng: torch.Generator) -> Tensor:
    """Draw whole numbers, uniform in LEAST ... most: [G] -> [G]."""
    share = torch.rand(most.shape, generator=rng, dtype=torch.float64)
    return LEAST + (share * (most - LEAST + 1)).long()
