"""Images changed at random. What is done to those of training is part of the draw, and happens where the pixels lie;
copies of a support set at test are drawn from the task's key, so that the episodes are the same without them.

Shapes: T tasks, S examples of a task, C channels of an H x W image.
"""

from enum import Enum, auto

import torch
from torch import Tensor

from metalearn_cli.seeding import uniform
from metalearn_cli.tasks.base import Draw, Support

_BITS = 24  # of the numbers that become offsets; integers, so that every device rounds alike
_STRENGTH = 0.4  # of the jitter: factors from 1 - 0.4 to 1 + 0.4, as in the code of Chen et al. 2019 and MetaOptNet
_SALT = (0xC0B1E5,)  # of the copies' draws


class Augment(Enum):
    crop = auto()  # shifted by up to an eighth of its size in each direction; what comes in is mirrored at the edge
    flip = auto()  # left and right, every other time
    jitter = auto()  # brightness, contrast and, of colours, saturation


def draw_augment(draw: Draw, augment: tuple[Augment, ...], rng: torch.Generator) -> Draw:
    """Choose what is done to each image of a draw: *_shift [T, S, 2], *_flip [T, S], *_jitter [T, S, 3]."""
    changes: Draw = {}
    for name in [name.removesuffix("_image") for name in draw if name.endswith("_image")]:
        shape = draw[f"{name}_image"].shape
        if Augment.crop in augment:
            changes[f"{name}_shift"] = torch.randint(2**_BITS, (*shape, 2), generator=rng)
        if Augment.flip in augment:
            changes[f"{name}_flip"] = torch.randint(2, shape, generator=rng).bool()
        if Augment.jitter in augment:
            factors = torch.rand(*shape, 3, generator=rng)
            changes[f"{name}_jitter"] = 1 - _STRENGTH + 2 * _STRENGTH * factors
    return changes


def changed_copies(support: Support, copies: int, augment: tuple[Augment, ...], turn: int = 0) -> Support:
    """Return so many changed copies in place of each image, drawn from the task's own key, others in each turn: x [T,
    S, C, H, W] in 0..1 -> [T, copies * S, C, H, W]. A GPU is not waited for, and chunks change nothing."""
    x, key = support.x.repeat(1, copies, *[1] * (support.x.dim() - 2)), support.key  # vectors, where nothing changes
    count = x.shape[1]
    shift = flip = None
    if Augment.crop in augment:
        shift = (uniform(key, *_SALT, 3 * turn + 0, shape=(count, 2)) * 2**_BITS).long()
    if Augment.flip in augment:
        flip = uniform(key, *_SALT, 3 * turn + 1, shape=(count,)) < 0.5
    if shift is not None or flip is not None:
        x = rearranged(x.flatten(3), moved(x.shape[3], x.shape[4], shift, flip)).view(x.shape)
    if Augment.jitter in augment:
        factors = 1 - _STRENGTH + 2 * _STRENGTH * uniform(key, *_SALT, 3 * turn + 2, shape=(count, 3))
        x = jittered(x, factors.to(x.dtype))
    mask = None if support.mask is None else support.mask.repeat(1, copies)
    return support._replace(x=x, y=support.y.repeat(1, copies), mask=mask)


def rearranged(x: Tensor, place: Tensor) -> Tensor:
    """Put the pixel at place[t, s, i] where i was, in x [T, S, C, H * W]."""
    return x.gather(-1, place[:, :, None].expand_as(x))


def moved(height: int, width: int, shift: Tensor | None, flip: Tensor | None) -> Tensor:
    """Return where each pixel of a cropped or flipped image comes from: shift [T, S, 2], flip [T, S] -> [T, S, H *
    W]."""
    change = flip if shift is None else shift
    assert change is not None
    rows, columns = (torch.arange(size, device=change.device) for size in (height, width))
    if shift is not None:
        rows, columns = (_shifted(line, shift[..., i, None]) for i, line in enumerate((rows, columns)))
    if flip is not None:
        columns = torch.where(flip[..., None], columns.flip(-1), columns)
    place: Tensor = rows[..., :, None] * width + columns[..., None, :]
    return place.expand(*change.shape[:2], height, width).flatten(2)


def _shifted(line: Tensor, number: Tensor) -> Tensor:
    """Move the places 0 ... L - 1 by a number of 24 bits [..., 1] that stands for -L // 8 to L // 8: [..., L]."""
    most = len(line) // 8
    place = line + ((number * (2 * most + 1)) >> _BITS) - most
    last = len(line) - 1
    return last - (last - place.abs()).abs()  # mirrored at both ends


def jittered(x: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of x [T, S, C, H, W] in 0..1, in place: factors [T, S, 3]."""
    brightness, contrast, saturation = factors[..., None, None, None].unbind(2)
    x = x.mul_(brightness).clamp_(0, 1)
    x = _stretch(x, grey(x).mean((-1, -2), keepdim=True), contrast)
    return _stretch(x, grey(x), saturation) if x.shape[2] == 3 else x


def _stretch(x: Tensor, middle: Tensor, factor: Tensor) -> Tensor:
    """Make x `factor` times as far from `middle`, in place."""
    return x.sub_(middle).mul_(factor).add_(middle).clamp_(0, 1)


def grey(x: Tensor) -> Tensor:
    """Return the luminance of ITU-R BT.601: [T, S, C, H, W] -> [T, S, 1, H, W]."""
    if x.shape[2] != 3:
        return x.mean(2, keepdim=True)
    red, green, blue = x.unbind(2)  # a third of the size of x, and so are the products
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114).unsqueeze(2)
