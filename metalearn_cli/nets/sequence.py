"""The order of a sequence of points with their values, and of targets that follow it.

What a network over sequences shares beside the parts in set_net.py: here the order of the context counts. Each target
comes after all of the context, and no target sees another. Real points count alone: a point that is not real has no
place, and nothing sees it.

Shapes: T tasks, S points of the context, Q targets, N of both.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.nets.set_net import Context


class Order(NamedTuple):
    """Where the points of sequences stand; all tasks may have the same order."""

    place: Tensor  # [T or 1, N] int64, from 0
    is_seen: Tensor  # [T or 1, N] bool: whether later points see it

    def sees(self) -> Tensor:
        """Which points a point sees, [T or 1, N, N] bool: those before it, and itself."""
        itself = torch.eye(self.place.shape[1], dtype=torch.bool, device=self.place.device)
        return itself | (self.is_seen.unsqueeze(1) & (self.place.unsqueeze(1) < self.place.unsqueeze(2)))

    def before(self, distance: int) -> Tensor:
        """Which point is `distance` places before a point, [T or 1, N, N] bool: none before the beginning."""
        return self.is_seen.unsqueeze(1) & (self.place.unsqueeze(1) + distance == self.place.unsqueeze(2))


def order_of(context: Context, targets: int) -> Order:
    """The order of the points of the context, and of `targets` targets that all have the place after the last one."""
    is_real = context.mask
    if is_real is None:
        is_real = torch.ones(1, context.x.shape[1], dtype=torch.bool, device=context.x.device)
    following = is_real.sum(1, keepdim=True).expand(-1, targets)
    place = torch.cat([(is_real.cumsum(1) - 1).clamp(min=0), following], 1)
    return Order(place, torch.cat([is_real, torch.zeros_like(following, dtype=torch.bool)], 1))
