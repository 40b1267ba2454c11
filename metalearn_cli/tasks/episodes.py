"""Episodes of classes with support and query images each: what all image tasks share.

`Episodes` holds the keys that all image tasks have, and samples; a task adds its classes and its pixels. (Its fields
are on one level with the task's own keys, `task.way=5`, as those of every field that is a dataclass itself.) Draws are
indices, on the CPU; pixels stay where they are.

Shapes, besides those of tasks/base.py: N images of a packed set, W classes of a task (the largest number if it varies).
"""

from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Count, Natural, Way, check_limits
from metalearn_cli.tasks.augment import Augment, draw_augment
from metalearn_cli.tasks.base import Draw, Spec, Split, draw_keys
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.one_size import divided, draw_classes, draw_images, draw_numbers, rank_in_class
from metalearn_cli.tasks.variable_sizes import Sizes, draw_variable, draw_way


class Rotations(Enum):
    """What the quarter turns of an image are."""

    none = auto()
    as_classes = auto()  # four classes of each
    train_as_classes = auto()  # the same in training, and upright classes at validation and test
    per_episode = auto()  # each class of a task is turned at random


@dataclass(frozen=True)
class Classes:
    """Classes of a packed set: the images of class c are those at start[c] to start[c] + count[c] - 1."""

    start: Tensor  # [classes] int64
    count: Tensor  # [classes] int64
    group: Tensor | None = None  # [classes] int64: the alphabet or superclass

    def of(self, chosen: Tensor) -> "Classes":
        """The classes at these positions."""
        return Classes(self.start[chosen], self.count[chosen], None if self.group is None else self.group[chosen])


@dataclass(frozen=True)
class Episodes:
    way: Way = 5  # classes of a validation or test task; with `variable` the largest number
    shot: Count = 1  # support images of each; with `variable` the most that count in the size of the support set
    query: Count = 15  # query images of each; with `variable` the largest number
    train_way: Way | None = None  # of a training task; null: the same as `way`
    train_shot: Count | None = None  # of a training task; null: the same as `shot`
    train_query: Count | None = None  # of a training task; null: the same as `query`
    min_train_shot: Count | None = None  # the shot of each training task is drawn from here on; null: it is the largest
    train_splits: tuple[str, ...] = ("train",)  # whose classes are trained on; never test's
    rotations: Rotations = Rotations.none
    within_group: bool = False  # all classes of a task are of one alphabet or superclass
    augment: tuple[Augment, ...] = ()  # random changes of the images of training tasks
    variable: bool = False  # way and shot vary, see tasks/variable_sizes.py
    min_way: int = 5  # with `variable`: the smallest number of classes
    max_support: int = 500  # with `variable`: the largest number of support images of a task
    query_balance: Count | None = None  # of validation and test: Dirichlet(query_balance); null: equally many of each
    unlabelled: Natural = 0  # images of each class without a label
    train_unlabelled: Natural | None = None  # of a training task; null: the same as `unlabelled`
    distractors: Natural = 0  # other classes of each task, which have unlabelled images only, as many

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        for key in ("query_balance", "unlabelled", "train_unlabelled"):
            if self.variable and (value := getattr(self, key)):
                raise UserError(f"task.{key}={value} is for tasks of one size: give task.variable=false")
        if self.distractors and not (self.unlabelled or self.train_unlabelled):
            raise UserError(
                f"task.distractors={self.distractors} are classes with unlabelled images only, and tasks have none of "
                "these: give task.unlabelled=5"
            )
        if self.distractors and self.within_group:
            raise UserError(
                f"task.distractors={self.distractors} are of any group, and task.within_group=true takes one group for "
                "a task: leave one of them out"
            )

    def spec(self, input_shape: tuple[int, ...], train_classes: int) -> Spec:
        base, ways = train_classes * self._turns("train"), (self.way, self.train_way or self.way)
        unlabelled = all(self.without_labels(split)[0] for split in ("train", "test"))
        drawn_shot = self.min_train_shot is not None
        sizes = {"padded": self.variable or drawn_shot, "one_way": drawn_shot and not self.variable}
        return Spec(input_shape, *ways, Categorical(), base=base, unlabelled=unlabelled, **sizes)

    def size(self, split: Split) -> dict[str, int]:
        """Way, shot and query of a split's episodes, each by the name of the key that says it."""
        size = {}
        for name in ("way", "shot", "query"):
            if split == "train" and getattr(self, f"train_{name}") is not None:
                name = f"train_{name}"
            size[name] = getattr(self, name)
        return size

    def least_examples(self, split: Split) -> int:
        """The examples that a class of this split needs."""
        _, shot, _ = self.size(split).values()
        return 2 if self.variable else shot + self.most_queries(split) + self.without_labels(split)[0]

    def most_queries(self, split: Split) -> int:
        """The queries that a class can have in a task of one size; training tasks are balanced."""
        way, _, query = self.size(split).values()
        return query if self.query_balance is None or split == "train" else way * query

    def without_labels(self, split: Split) -> tuple[int, int]:
        """The unlabelled images of a class, and the number of distractors."""
        of_training = self.train_unlabelled if split == "train" else None
        unlabelled = self.unlabelled if of_training is None else of_training
        return unlabelled, self.distractors if unlabelled else 0

    def _beside(self, split: Split) -> str:
        """The keys by which a class needs more images than shot and query, as the end of a list."""
        (_, (_, query)), (unlabelled, _) = [*self.size(split).items()][1:], self.without_labels(split)
        is_uneven = self.most_queries(split) > query
        balance = f" and task.query_balance={self.query_balance} (a class may have all queries)" * is_uneven
        return balance + f" and {unlabelled} unlabelled" * (unlabelled > 0)

    @property
    def least_classes(self) -> dict[str, int]:
        """The number of classes of each split that makes a task."""
        turned = {Rotations.as_classes: 4, Rotations.train_as_classes: 4}.get(self.rotations, 1)
        upright = 4 if self.rotations is Rotations.as_classes else 1
        train = max(2, -(-((self.train_way or self.way) + self.without_labels("train")[1]) // turned))
        test = max(2, -(-(self.way + self.without_labels("test")[1]) // upright))
        return {"train": train, "val": test, "test": test}

    def too_small(self, split: Split, classes: list[tuple[int, str]], what: str, has: str = "has") -> list[str]:
        """Return what is wrong with classes of these sizes and names, if tasks of this split use them; `what` they
        hold, "images"."""
        needed = self.least_examples(split)
        if not (small := sorted(size_and_name for size_and_name in classes if size_and_name[0] < needed)):
            return []
        examples, fewest = small[0]
        _, (shot_key, shot), (query_key, query) = self.size(split).items()
        asks = "a task" if self.variable else f"task.{shot_key}={shot} with task.{query_key}={query}"
        asks += (beside := self._beside(split))
        has_fewer = examples > shot and not self.variable and not beside
        ways = [f"task.{query_key}={examples - shot}"] if has_fewer else []
        if len(classes) - len(small) >= 4:  # with fewer, no split is possible
            ways.append(f"task.min_images={needed}, which leaves out all classes with fewer")
        return [
            f"class {fewest} {has} {examples} {what}, and {asks} asks for {needed}: give "
            f"{', or '.join([*ways, f'more {what}'])} ({len(small)} of {len(classes)} classes have too few)"
        ]

    def pool(self, classes: dict[str, Tensor]) -> dict[Split, Tensor]:
        """The classes of the splits, [classes] each: "train" has those of all `train_splits`, "val" exists only if it
        is not among them, and "test" is always the same."""
        splits = self.train_splits
        value = f"task.train_splits=[{','.join(splits)}]"
        allowed = [name for name in classes if name != "test"]
        choose = f"choose from {', '.join(allowed)}"
        if unknown := [name for name in splits if name not in allowed]:
            raise UserError(f"{value} holds {unknown[0]}, which is not a split to train on here: {choose}")
        if not splits or len(set(splits)) < len(splits):
            raise UserError(f"{value} must name at least one split, and each once: {choose}")
        pooled: dict[Split, Tensor] = {"train": torch.cat([classes[name] for name in allowed if name in splits])}
        if "val" in allowed and "val" not in splits:
            pooled["val"] = classes["val"]
        return pooled | {"test": classes["test"]}

    def check(self, split: Split, classes: Classes, about: str = "") -> None:
        """Raises UserError for episodes that these classes of a split cannot give; `about` says what the number of
        classes depends on."""
        (way_key, way), (shot_key, shot), (query_key, query) = self.size(split).items()
        if split == "train" and self.min_train_shot is not None and (self.variable or self.min_train_shot > shot):
            raise UserError(
                f"task.min_train_shot={self.min_train_shot} must be at most task.{shot_key}={shot}, and stands without "
                "task.variable=true, which draws shots of its own"
            )
        splits = self.train_splits if split == "train" else (split,)
        where = f"the {' and '.join(splits)} split{about}"
        turns = self._turns(split)
        distractors = self.without_labels(split)[1]
        if way + distractors > (number := len(classes.start) * turns):
            turned = f" (by rotations={self.rotations.name})" if turns > 1 else ""
            beside = f" with task.distractors={distractors}" * (distractors > 0)
            raise UserError(f"task.{way_key}={way}{beside} is more than the {number} classes{turned} of {where}")
        if self.within_group:
            if classes.group is None:
                raise UserError("task.within_group=true needs classes in groups, and those of this data set have none")
            if way > (largest := int(self._groups(classes, split).sum(1).max())):
                raise UserError(
                    f"task.{way_key}={way} is more than the {largest} classes of the largest group of {where}"
                )
        fewest = int(classes.count.min())
        if self.variable:
            if not 2 <= self.min_way <= way:
                raise UserError(f"task.min_way={self.min_way} must be at least 2, and at most task.{way_key}={way}")
            if self.max_support < way:
                raise UserError(f"task.max_support={self.max_support} must be at least task.{way_key}={way}")
            if fewest < 2:
                raise UserError(f"a class of {where} has {fewest} image, and needs two: one support and one query")
        elif self.least_examples(split) > fewest:
            raise UserError(
                f"task.{shot_key}={shot} and task.{query_key}={query}{self._beside(split)} together are more than the "
                f"{fewest} images of a class of {where}"
            )

    def draw(self, tasks: int, split: Split, classes: Classes, rng: torch.Generator) -> Draw:
        """Draw T = `tasks` tasks of these classes: a pure function of its arguments."""
        way, shot, query = self.size(split).values()
        unlabelled, distractors = self.without_labels(split)
        turns = self._turns(split)
        most, members = torch.tensor(way), None  # the classes that each task can have at most
        if self.within_group:
            groups = self._groups(classes, split)
            groups = groups[groups.sum(1) >= (self.min_way if self.variable else way)]
            members = groups[torch.randint(len(groups), (tasks,), generator=rng)]  # [T, classes]
            most = members.sum(1).clamp(max=way)
        choice = draw_classes(tasks, way + distractors, len(classes.start) * turns, rng, members)
        turn = None
        if turns > 1:
            choice, turn = choice // turns, choice % turns
        elif self.rotations is Rotations.per_episode:
            turn = torch.randint(4, choice.shape, generator=rng)
        start, count = classes.start[choice], classes.count[choice]
        if self.variable:
            ways = draw_way(self.min_way, most.expand(tasks), rng)
            sizes = Sizes(ways, shot, query, self.max_support, int(classes.count.max()))
            draw = draw_variable(start, count, turn, sizes, rng)
        else:
            most_queries = self.most_queries(split)
            draw = draw_images(start, count, turn, shot, most_queries + unlabelled, rng)
            if most_queries + unlabelled > query:
                number = torch.full((tasks, way), query)
                if self.query_balance and most_queries > query:
                    number = draw_numbers(tasks, way, way * query, self.query_balance, rng)
                draw = divided(draw, number, most_queries)
        if split == "train" and self.min_train_shot is not None:
            shots = torch.randint(self.min_train_shot, shot + 1, (tasks, 1), generator=rng)
            draw["support_mask"] = rank_in_class(draw["support_y"]) <= shots
        return draw | draw_augment(draw, self.augment, rng) if split == "train" else draw

    def draw_classes(self, tasks: int, images: int, classes: Classes, rng: torch.Generator) -> Draw:
        """Draw T = `tasks` batches of training images, each equally likely; every turn of a class is a class."""
        ends, turns = classes.count.cumsum(0), self._turns("train")
        number = torch.randint(int(ends[-1]), (tasks, images), generator=rng)
        position = torch.searchsorted(ends, number, right=True)
        none = torch.zeros(tasks, 0, dtype=torch.int64)
        draw = {"support_image": none, "support_y": none, "query_y": position}
        draw["query_image"] = classes.start[position] + number - (ends - classes.count)[position]
        if turns > 1:
            turn = torch.randint(turns, position.shape, generator=rng)
            draw |= {"support_turn": none, "query_turn": turn, "query_y": position * turns + turn}
        draw["key"] = draw_keys(tasks, rng)
        return draw | draw_augment(draw, self.augment, rng)

    def _turns(self, split: Split) -> int:
        """In how many quarter turns each class is a class of its own."""
        only_in_training = self.rotations is Rotations.train_as_classes
        return 4 if self.rotations is Rotations.as_classes or (only_in_training and split == "train") else 1

    def _groups(self, classes: Classes, split: Split) -> Tensor:
        """The classes of each group, [groups, classes] bool."""
        assert classes.group is not None  # `check` has seen it
        group = classes.group.repeat_interleave(self._turns(split))
        return group == torch.arange(int(group.max()) + 1)[:, None]
