"""When a query looks unlike every class of its support set, by the network's own outputs.

The score is minus the largest output: for ProtoNet the distance to the nearest prototype, for a head minus the logit of
the likeliest class. Of queries that are of a class of their support, PROMISED at most are flagged, also where no class
was seen in training, and at the upper end of a 95% interval: Korn and Graubard's (Survey Methodology 24, 1998) with
classes as clusters, of which half count, since the new classes are no more than the measured ones. Where there are too
few classes for that, LEAST of the queries are flagged, and what is promised is the upper end that comes out.
benchmarks/unlike.md has why, and what else was tried.

Shapes: Q query examples, W classes, N queries of validation tasks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.system.limits import Count

PROMISED = 0.05  # of the queries of new classes, all of a class of their support, that are flagged at most
LEAST = 0.01  # of the queries of validation tasks, that are flagged in any case
SHARE_BEFORE = 0.05  # the same in thresholds that do not say it: those of the first version


class Threshold(NamedTuple):
    """The score beyond which a query is flagged, the temperature of probabilities, and what they were measured on."""

    value: float
    way: Count
    shot: Count
    batch_norm: str
    test_steps: int
    step: int  # of the checkpoint
    episodes: int  # of validation
    queries: int
    data: str  # their fingerprint
    share: float = SHARE_BEFORE  # of the queries, that are flagged
    classes: int | None = None  # of validation; None in what an earlier version measured
    promised: float | None = None  # of the queries of new classes, that are flagged at most
    temperature: float | None = None  # of the probabilities; None in what an earlier version measured

    @property
    def made_for(self) -> tuple[int, int, str, int, int]:
        """The tasks and weights: a second measurement for the same replaces the first."""
        return self.way, self.shot, self.batch_norm, self.test_steps, self.step


class Thresholds(NamedTuple):
    """The content of a run's unlike.json."""

    thresholds: tuple[Threshold, ...] = ()


def unlikeness(out: Tensor) -> Tensor:
    """The score of each query: outputs [..., W] -> [...]."""
    return -out.amax(-1)


def probabilities(out: Tensor, temperature: float) -> Tensor:
    """The probability of each class: outputs [..., W] -> [..., W]."""
    return (out / temperature).softmax(-1)


def calibrated(scores: Tensor, classes: list[str]) -> tuple[float, float, float]:
    """The threshold by scores of queries [N] and the class of each -> it, the share of these that are above it, and the
    share of new classes' queries that are so at most."""
    names = sorted(set(classes))
    place = {name: number for number, name in enumerate(names)}
    members = torch.tensor([place[name] for name in classes])
    falling = scores.double().sort(descending=True).values
    most, least = (math.floor(share * len(scores)) for share in (PROMISED, LEAST))
    worth = worth_of((scores.double() > falling[most]).double(), members)
    for above in range(most, least - 1, -1):
        if (end := upper_end(above / len(scores), worth, len(scores), len(names))) <= PROMISED:
            break
    return float(falling[above]), float((scores.double() > falling[above]).double().mean()), end


def worth_of(flagged: Tensor, members: Tensor) -> float:
    """The number of independent queries that tell as much of the share of the flagged as these [N]. It is smaller,
    since queries of a class are alike: the correlation within classes is estimated by analysis of variance (Donner
    1986)."""
    number, classes = len(flagged), int(members.max()) + 1
    share = float(flagged.mean())
    count = members.bincount(minlength=classes).double()
    above = members.bincount(flagged, minlength=classes)
    if classes == number:
        return float(number)
    if classes == 1 or share == 0:
        return float(classes)
    between = float(((above - count * share) ** 2 / count).sum()) / (classes - 1)
    within = float((above - above**2 / count).sum()) / (number - classes)
    usual = (number - float((count**2).sum()) / number) / (classes - 1)
    alike = max(0.0, (between - within) / (between + (usual - 1) * within))
    return number / (1 + (float((count**2).sum()) / number - 1) * alike)


def upper_end(share: float, worth: float, number: int, classes: int) -> float:
    """The upper end of the 95% interval of the share of the flagged among queries of as many new classes, where it was
    `share` of `number`, which are worth so many."""
    from scipy.special import betaincinv, stdtrit

    if classes < 2:
        return 1.0
    ratio = stdtrit(max(number - 1, 1), 0.975) / stdtrit(classes - 1, 0.975)
    size = min(worth / 2 * ratio**2, number)
    return float(betaincinv(share * size + 1, size * (1 - share), 0.975))


def nearest_threshold(thresholds: list[Threshold], way: int, shot: int, any_way: bool) -> Threshold | None:
    """The threshold of tasks of this way and shot, or of fewer shots, with which less is flagged; None where there is
    none. With `any_way` those of other ways fit as well, the closest way first. Of two for the same tasks the one of
    this version is taken."""
    fitting = [known for known in thresholds if known.shot <= shot and (any_way or known.way == way)]
    lacking = [(known.promised is None) + (known.temperature is None) for known in fitting]
    sizes = [(shot / known.shot, abs(math.log(known.way / way))) for known in fitting]
    distances = list(zip(sizes, lacking, strict=True))
    return fitting[distances.index(min(distances))] if fitting else None
