"""What the examples of a task are, so that new ones can be made like them where its data are not: a run's task.json.

A file may be damaged, or somebody's own: every number in it is looked at before it becomes the size of something.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import ColumnNames, Spec, TaskDistribution
from metalearn_cli.tasks.tones import Tones, tones_of

LARGEST, LARGEST_SIDE = 100_000_000, 10_000  # numbers of an example or of outputs; pixels


class Examples(NamedTuple):
    spec: Spec
    preparation: Preparation | None  # of pictures
    columns: ColumnNames | None  # of a table
    tones: Tones | None = None  # of the training's pictures, of a run on ink


def examples_of(task: TaskDistribution) -> Examples:
    preparation, columns = task.preparation, task.columns
    if columns is None and len(task.spec.input_shape) == 1:
        columns = ColumnNames(_names("x", task.spec.input_shape[0]), _names("y", task.spec.outputs))
    elif columns is not None and not columns.features:  # of arrays
        outputs = 1 if columns.labels else task.spec.outputs
        columns = dataclasses.replace(
            columns, features=_names("x", task.spec.input_shape[0]), targets=_names("y", outputs)
        )
    return Examples(task.spec, preparation, columns)


def trained_on(task: TaskDistribution) -> Examples:
    """The examples that a training takes, and what must be known of its pictures, which are read for it."""
    examples = examples_of(task)
    is_of_ink = examples.preparation is not None and examples.preparation.ink is Ink.evened
    return examples._replace(tones=tones_of(task)) if is_of_ink else examples


def with_ink(examples: Examples, ink: Ink | None) -> Examples:
    """Return the examples with this treatment of ink; None: the run's own. Raises UserError where there is no ink."""
    if ink is None:
        return examples
    preparation = examples.preparation
    if preparation is None or preparation.channels != 1:
        raise UserError(f"ink={ink.name} is for runs on grey pictures of ink, and this run's examples are others")
    return examples._replace(preparation=dataclasses.replace(preparation, ink=ink))


def going_on(examples: Examples, earlier: Examples) -> Examples:
    """Return the examples with the ink that a run began with: an older version left ink as it is."""
    if examples.preparation is None or earlier.preparation is None:
        return examples
    return examples._replace(preparation=dataclasses.replace(examples.preparation, ink=earlier.preparation.ink))


def _names(letter: str, number: int) -> tuple[str, ...]:
    return (letter,) if number == 1 else tuple(f"{letter}{place}" for place in range(1, number + 1))


def require_plausible(examples: Examples, path: Path) -> None:
    """Raises UserError where the numbers in the file at `path` do not fit together, or are no sizes."""
    try:
        _check_spec(examples.spec)
        if examples.preparation is not None:
            _check_preparation(examples.preparation, examples.spec)
        if examples.columns is not None:
            _check_columns(examples.columns, examples.spec)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): it is not whole, or of another version") from error


def _check_spec(spec: Spec) -> None:
    for size in (spec.input_shape, (spec.outputs,), (spec.train_outputs,)):
        for number in size:
            _check_size("spec", number, 1, LARGEST)
    if not spec.input_shape or math.prod(spec.input_shape) > LARGEST:
        raise ValueError(f"input_shape is {list(spec.input_shape)}")


def _check_preparation(preparation: Preparation, spec: Spec) -> None:
    content = dataclasses.asdict(preparation)
    for name, least in (("size", 1), ("channels", 1), ("margin", 0), ("by_way_of", 1)):
        if name != "by_way_of" or preparation.by_way_of is not None:
            _check_size(name, content[name], least, LARGEST_SIDE)
    if preparation.resample.upper() not in Image.Resampling.__members__:
        raise ValueError(f"resample is {preparation.resample!r}")
    made = (preparation.channels, preparation.size, preparation.size)
    if preparation.channels not in (1, 3) or made != spec.input_shape:
        raise ValueError(f"pictures become {list(made)}, and input_shape is {list(spec.input_shape)}")


def _check_columns(columns: ColumnNames, spec: Spec) -> None:
    outputs = 1 if spec.kind == "classes" else spec.outputs
    pairs = [("features", columns.features, spec.input_shape), ("targets", columns.targets, (outputs,))]
    for name, names, wanted in pairs:
        if (len(names),) != wanted:
            raise ValueError(f"{name} are {list(names)}, and {list(wanted)} names are expected")
    if columns.labels and (spec.kind != "classes" or len(columns.labels) != spec.outputs):
        raise ValueError(f"there are {len(columns.labels)} labels for {spec.outputs} {spec.kind}")
    x_scale, y_scale, x_range = columns.x_scale, columns.y_scale, columns.x_range
    for size, rows in (
        (len(columns.features), (x_scale.mean, x_scale.deviation) if x_scale else ()),
        (len(columns.targets), (y_scale.mean, y_scale.deviation) if y_scale else ()),
        (len(columns.features), (x_range.low, x_range.high) if x_range else ()),
    ):
        for row in rows:
            if len(row) != size:
                raise ValueError(f"a scale or range is {list(row)}, and {size} numbers are expected")
    if not all(one > 0 for scale in (x_scale, y_scale) if scale for one in scale.deviation):
        raise ValueError("a deviation is not above 0")


def _check_size(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}, and a whole number from {least} to {most} is expected")
