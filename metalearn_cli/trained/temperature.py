"""Probabilities that are as often right as they say: the temperature of a softmax, from outputs with known classes.

    p(y | x) = softmax(out(x) / t),    t = argmin  sum_i -log p(y_i | x_i) + STRENGTH (t0 / t - log(t0 / t))

(Guo et al. 2017, On calibration of modern neural networks, arXiv 1706.04599). The second term, a Gamma distribution of
1 / t about a usual temperature t0, is for few examples: t0 without any, and with many the t of maximum likelihood. A
few that are all right would else make predictions certain. No label changes.

Shapes: n examples, W classes.
"""

import torch
from torch import Tensor

STRENGTH = 16.0
_RANGE, _HALVINGS = 1e4, 60  # how far from the usual temperature one is looked for, and how closely


def temperature_of(out: Tensor, label: Tensor, usual: float) -> float:
    """The temperature by outputs [n, W] and the classes [n] that are right."""
    out = out.double()
    right = out.gather(1, label[:, None]).sum()
    low, high = 1 / (usual * _RANGE), _RANGE / usual  # of 1 / t, in which the sum is convex
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        slope = (torch.softmax(middle * out, 1) * out).sum() - right + STRENGTH * (usual - 1 / middle)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / low
