"""Units that training drops, as a function of the task's own key: nothing is drawn from a running generator.

A mask depends on (task, inner step, support or query, layer, example, unit). So chunks of a meta-batch, ranks, devices
and a resumed run change none, recomputing draws the same again, and finite differences see one function. Each inner
step has masks of its own, and so have the support and the query set, as in a loop over torch's layers.

Shapes: T tasks, B examples per task, C channels. Images are folded, [B, T*C, H, W].
"""

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
    kept = _drawn(x, call, layer, *x.shape[2:]) >= share
    return x * fold(kept.to(x.dtype)) / (1 - share)


def drop_block(x: Tensor, share: float | Tensor, size: int, call: Call, layer: int) -> Tensor:
    """Set squares of size x size pixels of x [B, T*C, H, W] to 0, about `share` of all pixels, and scale the others.

    Ghiasi, Lin, Le: "DropBlock", NeurIPS 2018, arXiv 1810.12890, algorithm 1: a pixel of the (H - size + 1)^2 at which
    a square may begin does so with probability gamma = share / size^2 * H^2 / (H - size + 1)^2; what stays is
    scaled by all / left, counted over a task. In a call without noise x itself. A square is at most the image.
    """
    if call.noise is None:
        return x
    height, width = x.shape[2:]
    size = min(size, height, width)
    starts = height - size + 1, width - size + 1
    gamma = share * (height * width) / (size**2 * starts[0] * starts[1])
    begins = (_drawn(x, call, layer, *starts) < gamma).to(x.dtype)
    dropped = F.max_pool2d(F.pad(begins.flatten(0, 1), [size - 1] * 4), size, stride=1)  # [T*B, C, H, W]
    kept = 1 - dropped.view(*begins.shape[:3], height, width)
    left = kept.sum((1, 2, 3, 4), keepdim=True).clamp(min=1)
    return x * fold(kept * (kept[0].numel() / left))


def _drawn(x: Tensor, call: Call, layer: int, height: int, width: int) -> Tensor:
    """Uniform numbers [T, B, C, height, width] for the folded x [B, T*C, H, W]."""
    noise = call.noise
    assert noise is not None
    shape = (len(x), x.shape[1] // len(noise.key), height, width)
    return uniform(noise.key, _DROPPED, call.step, noise.examples.value, layer, shape=shape)
