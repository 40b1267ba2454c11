"""`metalearn predict`: from a few labelled examples to predictions for others, with a trained run."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import checked_fields
from metalearn_cli.datasets.columns import ColumnNames
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.datasets.paths import expand
from metalearn_cli.datasets.vector_file import read_vectors
from metalearn_cli.errors import UserError
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.console import show, tell, tell_each
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.files import write_durably
from metalearn_cli.system.limits import Device, Threads
from metalearn_cli.system.text import as_csv, printable
from metalearn_cli.system.text_table import aligned
from metalearn_cli.tasks.example_format import with_ink
from metalearn_cli.tasks.tones import warnings
from metalearn_cli.trained import file_inputs, novelty_threshold
from metalearn_cli.trained.by_pretrained import predict_by_pretrained
from metalearn_cli.trained.file_inputs import TablePoints
from metalearn_cli.trained.loading import Stored, build_model, read_stored
from metalearn_cli.trained.model import AdaptedModel, Model
from metalearn_cli.trained.novelty import probabilities, unlikeness

DIGITS = 6
OUTSIDE = "outside_training"


@dataclass(frozen=True)
class Predict:
    """The keys of the command, besides algo.test_steps and those of the network."""

    support: str
    query: str
    unlabelled: str | None = None
    run: str | None = None  # None: a network that comes with weights
    out: str | None = None
    batch_norm: BatchNorm = BatchNorm.inductive
    device: Device | None = None  # None: the run's
    precision: Precision | None = None  # None: the run's
    threads: Threads | None = None
    allocator: Allocator = Allocator.tuned
    trust: bool = False
    ink: Ink | None = None  # None: the run's


def predict(values: Config) -> None:
    """Predict as these keys of the command line say, which are of the right types."""
    network = {key.removeprefix("model."): values.pop(key) for key in list(values) if key.startswith("model.")}
    test_steps = values.pop("algo.test_steps", None)
    keys = Predict(**checked_fields(Predict, OmegaConf.create(values), ""))
    if keys.run is None:
        set_process(Precision.fp32, keys.threads, keys.allocator)
        files, classes, judged, notes = predict_by_pretrained(keys.support, keys.query, network)
        tell_each(notes)
        flags = None if judged.unlike is None else judged.unlike.tolist()
        _put(keys, _flagged(_classified(files, classes, judged.probabilities), "unlike", flags))
        return
    stored = read_stored(Path(keys.run), keys.trust)
    tell_each(stored.notes)
    device = keys.device or stored.config.get("device", "auto")
    precision = keys.precision or Precision[stored.config["precision"]]
    set_process(precision, keys.threads, keys.allocator, denormals_are_zero=stored.denormals_are_zero)
    stored = stored._replace(examples=with_ink(stored.examples, keys.ink))
    model = build_model(stored, keys.batch_norm, device, precision, test_steps, keys.trust)
    if model.algo.transductive_head:
        tell("the run's algorithm predicts all queries together, so that a prediction depends on its neighbours")
    if model.net.init_stats() and keys.batch_norm is BatchNorm.transductive:
        tell("batch_norm=transductive: queries are normalised together, so that a prediction depends on its neighbours")
    columns = model.examples.columns
    if columns is not None:
        rows = _of_table(keys, model, columns)
    elif model.examples.preparation is None and len(model.examples.spec.input_shape) == 1:
        rows = _of_vectors(keys, stored, model)
    else:
        rows = _of_images(keys, stored, model)
    _put(keys, rows)


def _put(keys: Predict, rows: list[Config]) -> None:
    """Print the rows, or write them into a file."""
    flat = list(map(_flat, rows))
    names = list(flat[0])
    if keys.out is None:
        cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in flat]
        show("\n".join(aligned([names, *cells], "l" * len(names))))
        return
    is_json = keys.out.lower().endswith(".json")
    text = json.dumps(rows, indent=1) + "\n" if is_json else as_csv([names, *(row.values() for row in flat)])
    write_durably(Path(keys.out), text.encode())
    show(f"{len(rows)} predictions are in {keys.out}")


def _flat(row: Config) -> Config:
    """A row for a table: a column for each probability, and true or false in small letters."""
    cells: Config = {}
    for key, value in row.items():
        cells |= {f"p_{name}": chance for name, chance in value.items()} if isinstance(value, dict) else {key: value}
    return {key: str(cell).lower() if isinstance(cell, bool) else cell for key, cell in cells.items()}


def _of_images(keys: Predict, stored: Stored, model: Model) -> list[Config]:
    support = file_inputs.labelled_images(keys.support)
    paths, notes = file_inputs.images(keys.query)
    tell_each([*support.notes, *notes])
    pixels, queries = model.read_bytes(support.paths), model.read_bytes(paths)
    others = None if keys.unlabelled is None else model.read_bytes(file_inputs.images(keys.unlabelled)[0])
    predictor = model.adapt(pixels, support.labels, others)
    tell_each([str(model.examples.preparation)])
    if (tones := model.examples.tones) is not None:
        for what, files, images in (("support", support.paths, pixels), ("query", paths, queries)):
            tell_each(warnings(images * (1 / 255), tones, what, list(map(str, files))))
    return _judged(keys, stored, predictor, support.labels, predictor.outputs(queries), list(map(str, paths)))


def _of_vectors(keys: Predict, stored: Stored, model: Model) -> list[Config]:
    support, query = (
        read_vectors(expand(getattr(keys, key)), key, labelled=key == "support") for key in ("support", "query")
    )
    (expected,) = model.examples.spec.input_shape
    for file in (support, query):
        if (numbers := file.x.shape[1]) != expected:
            raise UserError(f"{file.path} has vectors of {numbers} numbers, and the run was trained on {expected}")
    labels = [support.labels.words[number] for number in support.labels.number.tolist()]
    others = None
    if keys.unlabelled is not None:
        others = read_vectors(expand(keys.unlabelled), "unlabelled", labelled=False).vectors()
    predictor = model.adapt(support.vectors(), labels, others)
    outputs = predictor.outputs(query.vectors())
    return _judged(keys, stored, predictor, labels, outputs, None)


def _judged(
    keys: Predict, stored: Stored, predictor: AdaptedModel, labels: list[str], outputs: Tensor, files: list[str] | None
) -> list[Config]:
    """A row for each query, in these files or in the rows of one, by its outputs [Q, way]: its label, probabilities,
    and where that is known, whether it looks unlike every class. The user is told by what it is known."""
    model, fewest = predictor.model, min(labels.count(name) for name in predictor.classes)
    threshold, sentence = novelty_threshold.threshold_for(stored, model, len(predictor.classes), fewest, keys.trust)
    temperature = (threshold and threshold.temperature) or predictor.temperature
    tell_each([*filter(None, [predictor.note]), sentence])
    if threshold is not None and stored.is_run:
        try:
            novelty_threshold.keep_threshold(stored, threshold)
        except OSError as error:
            tell(f"the threshold could not be kept for the next time ({error.strerror}: {error.filename})")
    flags = None if threshold is None else (unlikeness(outputs) > threshold.value).tolist()
    rows = _classified(files, list(map(str, predictor.classes)), probabilities(outputs.double(), temperature))
    return _flagged(rows, "unlike", flags)


def _of_table(keys: Predict, model: Model, columns: ColumnNames) -> list[Config]:
    support, query = (file_inputs.points(getattr(keys, key), key, columns) for key in ("support", "query"))
    predictor = model.adapt(support.x, file_inputs.targets(support.table, columns), keys.unlabelled)
    outside = _outside({"support": support, "query": query}, columns)
    if predictor.classes:
        chances = predictor(query.x).double()
        return _flagged(_classified(None, list(map(str, predictor.classes)), chances), OUTSIDE, outside)
    out = predictor.outputs(query.x)
    (values, deviations), interval = predictor.values(out), predictor.interval(out)
    names, parts = [*query.names, *columns.targets], [query.x, values.numpy()]
    if deviations is not None and interval is not None:
        names += [f"{target}_{what}" for what in ("deviation", "low", "high") for target in columns.targets]
        parts += [part.numpy() for part in (deviations, *interval)]
    rows = np.concatenate(parts, 1).tolist()
    return _flagged([dict(zip(names, map(round_off, row), strict=True)) for row in rows], OUTSIDE, outside)


def _outside(points: dict[str, TablePoints], columns: ColumnNames) -> list[bool] | None:
    """Which points of the last table lie outside of the range of the training's inputs; None where that is not known.
    Such points are named, in each table."""
    if columns.x_range is None:
        tell(
            "whether a query lies outside of the inputs of the training is not known: the run did not keep their range"
        )
        return None
    low, high = columns.x_range.low, columns.x_range.high
    flags: list[bool] = []
    for what, (x, names, _) in points.items():
        outside = (x < low) | (x > high)  # [n, d]
        flags = list(map(any, outside.tolist()))
        for row, i in np.argwhere(outside)[:1].tolist():
            tell(
                f"warning: {sum(flags)} of {len(flags)} points in {what} lie outside of the inputs of the training, "
                f"first row {row + 1} with {names[i]}={x[row, i]:g}, where those were from {low[i]:g} to {high[i]:g}: "
                "what is predicted from there is a guess"
            )
    return flags


def _classified(files: list[str] | None, classes: list[str], chances: Tensor) -> list[Config]:
    """A row for each query, in these files or in the rows of one: what it is, its label, and the probability of each
    class, chances [Q, way]."""
    names = list(map(printable, classes))
    queries = range(1, len(chances) + 1) if files is None else map(printable, files)
    rows = []
    for query, row in zip(queries, chances.tolist(), strict=True):
        label, values = names[row.index(max(row))], dict(zip(names, map(round_off, row), strict=True))
        rows.append({"row" if files is None else "path": query, "label": label, "probabilities": values})
    return rows


def _flagged(rows: list[Config], name: str, flags: list[bool] | None) -> list[Config]:
    """Add a flag to each row, where it is known."""
    return rows if flags is None else [row | {name: flag} for row, flag in zip(rows, flags, strict=True)]


def round_off(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
