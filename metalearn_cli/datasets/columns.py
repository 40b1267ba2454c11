"""How a row of a user's table becomes an example of a task: its columns, and in which units they are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """The mean that is subtracted from a user's numbers, and the deviation that divides them."""

    mean: tuple[float, ...]  # of each feature or target
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Range:
    """The least and the greatest inputs of the training tasks, in the user's units."""

    low: tuple[float, ...]  # of each feature
    high: tuple[float, ...]


@dataclass(frozen=True)
class ColumnNames:
    """The columns of a table, from which a task's points are made."""

    features: tuple[str, ...]
    targets: tuple[str, ...]
    x_scale: Scale | None = None  # None: the numbers as they are
    y_scale: Scale | None = None
    labels: tuple[str, ...] = ()  # names of classes 0, 1, ... that all tasks share
    x_range: Range | None = None  # None: it is not known
