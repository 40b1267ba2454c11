"""Units that training drops, as a function of the task's own key: nothing is drawn from a running generator.

A mask depends on (task, inner step, support or query, layer, example, unit). So chunks of a meta-batch, ranks, devices
and a resumed run change none, recomputing draws the same again, and finite differences see one function. Each inner
step has masks of its own, and so have the support and the query set, as in a loop over torch's layers.

Shapes: T tasks, B examples per task, C channels. Images are folded, [B, T*C, H, W].
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.nets.base import Call
from metalearn_cli.nets.layers import fold
from metalearn_cli.seeding import uniform

_DROPPED = -2  # the salt of what is dropped: a minibatch's are 0 and above, that of a drawn start is -1


def dropout(x: Tensor, share: float, call: Call, layer: int) -> Tensor:
    """Set each number of x [B, T*C, H, W] to 0 with probability `share`, and scale the others so that the mean stays
    (Srivastava et al. 2014, JMLR 15). In a call without noise, or at share 0, x itself."""
    if call.noise is None or share == 0:
        return x
    kept = draws(call, layer, _unfolded(x, call, *x.shape[2:])) >= share
    return x * fold(kept.to(x.dtype)) / (1 - share)


def dropped(x: Tensor, share: float, call: Call, layer: int) -> Tensor:
    """Drop numbers of x [T, ...] in an algorithm's own layer, which has a negative number: a network's begin at 0."""
    if call.noise is None or share == 0:
        return x
    return x * (draws(call, layer, tuple(x.shape[1:])) >= share) / (1 - share)


class DropBlock(NamedTuple):
    """Ghiasi, Lin, Le: "DropBlock: A regularization method for convolutional networks", NeurIPS 2018, arXiv 1810.12890.

    A pixel of the (H - size + 1)^2 at which a square may begin does so with probability
    gamma = share / size^2 * H^2 / (H - size + 1)^2 (algorithm 1), and what stays is scaled by all / left.
    """

    share: float  # of the pixels that are dropped, about: squares may overlap
    size: int  # pixels a side of a dropped square, which is at most the image
    ramp: float  # the part of the training over which the share grows from 0; 0: it is whole at once


def drop_block(x: Tensor, block: DropBlock, call: Call, layer: int) -> Tensor:
    """Set squares of x [B, T*C, H, W] to 0 and scale the others, counted over the real examples of each task. In a
    call without noise, or at share 0, x itself."""
    if call.noise is None or block.share == 0:
        return x
    height, width = x.shape[2:]
    size = min(block.size, height, width)
    starts = height - size + 1, width - size + 1
    progress = call.noise.progress.view(-1, 1, 1, 1, 1)
    grown = (progress / block.ramp).clamp(max=1) if block.ramp > 0 else 1.0
    gamma = grown * block.share * (height * width) / (size**2 * starts[0] * starts[1])
    begins = (draws(call, layer, _unfolded(x, call, *starts)) < gamma).to(x.dtype)
    dropped = F.max_pool2d(F.pad(begins.flatten(0, 1), [size - 1] * 4), size, stride=1)  # [T*B, C, H, W]
    kept = 1 - dropped.view(*begins.shape[:3], height, width)
    real = torch.ones_like(kept[:, :, 0, 0, 0]) if call.mask is None else call.mask.to(kept.dtype)
    left = (kept.mean((2, 3, 4)) * real).sum(1) / real.sum(1)  # [T] shares
    return x * fold(kept / left.clamp(min=1e-30).view(-1, 1, 1, 1, 1))


def draws(call: Call, layer: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers [T, *shape] of this layer in a call with noise."""
    assert call.noise is not None
    return uniform(call.noise.key, _DROPPED, call.step, call.noise.examples.value, layer, shape=shape)


def _unfolded(x: Tensor, call: Call, height: int, width: int) -> tuple[int, ...]:
    """[B, C, height, width], for the folded x [B, T*C, H, W]."""
    assert call.noise is not None
    return len(x), x.shape[1] // len(call.noise.key), height, width
