"""The lists of classes in this folder: which split each class is in, its group, and a hash of its images."""

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class ListedClass(NamedTuple):
    """A row of a list."""

    name: str
    split: str  # train, val or test
    group: str = ""  # its superclass, category or alphabet
    sha256: str = ""  # of its decoded images, one after another: the first 16 hex digits


@cache
def read_list(name: str) -> tuple[ListedClass, ...]:
    """The classes of NAME_classes.csv, in the order of the list."""
    with Path(__file__).with_name(f"{name}_classes.csv").open(newline="") as file:
        return tuple(ListedClass(**row) for row in csv.DictReader(file))


def by_split(classes: Sequence[ListedClass]) -> dict[str, Tensor]:
    """The classes of each split, as positions in the list, [classes] int64."""
    return {
        split: torch.tensor([position for position, listed in enumerate(classes) if listed.split == split])
        for split in ("train", "val", "test")
    }


def numbered(groups: Iterable[str]) -> Tensor:
    """A number for each class's group, in the order of the groups' names, [classes] int64."""
    groups = list(groups)
    numbers = {group: number for number, group in enumerate(sorted(set(groups)))}
    return torch.tensor([numbers[group] for group in groups])
