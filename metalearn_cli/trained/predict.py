"""`metalearn predict`: from a few labelled examples to predictions for others, with a trained run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import checked_fields
from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.console import show, tell
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.limits import Device, Threads
from metalearn_cli.system.text import as_csv, printable
from metalearn_cli.system.text_table import aligned
from metalearn_cli.tasks.example_format import with_ink
from metalearn_cli.tasks.tones import warnings
from metalearn_cli.trained import file_inputs, novelty_threshold
from metalearn_cli.trained.file_inputs import Points
from metalearn_cli.trained.loading import Stored, build_model, read_stored
from metalearn_cli.trained.model import AdaptedModel, Model
from metalearn_cli.trained.novelty import unlikeness

DIGITS = 6
OUTSIDE = "outside_training"

Cell = str | int | float | bool


@dataclass(frozen=True)
class Predict:
    """The keys of the command, besides algo.test_steps."""

    run: str
    support: str
    query: str
    out: str | None = None
    batch_norm: BatchNorm = BatchNorm.inductive
    device: Device | None = None  # None: the run's
    precision: Precision | None = None  # None: the run's
    threads: Threads | None = None
    allocator: Allocator = Allocator.tuned
    trust: bool = False
    ink: Ink | None = None  # None: the run's


class Rows(NamedTuple):
    """What is written: a column for each name."""

    names: list[str]
    cells: Sequence[Sequence[Cell]]  # of each query
    nested: list[Config]  # the same for JSON


def predict(given: Config) -> None:
    """Predict as the keys say; `given` are those of the command line, of the right types."""
    test_steps = given.pop("algo.test_steps", None)
    keys = Predict(**checked_fields(Predict, OmegaConf.create(given), ""))
    stored = read_stored(Path(keys.run), keys.trust)
    for note in stored.notes:
        tell(printable(note))
    device = keys.device or stored.config.get("device", "auto")
    precision = keys.precision or Precision[stored.config["precision"]]
    set_process(precision, keys.threads, keys.allocator, denormals_are_zero=stored.denormals_are_zero)
    stored = stored._replace(examples=with_ink(stored.examples, keys.ink))
    model = build_model(stored, keys.batch_norm, device, precision, test_steps, keys.trust)
    if model.net.init_stats() and keys.batch_norm is BatchNorm.transductive:
        tell("batch_norm=transductive: queries are normalised together, so that a prediction depends on its neighbours")
    rows = _of_images(keys, stored, model) if model.examples.columns is None else _of_table(keys, model)
    if keys.out is None:
        show(_aligned(rows))
        return
    text = json.dumps(rows.nested, indent=1) + "\n" if keys.out.lower().endswith(".json") else _csv(rows)
    write_durably(Path(keys.out), text.encode())
    show(f"{len(rows.cells)} predictions are in {keys.out}")


def _of_images(keys: Predict, stored: Stored, model: Model) -> Rows:
    support = file_inputs.labelled_images(keys.support)
    paths, notes = file_inputs.images(keys.query)
    for note in [*support.notes, *notes]:
        tell(printable(note))
    pixels, queries = model.read_bytes(support.paths), model.read_bytes(paths)
    predictor = model.adapt(pixels, support.labels)
    tell(printable(str(model.examples.preparation)))
    if (tones := model.examples.tones) is not None:
        for what, files, read in (("support", support.paths, pixels), ("query", paths, queries)):
            for warning in warnings(read * (1 / 255), tones, what, [str(file) for file in files]):
                tell(printable(warning))
    if predictor.note:
        tell(predictor.note)
    fewest = min(support.labels.count(name) for name in predictor.classes)
    threshold, sentence = novelty_threshold.threshold(stored, model, len(predictor.classes), fewest, keys.trust)
    tell(printable(sentence))
    if threshold is not None and stored.is_run:
        try:
            novelty_threshold.keep_threshold(stored, threshold)
        except OSError as error:
            tell(f"the threshold could not be kept for the next time ({error.strerror}: {error.filename})")
    outputs = predictor.outputs(queries)
    flags = None if threshold is None else (unlikeness(outputs) > threshold.value).tolist()
    return _classified([("path", printable(str(path))) for path in paths], predictor, outputs, "unlike", flags)


def _of_table(keys: Predict, model: Model) -> Rows:
    columns = model.examples.columns
    assert columns is not None  # whoever calls
    support, query = (file_inputs.points(getattr(keys, key), key, columns) for key in ("support", "query"))
    predictor = model.adapt(support.x, file_inputs.targets(support.table, columns))
    outside = _outside(model, support, query, columns)
    asked = [[round_off(value) for value in row] for row in query.x.tolist()]
    if predictor.classes:
        about = [("row", number) for number in range(1, len(asked) + 1)]
        return _classified(about, predictor, predictor.outputs(query.x), OUTSIDE, outside)
    found = [[round_off(value) for value in row] for row in predictor(query.x).tolist()]
    names = [*query.names, *columns.targets, *([] if outside is None else [OUTSIDE])]
    flags = [[]] * len(asked) if outside is None else [[flag] for flag in outside]
    cells = [[*x, *y, *flag] for x, y, flag in zip(asked, found, flags, strict=True)]
    return Rows(names, cells, [dict(zip(names, row, strict=True)) for row in cells])


def _outside(model: Model, support: Points, query: Points, columns: ColumnNames) -> list[bool] | None:
    """Which queries lie outside of the range of the training's inputs; None where that is not known. What lies outside
    is said, of the support too."""
    if columns.x_range is None:
        tell(
            "whether a query lies outside of the inputs of the training is not known: the run did not keep their range"
        )
        return None
    flags = []
    for what, points in (("support", support), ("query", query)):
        flags = model.outside(points.x).tolist()
        if any(flags):
            row = flags.index(True)
            ranges = zip(points.names, points.x[row].tolist(), columns.x_range.low, columns.x_range.high, strict=True)
            name, x, low, high = next(one for one in ranges if not one[2] <= one[1] <= one[3])
            tell(
                f"warning: {sum(flags)} of {len(flags)} points in {what} lie outside of the inputs of the training, "
                f"first row {row + 1} with {name}={x:g}, where those were from {low:g} to {high:g}: what is predicted "
                "from there is a guess"
            )
    return flags


def _classified(
    about: Sequence[tuple[str, Cell]], predictor: AdaptedModel, outputs: Tensor, flag: str, flags: list[bool] | None
) -> Rows:
    """A row for each query: what it is, its label, the probability of each class, and the flag, where it is known."""
    classes = [printable(str(name)) for name in predictor.classes]
    names = [about[0][0], "label", *(f"p_{name}" for name in classes)] + ([] if flags is None else [flag])
    cells: list[list[Cell]] = []
    nested: list[Config] = []
    for number, ((key, name), row) in enumerate(zip(about, outputs.double().softmax(-1), strict=True)):
        label = classes[int(row.argmax())]
        probabilities = [round_off(value) for value in row.tolist()]
        cells.append([name, label, *probabilities, *([] if flags is None else [flags[number]])])
        nested.append({key: name, "label": label, "probabilities": dict(zip(classes, probabilities, strict=True))})
        nested[-1] |= {} if flags is None else {flag: flags[number]}
    return Rows(names, cells, nested)


def round_off(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _csv(rows: Rows) -> str:
    return as_csv([rows.names, *([_word(cell) for cell in row] for row in rows.cells)])


def _word(cell: Cell) -> Cell:
    return str(cell).lower() if isinstance(cell, bool) else cell


def _aligned(rows: Rows) -> str:
    lines = [
        rows.names,
        *([f"{cell:.4g}" if isinstance(cell, float) else str(_word(cell)) for cell in row] for row in rows.cells),
    ]
    return "\n".join(aligned(lines, "l" * len(rows.names)))
