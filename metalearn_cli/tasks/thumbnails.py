"""Small pictures of a set, for comparisons that cost next to nothing beside a test.

Shapes, as in tasks/episodes.py: N images of a packed set, U of them that are made now.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.base import Batch, Draw
from metalearn_cli.tasks.gather import gather_episodes

SIDE = 16  # pixels that a small picture has at most
_DENSE = 2  # times as many pixels a side are looked at, of a large picture every second, third, ...
_AT_ONCE = 64  # pictures


class Thumbnails:
    """The pictures [N, C, H, W] uint8 of a set in at most 16 x 16 pixels, each the rounded mean of those in its place.
    Each is made when a task first has it, and kept."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels
        sides = [min(side, SIDE) for side in pixels.shape[2:]]
        self._small = torch.zeros(*pixels.shape[:2], *sides, dtype=torch.uint8)  # which takes room as it is filled
        self._is_made = torch.zeros(len(pixels), dtype=torch.bool)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        """Gather the tasks of a draw as `gather_episodes` does, with small pictures."""
        chosen = torch.cat([draw[name].flatten() for name in draw if name.endswith("_image")])
        missing = torch.unique(chosen[~self._is_made[chosen]])
        for part in missing.split(_AT_ONCE):
            self._small[part] = _averaged(self._pixels, part)
        self._is_made[missing] = True
        return gather_episodes(draw, self._small, device)


def shrunk(batch: Batch) -> Batch:
    """The tasks with the pictures [T, S, C, H, W] of a user's own class, in any numbers, in at most 16 x 16 pixels."""
    height, width = (min(side, SIDE) for side in batch.support_x.shape[3:])
    support_x, query_x = (
        F.adaptive_avg_pool2d(x.flatten(0, 1), (height, width)).view(*x.shape[:3], height, width)
        for x in (batch.support_x, batch.query_x)
    )
    return batch._replace(support_x=support_x, query_x=query_x)


def _averaged(pixels: Tensor, chosen: Tensor) -> Tensor:
    """The chosen [U] of pixels [N, C, H, W] uint8 -> [U, C, h, w] uint8 with sides of at most 16."""
    every = max(1, min(pixels.shape[2:]) // (_DENSE * SIDE))
    small = pixels[:, :, ::every, ::every].index_select(0, chosen)
    if [*small.shape[2:]] == 2 * [_DENSE * SIDE]:  # the usual case, in a fraction of the time
        pairs = small.view(torch.int16)  # of neighbours in a row, as one number
        halves = (pairs & 255) + (pairs >> 8 & 255)
        return ((halves[:, :, ::2] + halves[:, :, 1::2]) / 4).round().byte()
    x = small.float()
    rows, columns = (_cells(side) for side in x.shape[2:])
    # Sums of whole numbers are the same on every machine. Each product is one of two matrices, not of many.
    sums = ((x @ columns.T).mT.contiguous() @ rows.T).mT
    return (sums / (rows.sum(1, keepdim=True) * columns.sum(1))).round().byte()


def _cells(side: int) -> Tensor:
    """Which of `side` pixels each of at most 16 cells has, [cells, side] of 0 and 1."""
    return (F.adaptive_avg_pool1d(torch.eye(side), min(side, SIDE)).T > 0).float()
