"""What a run writes while it trains: metrics.jsonl, timing.jsonl, and TensorBoard scalars.

metrics.jsonl holds what is the same in every repetition, to the bit; wall-clock figures stand in timing.jsonl. One
object a line: `step` (meta-iterations done) and flat names such as `train/loss`.
"""

import io
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.run_folder.results import Results, StepResult
from metalearn_cli.run_folder.series import read_lines
from metalearn_cli.system.files import Log, write_durably


class Writers:
    """The writers of one run. Without a folder they write nothing: of several processes one does."""

    def __init__(self, folder: Path | None, step: int, to_validate: bool) -> None:
        """Continue at `step`: what an interrupted run wrote after its last checkpoint is cut off. `to_validate`: the
        checkpoint was saved before the validation of its step, whose line goes too."""
        self._writes = folder is not None
        if folder is None:
            return
        self._metrics = _open_after_cut(folder / "metrics.jsonl", step, to_validate)
        self._timing = _open_after_cut(folder / "timing.jsonl", step, to_validate=False)
        self._tensorboard = SummaryWriter(folder, purge_step=step + 1)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if self._writes:
            self._write(self._metrics, "", step, values)

    def timing(self, step: int, values: dict[str, float]) -> None:
        if self._writes:
            self._write(self._timing, "timing/", step, values)

    def _write(self, log: Log, above: str, step: int, values: dict[str, float]) -> None:
        log.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{above}{name}", value, step)

    def inner_steps(self, name: str, rows: tuple[StepResult, ...]) -> None:
        """Write the test's mean after each inner step, as a curve over inner steps."""
        for row in rows:
            if self._writes and row.mean is not None:
                self._tensorboard.add_scalar(name, row.mean, row.step)

    def hparams(self, settings: Config, results: Results) -> None:
        """Write a row of TensorBoard's table of runs: what was set, and the final test."""
        if not self._writes:
            return
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        name = f"test/{results.metric}"
        tensorboard, to_summaries = cast(Any, self._tensorboard), cast(Any, hparams)  # neither has types
        for summary in to_summaries(plain, {name: 0.0}):
            tensorboard.file_writer.add_summary(summary)  # its own add_hparams would write into a folder beside
        if results.mean is not None:
            self._tensorboard.add_scalar(name, results.mean, results.step)

    def picture(self, step: int, name: str, drawn: Image.Image) -> None:
        if self._writes:
            self._tensorboard.add_image(name, np.asarray(drawn), step, dataformats="HWC")

    def sync(self) -> None:
        """Put all that was written on the disk: to be called before a checkpoint makes it final."""
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


def _open_after_cut(path: Path, step: int, to_validate: bool) -> Log:
    """Open a log behind the lines up to this step."""
    kept = io.StringIO()
    for line in read_lines(path):
        is_whole = line["step"] < step or "train/loss" in line or not to_validate  # a validation has no loss
        if line["step"] <= step and is_whole:
            kept.write(json.dumps(line) + "\n")
    write_durably(path, kept.getvalue().encode())
    return Log(path)
