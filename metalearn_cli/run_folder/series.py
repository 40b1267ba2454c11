"""Read what a run has logged: metrics.jsonl and timing.jsonl."""

import io
import json
from array import array
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import open_bytes
from metalearn_cli.system.typed_json import Json, is_finite

_BLOCK = 1 << 18  # bytes of a log that are read at once
MOST_BYTES = 1 << 30  # of a log: the lines of some millions of steps


class Damage:
    """What is not whole of a .jsonl file that is being read."""

    def __init__(self) -> None:
        self.lines: list[str] = []  # a sentence for each line, or figure of one, that is left out
        self.cut: str | None = None  # one for a last line that a killed process has left unfinished


Content = Json | str  # of a line: an object, or why it is none


def each_block(path: Path, damage: Damage) -> Iterator[tuple[int, list[Content]]]:
    """The lines of a .jsonl file, some thousands at a time, with the number of the first, counted from 1."""
    before = 0
    with open_bytes(path, MOST_BYTES) if path.exists() else io.BytesIO() as file:
        while block := file.readlines(_BLOCK):
            if not block[-1].endswith(b"\n"):
                damage.cut = f"{path} line {before + len(block)} is cut off"
                block.pop()
            yield before + 1, _parsed(block)
            before += len(block)


def each_line(path: Path, damage: Damage) -> Iterator[tuple[int, Json]]:
    """The objects of a .jsonl file with the numbers of their lines; what is not an object goes to `damage`."""
    for first, block in each_block(path, damage):
        yield from _objects(path, first, block, damage)


def _objects(path: Path, first: int, block: list[Content], damage: Damage) -> Iterator[tuple[int, Json]]:
    for number, content in enumerate(block, first):
        if isinstance(content, dict):
            yield number, content
        else:
            damage.lines.append(f"{path} line {number} is {content}")


def _parsed(block: list[bytes]) -> list[Content]:
    try:
        together: list[Any] = json.loads(b"[" + b",".join(block) + b"]")  # several times as fast as one by one
    except (ValueError, RecursionError):  # also what is not UTF-8
        together = []
    if len(together) == len(block) and all(isinstance(content, dict) for content in together):
        return together
    return [_parsed_alone(line) for line in block]


def _parsed_alone(line: bytes) -> Content:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return content if isinstance(content, dict) else "not an object"


def read_lines(path: Path, first: int = 0) -> list[Json]:
    """The objects of a .jsonl file from number `first` on, without a last line that a killed process left unfinished.
    Raises UserError for another damaged line."""
    damage = Damage()
    lines = [line for _, line in islice(each_line(path, damage), first, None)]
    if damage.lines:
        raise UserError(f"{damage.lines[0]}: mend or remove the line")
    return lines


def _whole(
    path: Path, lines: Iterator[tuple[int, Json]], damage: Damage, before: int = 0, rate: str | None = None
) -> Iterator[Json]:
    """What is whole of the lines after step `before` of a metrics.jsonl or timing.jsonl: each has a step, and its other
    values are finite numbers. With a `rate` each must have it, above 0, and a later step than the line before it."""
    for number, line in lines:
        if (objection := _objection(line, before, rate)) is not None:
            damage.lines.append(f"{path} line {number} has {objection}")
            continue
        before = line["step"]
        for name in [name for name, value in line.items() if not is_finite(value)]:
            damage.lines.append(f"{path} line {number}: {name} is {line.pop(name)!r}, and no finite number")
        yield line


def _objection(line: Json, before: int, rate: str | None) -> str | None:
    """What such a line must not have after step `before`; None: it is as a run writes it."""
    step = line.get("step")
    if type(step) is not int or not 1 <= step < 2**63:
        return "no step" if "step" not in line else f"the step {step!r}"
    if step < before or (rate and step == before):
        return f"step {step} after step {before}"
    if rate and not (is_finite(line.get(rate)) and line[rate] > 0):
        return f"the {rate} {line[rate]!r}" if rate in line else f"no {rate}"
    return "train/lr and no train/loss" if "train/lr" in line and "train/loss" not in line else None


class Curve(NamedTuple):
    """A figure over meta-iterations."""

    steps: "array[int]"
    values: "array[float]"


Columns = dict[str, tuple[list[int], list[float]]]  # the steps and values of each figure


class Series(NamedTuple):
    """What is whole of a metrics.jsonl or timing.jsonl."""

    curves: dict[str, Curve]  # by the name of the figure
    last: int  # the step of the last line; 0: there is none
    damage: list[str]  # a sentence for each line, or figure of one, that is left out


def read_series(path: Path, rate: str | None = None) -> Series:
    """Numbers alone are kept: a file may have millions of lines."""
    damage, curves, last = Damage(), dict[str, Curve](), 0
    for first, block in each_block(path, damage):
        if (columns := _columns(block, last, rate)) is None:  # one of the lines is to be named
            lines = list(_whole(path, _objects(path, first, block, damage), damage, last, rate))
            columns = _by_name(lines)
        steps, _ = columns.pop("step", ([], []))
        last = steps[-1] if steps else last
        for name, (steps, values) in columns.items():
            curve = curves.setdefault(name, Curve(array("q"), array("d")))
            curve.steps.extend(steps)
            curve.values.extend(values)
    return Series(curves, last, [*damage.lines, *([damage.cut] if damage.cut else [])])


def _by_name(lines: list[Any]) -> Columns:
    """The steps and values of each figure; each line has `step`, which is a figure too."""
    names: set[str] = set().union(*lines)
    rows = {name: [line for line in lines if name in line] for name in names}
    return {name: ([line["step"] for line in own], [line[name] for line in own]) for name, own in rows.items()}


def _columns(block: list[Any], before: int, rate: str | None) -> Columns | None:
    """The figures of lines as a run writes them, by all lines together, which is faster; None where one is not so."""
    if not all(type(line) is dict and "step" in line for line in block):
        return None
    columns = _by_name(block)
    steps, _ = columns.get("step", ([], []))
    start = before or (0 if rate else 1)
    if set(map(type, steps)) - {int} or any(b < a + bool(rate) for a, b in pairwise([start, *steps, 2**63 - 1])):
        return None
    figures = [values for name, (_, values) in columns.items() if name != "step"]
    if any(set(map(type, values)) != {float} or not all(map(isfinite, values)) for values in figures):
        return None
    _, rates = columns.get(rate or "", ([], []))
    if rate and (len(rates) < len(block) or min(rates, default=1.0) <= 0):
        return None
    return None if any("train/lr" in line and "train/loss" not in line for line in block) else columns


_RATE = "steps_per_second"


def read_timing(path: Path) -> Series:
    return read_series(path, _RATE)


def training_seconds(timing: Series) -> float | None:
    """The seconds of a training by the rates in timing.jsonl, less the few after its last line; None without a line."""
    if (curve := timing.curves.get(_RATE)) is None:
        return None
    before = chain([0], curve.steps)
    return sum((step - one) / rate for one, step, rate in zip(before, curve.steps, curve.values, strict=False))


def validations(folder: Path, metric: str) -> dict[int, float | None]:
    """The validation results of a run by their steps; None: not finite. Raises UserError for damaged lines."""
    lines = whole_lines(folder / "metrics.jsonl")
    return {line["step"]: line.get(f"val/{metric}") for line in lines if any(name.startswith("val/") for name in line)}


def whole_lines(path: Path) -> Iterator[Json]:
    """All but a last one that a killed process left unfinished. At the end UserError for another damaged line."""
    damage = Damage()
    yield from _whole(path, each_line(path, damage), damage)
    if damage.lines:
        raise UserError(f"{damage.lines[0]}: mend or remove the line")
