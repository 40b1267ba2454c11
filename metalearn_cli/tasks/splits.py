"""Which of a number of tasks are trained on, validated with and tested: by a seeded rule, or as someone listed them.

Shapes: M tasks.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.system.files import check_plain
from metalearn_cli.system.limits import Share, check_limit
from metalearn_cli.tasks.base import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def by_fraction(
    source: str, names: Sequence[str], seed: int, val_share: float, test_share: float
) -> dict[Split, Tensor]:
    """The positions of each split's tasks, shuffled by the seed and the names alone, whatever their order."""
    if len(names) < 2:
        raise UserError(
            f"{source} holds one task, {names[0]}: at least two are needed, one to train on and one to test"
        )
    sizes = {}
    for key, share in (("val_share", val_share), ("test_share", test_share)):
        check_limit(f"task.{key}", share, Share)
        sizes[key] = math.floor(share * len(names) + 0.5)
        if sizes[key] == 0 and (share or key == "test_share"):
            raise UserError(
                f"task.{key}={share} of the {len(names)} tasks of {source} is none: give task.{key}="
                f"{1 / len(names):.2g}, or more tasks"
            )
    train = len(names) - sum(sizes.values())
    if train < 1:
        raise UserError(
            f"task.val_share={val_share} and task.test_share={test_share} leave none of the {len(names)} tasks of "
            f"{source} to train on: give smaller shares, or more tasks"
        )
    in_order = sorted(range(len(names)), key=lambda task: names[task])
    shuffled = torch.tensor(in_order)[torch.randperm(len(names), generator=generator("tasks", seed))]
    parts = torch.split(shuffled, [train, sizes["val_share"], sizes["test_share"]])
    return {split: part.sort().values for split, part in zip(SPLITS, parts, strict=True) if len(part)}


def by_labels(source: str, names: Sequence[str], splits: Sequence[str]) -> dict[Split, Tensor]:
    """One of train, val and test for each task, [M]."""
    for name, split in zip(names, splits, strict=True):
        if split not in SPLITS:
            raise UserError(f"{source} puts task {name} into {split!r}: train, val or test is expected")
    members = {split: [task for task, word in enumerate(splits) if word == split] for split in SPLITS}
    for split, tasks in members.items():
        if not tasks and split != "val":
            raise UserError(f"{source} puts no task into {split}: at least one is needed")
    return {split: torch.tensor(tasks) for split, tasks in members.items() if tasks}


def by_file(path: Path, names: Sequence[str]) -> dict[Split, Tensor]:
    """{"train": [names of tasks], "val": [...], "test": [...]} in JSON, with every task once."""
    try:
        check_plain(path)
        lists = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"task.split_file={path} cannot be read as JSON ({error})") from error
    expected = 'three lists of tasks are expected, {"train": ["a", ...], "val": [...], "test": [...]}'
    if not isinstance(lists, dict) or not all(isinstance(tasks, list) for tasks in lists.values()):
        raise UserError(f"{path}: {expected}")
    known = set(names)
    words: dict[str, str] = {}
    for split, tasks in lists.items():
        for name in map(str, tasks):
            if name not in known:
                raise UserError(f"{path} lists task {name} in {split}, and there is none of this name")
            if name in words:
                raise UserError(
                    f"{path} lists task {name} in {words[name]} and in {split}: a task belongs to one split"
                )
            words[name] = split
    if lacking := [name for name in names if name not in words]:
        raise UserError(f"{path} lists {len(lacking)} of the tasks nowhere, e.g. {lacking[0]}: {expected}")
    return by_labels(str(path), names, [words[name] for name in names])
