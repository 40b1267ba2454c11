"""When a query looks unlike every class of its support set, by the network's own outputs.

The score is minus the largest output: for ProtoNet the distance to the nearest prototype, for a head minus the logit of
the likeliest class. benchmarks/unlike.md has what else was tried.

What is promised: of queries that are of a class of their support, at most 5% are flagged, also where no class was seen
in training. The validation classes, on which the threshold is measured, chose the checkpoint, and a hundred tasks hold
the same few of them again and again; new classes are a little further away. With a threshold that 5% of the validation
queries were above, up to 6.5% of the test classes' were (benchmarks/unlike.md): it is one that SHARE of them are above.

Shapes: Q query examples, W classes, N queries of validation tasks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHARE = 0.03  # of the queries of validation tasks, which are all of a class of their support, that are flagged
SHARE_BEFORE = 0.05  # the same in thresholds that do not say it: those of a version before


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
    share: float = SHARE_BEFORE  # of the queries, that are flagged

    @property
    def is_current(self) -> bool:
        return self.share == SHARE

    def replaces(self, other: "Threshold") -> bool:
        """Whether both are of the same tasks and weights, measured once more."""
        names = ("way", "shot", "batch_norm", "test_steps", "step")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def checked(found: Threshold) -> Threshold:
    """The same. Raises ValueError where it holds what none can hold."""
    for name in ("way", "shot"):
        size = getattr(found, name)
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} is {size!r}")
    for name in ("value", "share"):
        number = getattr(found, name)
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"{name} is {number!r}")
    return found


def unlikeness(out: Tensor) -> Tensor:
    """The score of each query: outputs [..., W] -> [...]."""
    return -out.amax(-1)


def quantile(scores: Tensor, share: float = SHARE) -> float:
    """Of scores [N] the one above which the next score will be with a probability of `share` at most."""
    place = min(math.ceil((1 - share) * (len(scores) + 1)), len(scores))
    return float(torch.sort(scores).values[place - 1])


def find(thresholds: list[Threshold], way: int, shot: int, any_way: bool) -> Threshold | None:
    """That of tasks of this way and shot, or of fewer shots, with which less is flagged; with `any_way` of the way that
    is most like it; of two for the same tasks the one of this version. None where there is none."""

    def unlike(known: Threshold) -> tuple[float, float, bool]:
        return shot / known.shot, abs(math.log(known.way / way)), not known.is_current

    fitting = [known for known in thresholds if known.shot <= shot and (any_way or known.way == way)]
    return min(fitting, key=unlike, default=None)
