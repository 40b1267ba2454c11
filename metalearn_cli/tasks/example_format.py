"""What the examples of a task are, so that new ones can be made like them without its data: a run's task.json.

A file may be damaged, or from a stranger: every number in it is checked before it becomes the size of something.
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Spec, TaskDistribution
from metalearn_cli.tasks.capabilities import columns_of, preparation_of
from metalearn_cli.tasks.embedded import pictured
from metalearn_cli.tasks.likelihood import Bars, Categorical, Gaussian, SquaredError
from metalearn_cli.tasks.tones import Tones, tones_of

LARGEST, LARGEST_SIDE = 100_000_000, 10_000  # numbers of an example or of outputs; pixels


class StoredSpec(NamedTuple):
    """A `Spec` as it stands in a file: with the kind of the targets, and with a likelihood where it is not the one that
    this kind has had in every version."""

    input_shape: tuple[int, ...]
    outputs: int
    train_outputs: int
    kind: Literal["classes", "values"]
    padded: bool = False
    complete: bool = True
    base: int | None = None
    likelihood: Gaussian | None = None
    one_way: bool = False  # an earlier version did not tell it
    bars: Bars | None = None

    def omitted(self) -> tuple[str, ...]:
        """Name the keys that the file of such a spec does not have."""
        return tuple(name for name in ("likelihood", "one_way", "bars") if not getattr(self, name))

    @property
    def restored(self) -> Spec:
        likelihood = self.likelihood or self.bars or (Categorical() if self.kind == "classes" else SquaredError())
        return Spec(*self[:3], likelihood, *self[4:7], one_way=self.one_way)


class Weights(NamedTuple):
    """The network with weights that a run goes through, or whose features it has in place of pictures."""

    name: str  # as model.name has it
    sha256: str
    about: str
    licence: str


class Examples(NamedTuple):
    spec: StoredSpec
    preparation: Preparation | None  # of pictures, before a network with weights gets them
    columns: ColumnNames | None  # of a table
    tones: Tones | None = None  # of the training's pictures, for a run on ink
    weights: Weights | None = None

    def omitted(self) -> tuple[str, ...]:
        """Name the keys that the file of such examples does not have."""
        return ("weights",) if self.weights is None else ()


def weights_of(backbone: Backbone) -> Weights:
    return Weights(backbone.name, backbone.sha256, backbone.about, backbone.licence)


def examples_of(task: TaskDistribution, weights: Weights | None = None) -> Examples:
    spec, columns = task.spec, columns_of(task)
    if columns is None and len(spec.input_shape) == 1 and spec.kind == "values":
        columns = ColumnNames((), ())
    if columns is not None and not columns.features:  # of arrays
        features, targets = _names("x", spec.input_shape[0]), _names("y", spec.targets)
        columns = dataclasses.replace(columns, features=features, targets=targets)
    gaussian = spec.likelihood if isinstance(spec.likelihood, Gaussian) else None
    bars = spec.likelihood if isinstance(spec.likelihood, Bars) else None
    stored = StoredSpec(*spec[:3], spec.kind, *spec[4:7], gaussian, spec.one_way, bars)
    return Examples(stored, preparation_of(task), columns, weights=weights)


def examples_with_tones(task: TaskDistribution, weights: Weights | None) -> Examples:
    """The examples of a training, and on ink the tones of its pictures, which are read for it."""
    examples = examples_of(task, weights)
    is_of_ink = examples.preparation is not None and examples.preparation.ink is Ink.evened
    return examples._replace(tones=tones_of(pictured(task))) if is_of_ink else examples


def with_ink(examples: Examples, ink: Ink | None) -> Examples:
    """Return the examples with this treatment of ink; None: the run's own. Raises UserError for other pictures."""
    if ink is None:
        return examples
    preparation = examples.preparation
    if preparation is None or preparation.channels != 1:
        raise UserError(f"ink={ink.name} needs a run on grey pictures of ink, and this run has other examples")
    return examples._replace(preparation=dataclasses.replace(preparation, ink=ink))


def with_ink_of(examples: Examples, earlier: Examples) -> Examples:
    """Return the examples with the ink of these earlier ones of the same run: an older version left ink as it is."""
    if examples.preparation is None or earlier.preparation is None:
        return examples
    return examples._replace(preparation=dataclasses.replace(examples.preparation, ink=earlier.preparation.ink))


def _names(letter: str, number: int) -> tuple[str, ...]:
    return (letter,) if number == 1 else tuple(f"{letter}{place}" for place in range(1, number + 1))


def require_plausible(examples: Examples, path: Path) -> None:
    """Raises UserError where the numbers in the file at `path` do not fit together, or are not sizes."""
    spec = examples.spec
    try:
        for number in (*spec.input_shape, math.prod(spec.input_shape), spec.outputs, spec.train_outputs):
            _check_size("a size in spec", number, 1, LARGEST)
        if not spec.input_shape:
            raise ValueError("input_shape is []")
        density = spec.likelihood or spec.bars
        if density and (spec.kind == "classes" or spec.outputs % density.width):
            raise ValueError(f"a {type(density).__name__} has {spec.outputs} outputs for {spec.kind}")
        if examples.preparation is not None:
            _check_preparation(examples.preparation, None if examples.weights else spec)
        if examples.columns is not None:
            _check_columns(examples.columns, spec)
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): it is not whole, or of another version") from error


def _check_preparation(preparation: Preparation, spec: StoredSpec | None) -> None:
    """Raises ValueError for a preparation that no task has, and for pictures that are not of this spec."""
    for name, least in (("size", 1), ("channels", 1), ("margin", 0), ("by_way_of", 1)):
        if (value := getattr(preparation, name)) is not None:
            _check_size(name, value, least, LARGEST_SIDE)
    if (numbers := math.prod(preparation.shape)) > LARGEST:
        raise ValueError(f"a picture has {numbers} numbers, and {LARGEST} at most are expected")
    if preparation.resample.upper() not in Image.Resampling.__members__:
        raise ValueError(f"resample is {preparation.resample!r}")
    shape = preparation.shape if spec is None else spec.input_shape
    if preparation.channels not in (1, 3) or preparation.shape != shape:
        raise ValueError(f"pictures become {list(preparation.shape)}, and input_shape is {list(shape)}")


def _check_columns(columns: ColumnNames, spec: StoredSpec) -> None:
    features, targets = spec.input_shape, (spec.restored.targets,)
    x_scale, y_scale = columns.x_scale, columns.y_scale
    parts = [("x_scale", x_scale, features), ("y_scale", y_scale, targets), ("x_range", columns.x_range, features)]
    rows = [("features", columns.features, features), ("targets", columns.targets, targets)]
    rows += [(name, row, size) for name, part, size in parts if part for row in dataclasses.astuple(part)]
    for name, row, size in rows:
        if (len(row),) != size:
            raise ValueError(f"{name} has {list(row)}, and needs {list(size)} of them")
    if columns.labels and (spec.kind != "classes" or len(columns.labels) != spec.outputs):
        raise ValueError(f"there are {len(columns.labels)} labels for {spec.outputs} {spec.kind}")
    if not all(deviation > 0 for scale in (x_scale, y_scale) if scale for deviation in scale.deviation):
        raise ValueError("a deviation is not above 0")


def _check_size(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}, and a whole number from {least} to {most} is expected")
