"""What a run writes while it trains: metrics.jsonl, timing.jsonl, and TensorBoard scalars.

metrics.jsonl holds what is the same in every repetition, to the bit; wall-clock figures stand in timing.jsonl. One
object a line: `step` (meta-iterations done) and flat names such as `train/loss`.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from metalearn_cli.errors import UserError
from metalearn_cli.files import Log, write_durably


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
        self._timing = _open_after_cut(folder / "timing.jsonl", step, to_validate)
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that a killed process left unfinished is not one."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise UserError(f"{path} has a line that is not JSON ({error}): mend or remove the file") from error


def validations(folder: Path, metric: str) -> dict[int, float | None]:
    """The validation results of a run by their steps; None: not finite."""
    lines = read_lines(folder / "metrics.jsonl")
    return {line["step"]: line.get(f"val/{metric}") for line in lines if any(name.startswith("val/") for name in line)}


def training_seconds(folder: Path) -> float | None:
    """By the rates in timing.jsonl: the few steps after its last line go unseen. None where it has no line."""
    lines = read_lines(folder / "timing.jsonl")
    steps = pairwise([0, *(line["step"] for line in lines)])
    taken = [(last - first) / line["steps_per_second"] for (first, last), line in zip(steps, lines, strict=True)]
    return sum(taken) if taken else None


def _open_after_cut(path: Path, step: int, to_validate: bool) -> Log:
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if to_validate:
        kept = [line for line in kept if line["step"] < step or "val/loss" not in line]
    write_durably(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return Log(path)
