"""Which classes of a folder of one's own are trained on, and which tested: by its own train/, val/ and test/, by lists
of classes, or by shares of them at random. The same classes and the same words give the same split, whatever way and
shot are."""

import difflib
import math
from collections import Counter
from typing import NamedTuple

import torch

from metalearn_cli import seeding
from metalearn_cli.datasets.image_folder import some
from metalearn_cli.datasets.paths import expand
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain

SPLITS = ("train", "val", "test")
LEAST = 5  # classes of each split, where there are enough and no share is given: a task has so many unless told


class Parts(NamedTuple):
    classes: dict[str, list[str]]  # of each split, sorted; without "val" where it has none
    rule: str  # where they come from, in words
    left_out: list[str]  # classes in no split
    by_shares: bool = False
    inside: int = 0  # folders of a class's path that are the split's and no part of its name


def own_split(names: list[str], root: str) -> Parts | None:
    """Split by the folders train/, val/ (which may lack) and test/; None where the folder has none of them."""
    groups = {name.partition("/")[0] for name in names if "/" in name}
    if not groups.intersection(SPLITS):
        return None
    plain = sorted(name for name in names if "/" not in name)
    if not {"train", "test"} <= groups or (others := sorted(groups - set(SPLITS)) + plain):
        what = ", ".join(f"{group}/" for group in SPLITS if group in groups)
        beside = f" beside {others[0]}" if {"train", "test"} <= groups else ""
        raise UserError(
            f"task.root={root} has {what}{beside}: a split of its own is train/, test/ and, if there is one, val/ with "
            "folders of classes in each, and nothing else; or give task.split_lists, the folder of train.txt, val.txt "
            "and test.txt"
        )
    seen: dict[str, str] = {}
    for split, name in ((split, name) for split in SPLITS for name in names if name.startswith(f"{split}/")):
        inner = name.removeprefix(f"{split}/")
        if seen.setdefault(inner, split) != split:
            raise UserError(
                f"class {inner} of task.root={root} is in {seen[inner]} and in {split}: no class is both trained on "
                "and tested; to part the classes by themselves, keep all images of a class in one folder"
            )
    classes = {split: [name for name in names if name.startswith(f"{split}/")] for split in SPLITS}
    return Parts(_filled(classes), "the folder's own train/ and test/", [], inside=1)


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
            lines = [line.strip().strip("/") for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"task.split_lists={lists}: {path} cannot be read as a list of classes ({error})"
            ) from error
        classes[split] = sorted(line for line in lines if line)
        if unknown := [name for name in classes[split] if name not in known]:
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its classes are {some(names)}"
            raise UserError(f"{path} lists {unknown[0]}, which is no class of task.root={root}: {hint}")
    listed = Counter(name for part in classes.values() for name in part)
    if twice := [name for name, count in listed.items() if count > 1]:
        where = [f"{split}.txt" for split, part in classes.items() if twice[0] in part]
        raise UserError(
            f"task.split_lists={lists} lists {twice[0]} {listed[twice[0]]} times (in {', '.join(where)}): a class is "
            "in one split, once"
        )
    return Parts(_filled(classes), f"as {folder} lists them", [name for name in names if name not in listed])


class TooFewClasses(UserError):
    """A split at random gets fewer than two classes somewhere."""


class Shares(NamedTuple):
    """A split at random. A share that is not given is 0.2, and at least five classes where there are 15 or more."""

    val: float | None
    test: float | None
    seed: int

    def sizes(self, number: int) -> dict[str, int]:
        """How many of so many classes are in each split; below nothing for training where they are too few."""
        least = LEAST if number >= 3 * LEAST else 2
        sizes = {
            split: max(round(0.2 * number), least) if share is None else round(share * number)
            for split, share in (("val", self.val), ("test", self.test))
        }
        return {"train": number - sum(sizes.values()), **sizes}

    def is_enough(self, number: int, needs: dict[str, int]) -> bool:
        """Whether each split gets as many of so many classes as it needs, where there may be none for validation."""
        sizes = self.sizes(number)
        return all(sizes[split] >= needs[split] or (split == "val" and not sizes[split]) for split in SPLITS)

    def least(self, needs: dict[str, int]) -> int | None:
        """The least number of classes that gives each split as many as it needs; None where no number does."""
        smallest = min(share for share in (self.val, self.test, 0.2) if share)
        most = sum(needs.values()) + math.ceil(2 * max(needs.values()) / smallest)
        return next((n for n in range(2, most + 1) if self.is_enough(n, needs)), None)


def by_shares(names: list[str], root: str, shares: Shares, needs: dict[str, int]) -> Parts:
    """Split the classes at random. `needs` says how many classes the tasks of each split need, for the sentence where a
    split gets fewer than two."""
    both = {"test": shares.test, "val": shares.val}
    given = {split: share for split, share in both.items() if share is not None}
    if sum(given.values()) >= 1:
        words = " and ".join(f"task.{split}_share={share}" for split, share in given.items())
        raise UserError(f"{words} must be shares of the classes, e.g. 0.2, that leave some of them for training")
    if not shares.is_enough(len(names), dict.fromkeys(SPLITS, 2)):
        raise TooFewClasses(f"the {len(names)} classes of task.root={root} are {too_few(shares, needs)}")
    number = shares.sizes(len(names))
    order = torch.randperm(len(names), generator=seeding.generator("image_folder", shares.seed)).tolist()
    shuffled = [names[position] for position in order]
    test, rest = shuffled[: number["test"]], shuffled[number["test"] :]
    classes = {"train": rest[number["val"] :], "val": rest[: number["val"]], "test": test}
    classes = {split: sorted(part) for split, part in classes.items()}
    return Parts(_filled(classes), f"by split_seed={shares.seed}", [], by_shares=True)


def too_few(shares: Shares, needs: dict[str, int]) -> str:
    """What is said of a number of classes: how many would do, for these tasks and for the smallest, with a validation
    and without one."""
    ways: list[str] = []
    for wanted in (needs, {split: min(2, number) for split, number in needs.items()}):
        way = " and ".join(map(str, sorted(set(wanted.values()))))
        what = f"tasks of {way} classes" + (" (task.way=2)" if wanted != needs else "")
        enough, without = shares.least(wanted), shares._replace(val=0).least({**wanted, "val": 0})
        also = f", or {without} with task.val_share=0 select=last" if without != enough else ""
        ways.append(f"{enough} for {what}{also}" if enough else f"with these shares no number is enough for {what}")
    shared = [f"task.{name}_share" for name, share in (("val", shares.val), ("test", shares.test)) if share]
    another = [f"another {' or '.join(shared)}"] if shared else []
    if shares.test == 0:
        return "none of them for the test: give another task.test_share"
    numbers = "; ".join(dict.fromkeys(ways))
    return f"too few for a split at random, which wants {numbers}: give {', or '.join(['more classes', *another])}"


def _filled(classes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without a "val" that is empty."""
    return {split: part for split, part in classes.items() if part or split != "val"}
