"""What the examples of a task are, so that new ones can be made like them where its data are not: a run's task.json."""

import dataclasses
from typing import Any, NamedTuple

from metalearn_cli.datasets.decode import Resize
from metalearn_cli.datasets.preparation import Preparation
from metalearn_cli.tasks.base import Columns, Range, Scale, Spec, TaskDistribution


class Examples(NamedTuple):
    spec: Spec
    preparation: Preparation | None  # of pictures
    columns: Columns | None  # of a table


def examples_of(task: TaskDistribution) -> Examples:
    preparation, columns = task.preparation, task.columns
    if columns is None and len(task.spec.input_shape) == 1:
        columns = Columns(_names("x", task.spec.input_shape[0]), _names("y", task.spec.outputs))
    elif columns is not None and not columns.features:  # of arrays
        outputs = 1 if columns.labels else task.spec.outputs
        columns = dataclasses.replace(
            columns, features=_names("x", task.spec.input_shape[0]), targets=_names("y", outputs)
        )
    return Examples(task.spec, preparation, columns)


def _names(letter: str, number: int) -> tuple[str, ...]:
    return (letter,) if number == 1 else tuple(f"{letter}{place}" for place in range(1, number + 1))


def to_json(examples: Examples) -> dict[str, Any]:
    spec, preparation, columns = examples
    return {
        "spec": spec._asdict(),
        "preparation": {**dataclasses.asdict(preparation), "resize": preparation.resize.name} if preparation else None,
        "columns": dataclasses.asdict(columns) if columns else None,
    }


def from_json(content: dict[str, Any]) -> Examples:
    """Raises KeyError, TypeError or ValueError where that is not what `to_json` makes."""
    spec = Spec(**{**content["spec"], "input_shape": tuple(content["spec"]["input_shape"])})
    preparation, columns = content["preparation"], content["columns"]
    if preparation is not None:
        preparation = Preparation(**{**preparation, "resize": Resize[preparation["resize"]]})
    if columns is not None:
        features, targets, labels = (tuple(columns[name]) for name in ("features", "targets", "labels"))
        scales = _scale(columns["x_scale"]), _scale(columns["y_scale"])
        columns = Columns(features, targets, *scales, labels, _range(columns.get("x_range")))
    return Examples(spec, preparation, columns)


def _range(content: dict[str, Any] | None) -> Range | None:
    """None also in what a version before has written."""
    return None if content is None else Range(tuple(content["low"]), tuple(content["high"]))


def _scale(content: dict[str, Any] | None) -> Scale | None:
    return None if content is None else Scale(tuple(content["mean"]), tuple(content["deviation"]))
