"""Episodes of `way` classes with `shot` support and `query` query images each: what every image task shares.

A task checks its sizes with `check_size`, chooses classes with `draw_classes`, images with `draw_episodes`, and makes
the batch with `gather_episodes`. Draws are indices, on the CPU; pixels stay where they lie.
"""

from functools import cache

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Split, draw_keys


def episode_size(task: object, split: Split) -> dict[str, int]:
    """Way, shot and query of a split's episodes, each under the name of the task's field that it comes from."""
    size = {}
    for name in ("way", "shot", "query"):
        if split == "train" and getattr(task, f"train_{name}") is not None:
            name = f"train_{name}"
        size[name] = getattr(task, name)
    return size


def check_size(size: dict[str, int], classes: int, images: int, where: str) -> None:
    """Refuse episodes that so many classes with so many images each cannot give; `where` names what has them."""
    (way_key, way), (shot_key, shot), (query_key, query) = size.items()
    for key, value, least in ((way_key, way, 2), (shot_key, shot, 1), (query_key, query, 1)):
        if value < least:
            raise UserError(f"task.{key}={value} must be at least {least}")
    if way > classes:
        raise UserError(f"task.{way_key}={way} is more than the {classes} classes of {where}")
    if shot + query > images:
        raise UserError(
            f"task.{shot_key}={shot} and task.{query_key}={query} together are more than the {images} images "
            f"of a class of {where}"
        )


def draw_classes(tasks: int, way: int, classes: int, rng: torch.Generator) -> Tensor:
    """`way` different ones of `classes` classes for each task, [T, way]; class and label are paired at random."""
    return _keys(tasks, classes, rng=rng).topk(way).indices


def draw_episodes(
    start: Tensor, count: Tensor, turn: Tensor | None, shot: int, query: int, rng: torch.Generator
) -> Draw:
    """Choose the images of the classes that were chosen: those of task t's class with label w are
    start[t, w] to start[t, w] + count[t, w] - 1, and are seen after turn[t, w] quarter turns (None: never turned).

    start, count, turn [T, way] -> support_image, support_turn, support_y [T, S], query_* [T, Q], key [T]. The support
    and the query have no image in common; each is in random order. Without turns there are no *_turn.
    """
    tasks, way = start.shape
    if (fewest := int(count.min())) < shot + query:
        raise ValueError(f"{shot} + {query} images asked of a class that has {fewest}")
    most = int(count.max())
    keys = _keys(tasks, way, most, rng=rng).masked_fill_(torch.arange(most) >= count[..., None], -1)
    image = start[..., None] + keys.topk(shot + query).indices  # [T, way, shot + query]
    draw: Draw = {}
    for name, part in (("support", image[..., :shot]), ("query", image[..., shot:])):
        order = _keys(tasks, part[0].numel(), rng=rng).argsort()
        label = order // part.shape[-1]
        draw[f"{name}_image"] = part.flatten(1).gather(1, order)
        draw[f"{name}_y"] = label
        if turn is not None:
            draw[f"{name}_turn"] = turn.gather(1, label)
    draw["key"] = draw_keys(tasks, rng)
    return draw


def gather_episodes(draw: Draw, pixels: Tensor) -> Batch:
    """The tasks of a draw, on the device where `pixels` [N, C, H, W] uint8 lie; x is [T, S, C, H, W] in 0..1."""
    at = {name: tensor.to(pixels.device) for name, tensor in draw.items()}
    return Batch(
        _gather(pixels, at["support_image"], at.get("support_turn")),
        at["support_y"],
        _gather(pixels, at["query_image"], at.get("query_turn")),
        at["query_y"],
        at["key"],
    )


def _gather(pixels: Tensor, image: Tensor, turn: Tensor | None) -> Tensor:
    """Images [T, S] after quarter turns [T, S], as [T, S, C, H, W] float32."""
    x = pixels.flatten(2)[image]  # [T, S, C, H * W]
    if turn is not None:
        height, width = pixels.shape[2:]
        x = x.gather(-1, _turned(height, width, pixels.device)[turn][:, :, None].expand_as(x))
    return x.view(*image.shape, *pixels.shape[1:]) * (1 / 255)  # a product: a GPU rounds the quotient differently


@cache
def _turned(height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel of a square image comes from after 0 to 3 quarter turns, counter-clockwise: [4, H * W]."""
    if height != width:
        raise ValueError(f"images of {height} x {width} pixels cannot be turned by a quarter")
    place = torch.arange(height * width).view(height, width)
    return torch.stack([place.rot90(turns).flatten() for turns in range(4)]).to(device)


def _keys(*shape: int, rng: torch.Generator) -> Tensor:
    """Random numbers to sort by: the greatest k are a sample without replacement (with 53 bits, ties are moot)."""
    return torch.rand(shape, generator=rng, dtype=torch.float64)
