"""When a query looks unlike every class of its support set, by the network's own outputs.

The score is minus the largest output: for ProtoNet the distance to the nearest prototype, for a head minus the logit of
the likeliest class. benchmarks/unlike.md has what else was tried.

Shapes: Q query examples, W classes, N queries of validation tasks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.05  # of the queries of validation tasks, which are all of a class of their support, that are flagged


class Threshold(NamedTuple):
    """Beyond which score a query is flagged, and what that was measured on."""

    value: float
    way: int
    shot: int
    batch_norm: str
    test_steps: int
    step: int  # of the checkpoint
    episodes: int  # of validation
    queries: int
    data: str  # their fingerprint


def unlikeness(out: Tensor) -> Tensor:
    """The score of each query: outputs [..., W] -> [...]."""
    return -out.amax(-1)


def quantile(scores: Tensor) -> float:
    """Of scores [N] the one above which the next score will be with a probability of SHARE at most."""
    place = min(math.ceil((1 - SHARE) * (len(scores) + 1)), len(scores))
    return float(torch.sort(scores).values[place - 1])


def find(thresholds: list[Threshold], way: int, shot: int, any_way: bool) -> Threshold | None:
    """That of tasks of this way and shot, or of fewer shots, with which less is flagged; with `any_way` of the way that
    is most like it. None where there is none."""

    def unlike(known: Threshold) -> tuple[float, float]:
        return shot / known.shot, abs(math.log(known.way / way))

    fitting = [known for known in thresholds if known.shot <= shot and (any_way or known.way == way)]
    return min(fitting, key=unlike, default=None)
