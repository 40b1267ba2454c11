"""Which classes of a folder of one's own are trained on, and which tested: by its own train/, val/ and test/, by lists
of classes, or by shares of them at random. The split depends on the classes and these keys, and not on way or shot."""

import difflib
import math
from collections import defaultdict
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple

import torch

from metalearn_cli import seeding
from metalearn_cli.datasets.listing import some
from metalearn_cli.datasets.paths import expand
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain

SPLITS = ("train", "val", "test")
LEAST = 5  # classes of each split, if there are enough and no share is given: the default way of a task


class Parts(NamedTuple):
    classes: dict[str, list[str]]  # of each split, sorted; without "val" if it has none
    rule: str  # where they come from, in words
    left_out: list[str]  # classes in no split
    by_shares: bool = False
    depth: int = 0  # folders at the start of a class's path that are not part of its name, but tell the split

    def sizes(self, left_out: Collection[str] = ()) -> str:
        """Say how many classes each split has without these, and why."""
        parts = self.classes.items()
        return ", ".join(f"{len(set(part).difference(left_out))} {split}" for split, part in parts) + f", {self.rule}"


def by_folders(names: list[str], root: str) -> Parts | None:
    """Split by the folders train/, val/ (which may lack) and test/; None if the folder has none of them."""
    groups = {name.partition("/")[0] for name in names if "/" in name}
    if not groups.intersection(SPLITS):
        return None
    plain = sorted(name for name in names if "/" not in name)
    if not {"train", "test"} <= groups or (others := sorted(groups - set(SPLITS)) + plain):
        what = ", ".join(f"{group}/" for group in SPLITS if group in groups)
        beside = f" beside {others[0]}" if {"train", "test"} <= groups else ""
        raise UserError(
            f"task.root={root} has {what}{beside}: a split of its own is train/, test/ and, if there is one, val/, and "
            "nothing else; or give task.split_lists, the folder of train.txt, val.txt and test.txt"
        )
    classes = {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
    _refuse_twice({split: [name.partition("/")[2] for name in part] for split, part in classes.items()}, root)
    return Parts(_filled(classes), "the folder's own train/ and test/", [], depth=1)


def by_lists(names: list[str], root: str, lists: str) -> Parts:
    """Split by train.txt, val.txt (which may lack) and test.txt in the folder `lists`, with a class in each line."""
    folder = expand(lists)
    known = set(names)
    classes: dict[str, list[str]] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if split == "val" and not path.exists() and folder.is_dir():
            continue
        try:
            check_plain(path)
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"task.split_lists: {path} cannot be read as a list of classes ({error})") from error
        classes[split] = sorted(name for line in lines if (name := line.strip().strip("/")))
        if unknown := [name for name in classes[split] if name not in known]:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its classes are {some(names)}"
            raise UserError(f"{path} lists {unknown[0]}, which is not a class of task.root={root}: {hint}")
    _refuse_twice(classes, lists)
    listed = {name for part in classes.values() for name in part}
    return Parts(_filled(classes), f"as {folder} lists them", [name for name in names if name not in listed])


def by_words(split_of: dict[str, str], source: str) -> Parts:
    """Split by one of train, val and test for each class."""
    for name, split in split_of.items():
        if split not in SPLITS:
            raise UserError(f"{source} puts class {name} into {split!r}: train, val or test is expected")
    classes = {split: sorted(name for name, word in split_of.items() if word == split) for split in SPLITS}
    for split in ("train", "test"):
        if not classes[split]:
            raise UserError(f"{source} puts no class into {split}: at least two are needed")
    return Parts(_filled(classes), "as the file says", [])


def _refuse_twice(parts: dict[str, list[str]], source: str) -> None:
    splits = defaultdict(list)
    for split, name in ((split, name) for split, part in parts.items() for name in part):
        splits[name].append(split)
    if twice := next((name for name in splits if len(splits[name]) > 1), ""):
        where = " and in ".join(splits[twice])
        raise UserError(f"class {twice} of {source} is in {where}: a class is in one split, once")


def divided(
    told: Parts | None, sizes: dict[str, int], least: int, root: str, shares: "Shares", needs: dict[str, int]
) -> Parts:
    """Return the split that someone told, or else one at random, of the classes with at least so many examples. Raises
    UserError where there are none."""
    if not (names := sorted(name for name, size in sizes.items() if size >= least)):
        raise UserError(f"task.min_images={least} leaves no class of {root}: give {max(sizes.values())} at most")
    if told is None:
        return by_shares(names, root, shares, needs)
    for key, value, default in zip(("val_share", "test_share", "split_seed"), shares, (None, None, 0), strict=True):
        if value != default:
            raise UserError(f"task.{key}={value} is for a split at random, and here the split is {told.rule}")
    kept = set(names)
    return told._replace(
        classes={split: [name for name in part if name in kept] for split, part in told.classes.items()}
    )


class TooFewClasses(UserError):
    """A split at random gets fewer than two classes somewhere."""


class Shares(NamedTuple):
    """A split at random. A share that is not given is 0.2, and at least five classes if there are 15 or more."""

    val: float | None
    test: float | None
    seed: int

    def sizes(self, number: int) -> dict[str, int]:
        """Return how many of `number` classes each split gets; a negative number for training if they are too few."""
        least = LEAST if number >= 3 * LEAST else 2
        sizes = {
            split: max(round(0.2 * number), least) if share is None else round(share * number)
            for split, share in (("val", self.val), ("test", self.test))
        }
        return {"train": number - sum(sizes.values()), **sizes}

    def is_enough(self, number: int, needs: dict[str, int]) -> bool:
        """Whether each split gets as many of `number` classes as it needs, or there are none for validation."""
        sizes = self.sizes(number)
        return all(sizes[split] >= needs[split] or (split == "val" and not sizes[split]) for split in SPLITS)

    def least(self, needs: dict[str, int]) -> int | None:
        """Return the least number of classes that gives each split as many as it needs; None if no number does."""
        smallest = min(share for share in (self.val, self.test, 0.2) if share)
        most = sum(needs.values()) + math.ceil(2 * max(needs.values()) / smallest)
        return next((n for n in range(2, most + 1) if self.is_enough(n, needs)), None)

    def more(self, parts: Parts, needs: dict[str, int]) -> str:
        """Say what gives a split of these more classes."""
        if not parts.by_shares:
            return "more classes"
        enough = self.least(needs)
        return f"more classes ({enough} in all are enough), or another task.test_share or task.val_share"


def by_shares(names: list[str], root: str, shares: Shares, needs: dict[str, int]) -> Parts:
    """Split the classes at random. `needs` is for the sentence on too few: how many classes each split's tasks need."""
    by_key = {f"task.{split}_share": share for split, share in (("test", shares.test), ("val", shares.val)) if share}
    if sum(by_key.values()) >= 1:
        words = " and ".join(f"{key}={share}" for key, share in by_key.items())
        raise UserError(f"{words} must be shares of the classes, e.g. 0.2, that leave some of them for training")
    if shares.test == 0:
        raise TooFewClasses(f"task.test_share=0 leaves none of the {len(names)} classes of task.root={root} to test on")
    if not shares.is_enough(len(names), dict.fromkeys(SPLITS, 2)):
        ways = " or ".join(["more classes", *(f"another {key}" for key in by_key)])
        raise TooFewClasses(
            f"the {len(names)} classes of task.root={root} are too few for a split at random, which needs "
            f"{_enough(shares, needs)}: give {ways}"
        )
    sizes = shares.sizes(len(names))
    order = torch.randperm(len(names), generator=seeding.generator("image_folder", shares.seed)).tolist()
    shuffled = iter([names[position] for position in order])
    classes = {split: sorted(islice(shuffled, sizes[split])) for split in ("test", "val", "train")}
    classes = {split: classes[split] for split in SPLITS}
    return Parts(_filled(classes), f"by split_seed={shares.seed}", [], by_shares=True)


def _enough(shares: Shares, needs: dict[str, int]) -> str:
    """Say how many classes are enough for these tasks and for the smallest, with a validation and without one."""
    numbers: list[str] = []
    for least in (needs, {split: min(2, number) for split, number in needs.items()}):
        way = " and ".join(map(str, sorted(set(least.values()))))
        what = f"tasks of {way} classes" + (" (task.way=2)" if least != needs else "")
        enough, without = shares.least(least), shares._replace(val=0).least({**least, "val": 0})
        also = f", or {without} with task.val_share=0 select=last" if without != enough else ""
        numbers.append(f"{enough} for {what}{also}" if enough else f"more than any number for {what} with these shares")
    return "; ".join(dict.fromkeys(numbers))


def _filled(classes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Drop a "val" that is empty."""
    return {split: part for split, part in classes.items() if part or split != "val"}
