"""The pixels or vectors of episodes that are drawn: indices on the CPU become tensors on the device.

Shapes, besides those of tasks/base.py: N images of a packed set, W classes of a task.
"""

from functools import cache

import torch
from torch import Tensor

from metalearn_cli.tasks.augment import jittered, moved, rearranged
from metalearn_cli.tasks.base import Batch, Draw, on_device


def gather_episodes(
    draw: Draw, pixels: Tensor, device: torch.device | None = None, numbers: torch.dtype | None = None
) -> Batch:
    """Gather the tasks of a draw where `pixels` [N, C, H, W] uint8 are, and move them to `device` if it is another one;
    x is [T, S, C, H, W] in 0..1. With `numbers` they are the bytes of vectors, [N, bytes], of which these numbers are
    made; x is [T, S, F]."""
    at = on_device(draw, pixels.device)
    x = {
        f"{name}_x": _gather(pixels, at, name) if numbers is None else _vectors(pixels, at[f"{name}_image"], numbers)
        for name in ("support", "query", "unlabelled")
        if f"{name}_image" in at
    }
    masks = {name: at[name] for name in ("support_mask", "query_mask", "way") if name in at}
    batch = Batch(**x, support_y=at["support_y"], query_y=at["query_y"], key=at["key"], **masks)
    if device is None or device.type == pixels.device.type:
        return batch
    return Batch(**on_device(batch.tensors(), device))


def _gather(pixels: Tensor, at: Draw, name: str) -> Tensor:
    """Gather the images of the support or the query set, [T, S, C, H, W] float32."""
    turn, shift, flip, jitter = (at.get(f"{name}_{what}") for what in ("turn", "shift", "flip", "jitter"))
    height, width = pixels.shape[2:]
    x = pixels.flatten(2)[at[f"{name}_image"]]  # [T, S, C, H * W]
    if turn is not None:
        x = rearranged(x, _turned(height, width, pixels.device)[turn])
    if shift is not None or flip is not None:
        x = rearranged(x, moved(height, width, shift, flip))
    x = x.view(*x.shape[:3], height, width) * (1 / 255)  # a product: a GPU rounds the quotient differently
    return x if jitter is None else jittered(x, jitter)


def _vectors(rows: Tensor, chosen: Tensor, numbers: torch.dtype) -> Tensor:
    """Gather the chosen [T, S] of the vectors whose bytes are `rows` [N, bytes]: [T, S, F] float32. As bytes, since
    numbers in a file need not begin where a processor expects them."""
    x = rows.index_select(0, chosen.flatten()).view(numbers).float()
    return x.view(*chosen.shape, x.shape[-1])


@cache
def _turned(height: int, width: int, device: torch.device) -> Tensor:
    """The place from which each pixel of a square image comes after 0 to 3 quarter turns to the left, [4, H * W]."""
    if height != width:
        raise ValueError(f"images of {height} x {width} pixels cannot be turned by a quarter")
    place = torch.arange(height * width).view(height, width)
    return torch.stack([place.rot90(turns).flatten() for turns in range(4)]).to(device)
