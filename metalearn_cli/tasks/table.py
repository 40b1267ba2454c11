"""A user's own tasks from a file: .csv, .tsv, .parquet or .npz, which datasets/point_set.py describes.

The file is read when a network is made for the task, since its columns decide the network's inputs. tasks/finite.py
divides and draws the tasks.

`standardise=train` subtracts the mean of the training tasks' points and divides by their standard deviation, for each
feature and target on its own. All errors are then in units of the standardised targets: an error of 1 is the variance
of the training tasks' targets, which a prediction of their mean would get.
"""

from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Annotated, Any

from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.point_set import PointSet, Roles, from_table, read_npz
from metalearn_cli.datasets.table_file import SUFFIXES, read_table
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import check_plain
from metalearn_cli.system.limits import Count, Limit, Share, check_limits
from metalearn_cli.tasks.finite import FiniteTasks
from metalearn_cli.tasks.known_tasks import KnownTasks, make_known_tasks
from metalearn_cli.tasks.likelihood import Categorical, OfValues, ValuesLikelihood
from metalearn_cli.tasks.splits import by_file, by_fraction, by_labels


class Loss(Enum):
    values = auto()  # the squared error of numbers, or what `likelihood` says
    classes = auto()  # the cross-entropy of labels


class Standardise(Enum):
    train = auto()  # by the training tasks' points
    false = auto()


Target = Annotated[
    Any,
    Limit(
        "the name of a column, or a list of them, e.g. [y1,y2]",
        lambda names: (
            isinstance(names, str)
            or (isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names))
        ),
    ),
]


@dataclass(frozen=True)
class Table(FiniteTasks):
    root: str  # the file
    task_column: str = "task"
    set_column: str | None = None  # whose cells say support or query; null: `set`, if there is such a column
    target: Target = "y"  # a column, or a list of them
    features: tuple[str, ...] | None = None  # null: all other columns
    loss: Loss = Loss.values
    values: ValuesLikelihood = ValuesLikelihood()
    standardise: Standardise = Standardise.train
    shot: Count | None = None  # support points of each task, if they are divided at random
    query: Count | None = None  # query points, likewise; null: all others
    split_column: str | None = None  # whose cells say train, val or test, the same in all rows of a task
    split_file: str | None = None  # three lists of tasks, as JSON
    split_seed: int = 0  # of a split by shares
    val_share: Share = 0.2
    test_share: Share = 0.2

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        if self.loss is Loss.classes and len(self._targets) > 1:
            raise UserError(f"task.target={list(self._targets)} names several columns, and task.loss=classes needs one")
        if self.loss is Loss.classes and self.values.likelihood is not OfValues.squared_error:
            raise UserError(
                f"task.likelihood={self.values.likelihood.name} is for values, and task.loss=classes has classes: give "
                "one of them"
            )
        if self.split_column and self.split_file:
            raise UserError("task.split_column and task.split_file both say which tasks are tested: give one")

    @cached_property
    def known(self) -> KnownTasks:
        points = self._read()
        if points.split is not None:
            members = by_labels(points.source, points.names, points.split)
        elif self.split_file is not None:
            members = by_file(expand(self.split_file), points.names)
        else:
            members = by_fraction(points.source, points.names, self.split_seed, self.val_share, self.test_share)
        standardise = self.standardise is Standardise.train
        likelihood = Categorical() if self.loss is Loss.classes else self.values.chosen
        return make_known_tasks(points, members, likelihood, standardise, self.shot, self.query)

    @property
    def _targets(self) -> tuple[Any, ...]:
        return self.target if isinstance(self.target, tuple) else (self.target,)

    def _read(self) -> PointSet:
        path, classes = expand(self.root), self.loss is Loss.classes
        if (suffix := path.suffix.lower()) not in (*SUFFIXES, ".npz"):
            raise UserError(f"task.root={self.root} must be a file whose name ends in {', '.join(SUFFIXES)} or .npz")
        try:
            if suffix != ".npz":
                table = read_table(path)
                set_column = self.set_column or ("set" if "set" in table.cells else None)
                roles = Roles(self.task_column, set_column, self.split_column, self.features, self._targets)
                return from_table(table, roles, classes)
            for key in ("set_column", "features"):
                if getattr(self, key) is not None:
                    raise UserError(f"task.{key} is for a table with columns, and {path} holds arrays: leave it out")
            check_plain(path)
            return read_npz(path, self.task_column, self.split_column, classes)
        except OSError as error:
            raise UserError(f"task.root={self.root} cannot be read ({error.strerror or error})") from error
