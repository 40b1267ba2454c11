"""Small pictures of tasks, for comparisons that cost next to nothing beside a test.

Shapes, as in tasks/episodes.py: N images of a packed set, U of them that tasks use.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.base import Batch, Draw
from metalearn_cli.tasks.episodes import gather_episodes

SIDE = 16  # pixels that a small picture has at most
_DENSE = 2  # times as many pixels a side are looked at, of a large picture every second, third, ...
_AT_ONCE = 256  # pictures


def thumbnails(draw: Draw, pixels: Tensor, device: torch.device) -> Batch:
    """Gather the tasks of a draw as `gather_episodes` does, with pictures of at most 16 x 16 pixels, each the rounded
    mean of those in its place. A picture is made once, however many of the tasks have it."""
    parts = [draw[name] for name in ("support_image", "query_image")]
    used, places = torch.unique(torch.cat([part.flatten() for part in parts]), return_inverse=True)
    small = torch.cat([_averaged(pixels, chosen) for chosen in used.to(pixels.device).split(_AT_ONCE)])
    support, query = places.split([part.numel() for part in parts])
    draw = draw | {"support_image": support.view_as(parts[0]), "query_image": query.view_as(parts[1])}
    return gather_episodes(draw, small, device)


def _averaged(pixels: Tensor, chosen: Tensor) -> Tensor:
    """The chosen [U] of pixels [N, C, H, W] uint8 -> [U, C, h, w] uint8 with sides of at most 16."""
    every = max(1, min(pixels.shape[2:]) // (_DENSE * SIDE))
    x = pixels[:, :, ::every, ::every][chosen].float()
    rows, columns = (_cells(side, x.device) for side in x.shape[2:])
    sums = rows @ x @ columns.T  # of whole numbers, and so the same on every machine
    return (sums / (rows.sum(1, keepdim=True) * columns.sum(1))).round().byte()


def _cells(side: int, device: torch.device) -> Tensor:
    """Which of `side` pixels each of at most 16 cells has, [cells, side] of 0 and 1."""
    return (F.adaptive_avg_pool1d(torch.eye(side, device=device), min(side, SIDE)).T > 0).float()
