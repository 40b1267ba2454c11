"""Ink on paper as it was photographed, evened out to what a scanner sees: white paper, black ink.

A photograph's paper is grey, and darker in a corner or a shadow; ink has a colour. The paper at each place is as bright
as what is bright around it: strokes are filled by a closing (Serra 1982), a maximum and then a minimum over squares.
Noise makes that too bright, so that the mean of the pixels around that are not much darker replaces it. The picture
over the paper has no light in it. What is darker than paper is ink, or it is faint (fibres, the lines of a writing
pad); Otsu's threshold (1979) separates the two, and the ink's median becomes black. A scan of black on white stays as
it is.
"""

from collections.abc import Callable
from enum import Enum, auto

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

Array = npt.NDArray[np.float32]

SIDE = 105  # pixels a side at which it is done: those of Omniglot's scans
LEVELS = 64  # of the histogram
ENOUGH = 0.05  # of a square, that is paper, for a mean
FADING = 0.5  # of the threshold: what is less dark becomes white
FAINTEST = 0.05  # below it, a share of the paper's brightness, nothing is ink


class Ink(Enum):
    """What becomes of paper and ink in a picture."""

    as_is = auto()
    evened = auto()  # paper becomes white and ink black, whatever the light


def evened(picture: Image.Image) -> Image.Image:
    """Make paper white and ink black: a picture in mode L of the same size."""
    grey = picture.convert("L")
    pixels, calm = np.asarray(grey, np.float32), np.asarray(grey.filter(ImageFilter.MedianFilter(3)), np.float32)
    darkness = _darkness(pixels, _paper(calm, min(picture.size) // 8))
    threshold = _otsu(darkness)
    is_ink = darkness > threshold
    black = max(float(np.median(darkness[is_ink])) if is_ink.any() else 0.0, FAINTEST)
    white = FADING * threshold
    ink = ((darkness - white) / (black - white)).clip(0, 1)
    return Image.fromarray((255 * (1 - ink)).round().astype(np.uint8))


def _darkness(pixels: Array, paper: Array) -> Array:
    """Return how much darker each pixel is than the paper there, as a share of the paper's brightness."""
    return (1 - pixels / paper).clip(0, 1)


def _paper(pixels: Array, half: int) -> Array:
    """Return how bright the paper is at each place [H, W], by squares of 2 * half + 1 pixels around it."""
    x = torch.from_numpy(pixels)[None, None]
    filled = -_over_squares(F.max_pool2d, -_over_squares(F.max_pool2d, x, half), half)
    bright = _over_squares(F.avg_pool2d, filled, half)[0, 0].clamp_min(1).numpy()
    darkness = _darkness(pixels, bright)
    is_paper = torch.from_numpy((darkness <= _otsu(darkness)).astype(np.float32))[None, None]
    share, part = (_over_squares(F.avg_pool2d, values, half)[0, 0].numpy() for values in (is_paper, is_paper * x))
    mean: Array = np.where(share > ENOUGH, part / np.maximum(share, ENOUGH), bright).clip(1)
    return mean


def _over_squares(pool: Callable[..., Tensor], x: Tensor, half: int) -> Tensor:
    """Return the maximum or mean of x [1, 1, H, W] over the square around each pixel; outside it is as at the edge."""
    for high, wide in ((half, 0), (0, half)):  # one side after the other is the same, and quicker
        x = pool(F.pad(x, [wide, wide, high, high], mode="replicate"), (2 * high + 1, 2 * wide + 1), 1)
    return x


def _otsu(values: Array) -> float:
    """Return the threshold in 0..1 that separates the values into the two groups whose means differ most."""
    count, edges = np.histogram(values, LEVELS, (0, 1))
    below = count.cumsum()[:-1]
    above = values.size - below
    total = (count * (edges[1:] + edges[:-1]) / 2).cumsum()
    parts = (below > 0) & (above > 0)
    if not parts.any():
        return 0.0
    difference = total[:-1] / below.clip(1) - (total[-1] - total[:-1]) / above.clip(1)
    score = np.where(parts, below * above * difference**2, -1.0)
    return float(edges[1:-1][score == score.max()].mean())  # the middle of the gap, where nothing lies between
