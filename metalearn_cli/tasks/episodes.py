"""Episodes of `way` classes with `shot` support and `query` query images each: what every image task shares.

A task pools its training classes with `pool_classes`, checks its sizes with `check_size`, chooses classes with
`draw_classes`, images with `draw_episodes` (`draw_images` does both), and makes the batch with `gather_episodes`. Draws
are indices, on the CPU; pixels stay where they lie.

Each image task is a class of its own, whose fields are its yaml's keys, over these functions: the data sets differ in
their fields (rotations, how images are resized, whose split), so that one class for all would have keys without effect.
"""

from functools import cache

import torch
from torch import Tensor

from metalearn_cli.datasets.base import ImageSet
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Split, draw_keys, on_device


def episode_size(task: object, split: Split) -> dict[str, int]:
    """Way, shot and query of a split's episodes, each under the name of the task's field that it comes from."""
    size = {}
    for name in ("way", "shot", "query"):
        if split == "train" and getattr(task, f"train_{name}") is not None:
            name = f"train_{name}"
        size[name] = getattr(task, name)
    return size


def pool_classes(classes: dict[str, Tensor], train_splits: tuple[str, ...]) -> dict[Split, Tensor]:
    """The classes of each split that is left, [classes]: "train" has those of all `train_splits`, and "val" is a split
    only where it is not among them. The test's classes are the same whatever `train_splits` says."""
    given = f"task.train_splits=[{','.join(train_splits)}]"
    allowed = [name for name in classes if name != "test"]
    if "test" in train_splits:
        raise UserError(
            f"{given} must not hold test, whose classes are for the test alone: choose from {', '.join(allowed)}"
        )
    if unknown := [name for name in train_splits if name not in allowed]:
        raise UserError(
            f"{given} holds {unknown[0]}, which is no split to train on here: choose from {', '.join(allowed)}"
        )
    if not train_splits or len(set(train_splits)) < len(train_splits):
        raise UserError(f"{given} must name at least one split, and each once: choose from {', '.join(allowed)}")
    pooled: dict[Split, Tensor] = {"train": torch.cat([classes[name] for name in allowed if name in train_splits])}
    if "val" in allowed and "val" not in train_splits:
        pooled["val"] = classes["val"]
    pooled["test"] = classes["test"]
    return pooled


def check_size(
    task: object, split: Split, train_splits: tuple[str, ...], classes: int, images: int, about: str = ""
) -> None:
    """Refuse episodes of a split that its `classes` with so many `images` each cannot give; `about` says what the
    number of classes depends on."""
    (way_key, way), (shot_key, shot), (query_key, query) = episode_size(task, split).items()
    for key, value, least in ((way_key, way, 2), (shot_key, shot, 1), (query_key, query, 1)):
        if value < least:
            raise UserError(f"task.{key}={value} must be at least {least}")
    splits = train_splits if split == "train" else (split,)
    where = f"the {' and '.join(splits)} split{about}"
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


def draw_images(tasks: int, size: dict[str, int], classes: Tensor, images: ImageSet, rng: torch.Generator) -> Draw:
    """Tasks of these `classes` [classes], as positions in the set: which classes, and which of their images."""
    way, shot, query = size.values()
    choice = classes[draw_classes(tasks, way, len(classes), rng)]
    return draw_episodes(images.start[choice], images.count[choice], None, shot, query, rng)


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
    at = on_device(draw, pixels.device)
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
