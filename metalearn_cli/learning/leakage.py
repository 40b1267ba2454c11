"""How a test's classes are told that the training set of a network with weights names, and how the others: a network
that was trained on a class is no test of learning it from a few examples.

Counted are the queries of these classes in the episodes as they are, where both kinds of classes are mixed.

Shapes: E episodes, W classes of an episode (the largest number if it varies).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.datasets.imagenet import SOURCE, is_in_imagenet
from metalearn_cli.datasets.listing import some
from metalearn_cli.learning.scores import in_unit, with_interval
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.capabilities import backbone_of
from metalearn_cli.system.limits import Fraction, Natural
from metalearn_cli.tasks.base import Draw, TaskDistribution
from metalearn_cli.tasks.images import SetTask
from metalearn_cli.tasks.shown import ShownTask


@dataclass(frozen=True)
class Told:
    """How the queries of some classes are told."""

    classes: tuple[str, ...]
    queries: Natural
    accuracy: Fraction | None  # None: there are no such queries
    ci95: float | None  # half the 95% interval over episodes


@dataclass(frozen=True)
class Leakage:
    source: str  # the training set
    named: Told  # the classes of the test that it has too, as far as names tell
    others: Told


def set_known_to(net: Net, task: TaskDistribution) -> SetTask | None:
    """The task with the pictures of a test, where the network comes with weights of a training set whose classes are
    listed; else None."""
    backbone, of_pictures = backbone_of(net), task.task if isinstance(task, ShownTask) else task
    return of_pictures if backbone is not None and backbone.imagenet and isinstance(of_pictures, SetTask) else None


def named_labels(task: SetTask, draws: list[Draw]) -> Tensor:
    """Whether the class of each label of these episodes is named, [E, W] bool."""
    images, parts = task.images, []
    named = torch.tensor([is_in_imagenet(name) for name in images.names])
    for draw in draws:
        position = torch.searchsorted(images.start, draw["support_image"], right=True) - 1  # of the class, [T, S]
        labels = torch.zeros(len(position), task.spec.outputs, dtype=torch.bool)
        parts.append(labels.scatter(1, draw["support_y"], named[position]))
    return torch.cat(parts)


def leakage(task: SetTask, by_label: Tensor, named: Tensor) -> Leakage:
    """Say how both kinds of classes of the test are told, of whose episodes are by_label [E, W, 2] and named [E, W]."""
    images = task.images
    positions = torch.searchsorted(images.start, task.classes_of("test").start, right=True) - 1
    names = sorted(images.names[position] for position in positions.tolist())
    kinds = [tuple(name for name in names if is_in_imagenet(name) == is_named) for is_named in (True, False)]
    return Leakage(
        SOURCE, *(Told(kind, *told(by_label, part)) for kind, part in zip(kinds, (named, ~named), strict=True))
    )


def told(by_label: Tensor, chosen: Tensor) -> tuple[int, float | None, float | None]:
    """Return the number of queries of the chosen labels [E, W], the share that is right, and half its 95% interval, by
    the queries of each label and how many are right, [E, W, 2].

    The share is one of sums, r / n, so that its error is that of sum (r_e - r / n n_e) over the episodes e.
    """
    number, right = by_label.where(chosen.unsqueeze(-1), 0).sum(1, dtype=torch.float64).unbind(-1)  # [E] each
    if not (total := number.sum().item()):
        return 0, None, None
    share = right.sum().item() / total
    return int(total), share, 1.96 * math.sqrt((right - share * number).square().sum().item()) / total


def in_words(known: Leakage) -> str:
    """Say it in a sentence."""
    named, others = known.named, known.others
    number = len(named.classes) + len(others.classes)
    parts = []
    for which, kind in (("these", named), ("the others", others)):
        about = f"{kind.queries:,} queries: {some([*kind.classes])}"
        parts += [f"{with_interval(kind.accuracy, kind.ci95, 'accuracy')} on {which} ({about})"] if kind.queries else []
    return (
        f"{known.source}, on which the network was trained, names {len(named.classes)} of the {number} test classes: "
        f"{in_unit('accuracy')} {', '.join(parts)}"
    )
