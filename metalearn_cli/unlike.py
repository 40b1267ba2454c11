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


def find(thresholds: list[Threshold], way: int, shot: int) -> Threshold | None:
    """That of tasks of this way and shot, or of those that are most like them; rather of fewer shots, since then the
    distances are larger and less is flagged. None where there is none."""

    def unlike(threshold: Threshold) -> tuple[bool, float, float]:
        shots, ways = math.log(threshold.shot / shot), math.log(threshold.way / way)
        return shots > 0, abs(shots), abs(ways)

    return min(thresholds, key=unlike, default=None)
