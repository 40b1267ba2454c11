"""Read what a run has logged: metrics.jsonl and timing.jsonl."""

import io
import json
from array import array
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import open_bytes, read_bytes, write_durably
from metalearn_cli.system.typed_json import Json, is_finite

MOST_BYTES = 1 << 30  # of a log: the lines of some millions of steps
CUT_OFF = "is cut off"  # what is wrong with a last line that a killed process left unfinished


def each_line(path: Path) -> Iterator[tuple[str, Json | str]]:
    """Yield the place of each line in a .jsonl file, and the object in it, or what is wrong with the line."""
    with open_bytes(path, MOST_BYTES) if path.exists() else io.BytesIO() as file:
        for number, line in enumerate(file, 1):
            try:
                content = json.loads(line) if line.endswith(b"\n") else CUT_OFF
            except (ValueError, RecursionError) as error:  # also what is not UTF-8
                content = f"is not JSON ({error})"
            else:
                content = content if isinstance(content, dict) or content is CUT_OFF else "is not an object"
            yield f"{path} line {number}", content


def _whole_lines(path: Path, damage: list[str], rate: str | None = None) -> Iterator[Json]:
    """Yield what is whole of a metrics.jsonl or timing.jsonl: lines with a step and finite numbers; with a `rate` above
    0 in each, and steps that rise. Each other line, or figure of one, becomes a sentence in `damage`."""
    before = 0
    for place, line in each_line(path):
        if isinstance(line, str) or (objection := _objection(line, before, rate)) is not None:
            damage.append(f"{place} {line if isinstance(line, str) else objection}")
            continue
        before = line["step"]
        for name in [name for name, value in line.items() if not is_finite(value)]:
            damage.append(f"{place}: {name} is {line.pop(name)!r}, and no finite number")
        yield line


def _objection(line: Json, before: int, rate: str | None) -> str | None:
    """Say what is wrong with a line after step `before`; None: it is as a run writes it."""
    step = line.get("step")
    if type(step) is not int or not 0 <= step < 2**63:
        return "has no step" if "step" not in line else f"has the step {step!r}"
    if step < before or (rate and step == before):
        return f"has step {step} after step {before}"
    if rate and not (is_finite(line.get(rate)) and line[rate] > 0):
        return f"has the {rate} {line[rate]!r}" if rate in line else f"has no {rate}"
    return "has train/lr and no train/loss" if "train/lr" in line and "train/loss" not in line else None


class Curve(NamedTuple):
    """A figure over meta-iterations."""

    steps: "array[int]"
    values: "array[float]"


class Series(NamedTuple):
    """What is whole of a metrics.jsonl or timing.jsonl."""

    curves: dict[str, Curve]  # by the name of the figure
    last: int  # the step of the last line; 0: there is none
    damage: list[str]  # a sentence for each line, or figure of one, that is left out


def read_series(path: Path, rate: str | None = None) -> Series:
    """Read the figures of a log. Only numbers are kept: a file may have millions of lines."""
    damage: list[str] = []
    curves: dict[str, Curve] = defaultdict(lambda: Curve(array("q"), array("d")))
    step = 0
    for line in _whole_lines(path, damage, rate):
        step = line.pop("step")
        for name, value in line.items():
            curves[name].steps.append(step)
            curves[name].values.append(value)
    return Series(dict(curves), step, damage)


_RATE = "steps_per_second"


def read_timing(path: Path) -> Series:
    return read_series(path, _RATE)


def training_seconds(timing: Series) -> float | None:
    """The seconds of a training by the rates in timing.jsonl, less the few after its last line; None without a line."""
    if (curve := timing.curves.get(_RATE)) is None:
        return None
    before = chain([0], curve.steps)
    return sum((step - start) / rate for start, step, rate in zip(before, curve.steps, curve.values, strict=False))


def validations(folder: Path, metric: str) -> dict[int, float | None]:
    """The validation results of a run by their steps; None: not finite. Raises UserError for a damaged line."""
    lines = read_lines(folder / "metrics.jsonl")
    return {line["step"]: line.get(f"val/{metric}") for line in lines if any(name.startswith("val/") for name in line)}


def read_lines(path: Path) -> Iterator[Json]:
    """Yield the lines of a metrics.jsonl but for a last one that is cut off. Raises UserError for another damage."""
    damage: list[str] = []
    yield from _whole_lines(path, damage)
    if damage and not damage[0].endswith(CUT_OFF):
        raise UserError(f"{damage[0]}: mend or remove the line")


def drop_half_line(path: Path) -> bool:
    """Remove a last line that a killed process left unfinished -> whether there was one."""
    content = read_bytes(path, MOST_BYTES) if path.exists() else b""
    if is_cut_off := bool(content) and not content.endswith(b"\n"):
        write_durably(path, content[: content.rfind(b"\n") + 1])
    return is_cut_off
