"""What a run writes while it trains: metrics.jsonl, timing.jsonl, and TensorBoard scalars.

metrics.jsonl holds what is the same in every repetition, to the bit; wall-clock figures stand in timing.jsonl. One
object a line: `step` (meta-iterations done) and flat names such as `train/loss`.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from metalearn_cli.errors import UserError
from metalearn_cli.files import Log, read_bytes, write_durably
from metalearn_cli.metrics import is_finite

MOST_BYTES = 1 << 30  # of lines: those of some millions of steps


class Writers:
    def __init__(self, folder: Path | None, step: int, to_validate: bool) -> None:
        """Continue at `step`: what an interrupted run wrote after its last checkpoint is cut off.

        `to_validate`: the checkpoint was saved before the validation of its step, whose line goes too. Without a folder
        nothing is written: of several processes one does.
        """
        self._writes = folder is not None
        if folder is None:
            return
        self._metrics = _open_after_cut(folder / "metrics.jsonl", step, to_validate)
        self._timing = _open_after_cut(folder / "timing.jsonl", step, to_validate=False)
        self._tensorboard = SummaryWriter(folder, purge_step=step + 1)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def timing(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._timing.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(f"timing/{name}", value, step)

    def inner_steps(self, name: str, rows: list[dict[str, Any]]) -> None:
        """The test's mean after each inner step, as a curve over inner steps."""
        for row in rows:
            if self._writes and row["mean"] is not None:
                self._tensorboard.add_scalar(name, row["mean"], row["step"])

    def hparams(self, settings: dict[str, Any], results: dict[str, Any]) -> None:
        """A row of TensorBoard's table of runs: what was set, and the final test."""
        if not self._writes:
            return
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        name = f"test/{results['metric']}"
        tensorboard, to_summaries = cast(Any, self._tensorboard), cast(Any, hparams)  # neither has types
        for summary in to_summaries(plain, {name: 0.0}):
            tensorboard.file_writer.add_summary(summary)  # its own add_hparams would write into a folder beside
        if results["mean"] is not None:
            self._tensorboard.add_scalar(name, results["mean"], results["step"])

    def picture(self, step: int, name: str, drawn: Tensor) -> None:
        """drawn [H, W, 3] uint8."""
        if self._writes:
            self._tensorboard.add_image(name, drawn, step, dataformats="HWC")

    def sync(self) -> None:
        """Everything written so far is on disk: to be called before a checkpoint makes it final."""
        if not self._writes:
            return
        self._metrics.sync()
        self._timing.sync()
        self._tensorboard.flush()

    def close(self) -> None:
        if not self._writes:
            return
        self._metrics.close()
        self._timing.close()
        self._tensorboard.close()


class Lines(NamedTuple):
    """A .jsonl file."""

    objects: dict[int, dict[str, Any]]  # by the number of the line, counted from 1
    damage: list[str]  # a sentence for each line that is no object
    cut: str | None  # the same of a last line that a killed process has left unfinished


def parse_lines(path: Path) -> Lines:
    *whole, rest = read_bytes(path, MOST_BYTES).split(b"\n") if path.exists() else [b""]
    found = Lines({}, [], f"{path} line {len(whole) + 1} is cut off" if rest else None)
    for number, line in enumerate(whole, 1):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:  # also what is no UTF-8
            found.damage.append(f"{path} line {number} is not JSON ({error})")
            continue
        if isinstance(content, dict):
            found.objects[number] = content
        else:
            found.damage.append(f"{path} line {number} is no object")
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a killed process left unfinished is not one. Raises UserError for
    another damaged line."""
    lines = parse_lines(path)
    if lines.damage:
        raise UserError(f"{lines.damage[0]}: mend or remove the line")
    return list(lines.objects.values())


class Series(NamedTuple):
    """What is whole of a metrics.jsonl or timing.jsonl."""

    lines: list[dict[str, Any]]  # each with a step, the others finite numbers
    damage: list[str]  # a sentence for each line, or figure of one, that is left out


def read_series(path: Path, rate: str | None = None) -> Series:
    """With a `rate` each line must have it, above 0, and a later step than the line before it."""
    parsed = parse_lines(path)
    lines: list[dict[str, Any]] = []
    damage = [*parsed.damage]
    for number, line in parsed.objects.items():
        step, before = line.get("step"), lines[-1]["step"] if lines else 0
        where = f"{path} line {number}"
        if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step < 2**63:
            damage.append(f"{where} has {'no step' if 'step' not in line else f'the step {step!r}'}")
        elif step < before or (rate and step == before):
            damage.append(f"{where} has step {step} after step {before}")
        elif rate and not (is_finite(line.get(rate)) and line[rate] > 0):
            damage.append(f"{where} has {f'the {rate} {line[rate]!r}' if rate in line else f'no {rate}'}")
        elif "train/lr" in line and "train/loss" not in line:
            damage.append(f"{where} has train/lr and no train/loss")
        else:
            odd = sorted(name for name, value in line.items() if not is_finite(value))
            damage += [f"{where}: {name} is {line[name]!r}, and no finite number" for name in odd]
            lines.append({name: value for name, value in line.items() if name not in odd})
    return Series(lines, [*damage, *([parsed.cut] if parsed.cut else [])])


def read_timing(path: Path) -> Series:
    return read_series(path, "steps_per_second")


def training_seconds(timing: list[dict[str, Any]]) -> float | None:
    """By the rates in timing.jsonl: the few steps after its last line go unseen. None where it has no line."""
    steps = pairwise([0, *(line["step"] for line in timing)])
    taken = [(last - first) / line["steps_per_second"] for (first, last), line in zip(steps, timing, strict=True)]
    return sum(taken) if taken else None


def validations(folder: Path, metric: str) -> dict[int, float | None]:
    """The validation results of a run by their steps; None: not finite. Raises UserError for damaged lines."""
    lines = _whole_lines(folder / "metrics.jsonl")
    return {line["step"]: line.get(f"val/{metric}") for line in lines if any(name.startswith("val/") for name in line)}


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """All but a last one that a killed process left unfinished. Raises UserError for another damaged line."""
    cut, found = parse_lines(path).cut, read_series(path)
    if damage := [sentence for sentence in found.damage if sentence != cut]:
        raise UserError(f"{damage[0]}: mend or remove the line")
    return found.lines


def _open_after_cut(path: Path, step: int, to_validate: bool) -> Log:
    kept = [line for line in _whole_lines(path) if line["step"] <= step]
    if to_validate:
        kept = [line for line in kept if line["step"] < step or "train/loss" in line]  # of a validation none, or a part
    write_durably(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return Log(path)
