"""Tell how a run or a job stands, by its outcome.json, log and checkpoints: its failure, its step, how to go on."""

import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import checkpoint, runs, scored_parts
from metalearn_cli.run_folder.environment import Environment
from metalearn_cli.run_folder.lock import holder
from metalearn_cli.run_folder.records import read_record
from metalearn_cli.system.files import read_bytes
from metalearn_cli.system.ranks import ALONE, Ranks
from metalearn_cli.tasks.metrics import Headline

OUTCOME = "outcome.json"
NOT_ENDED = "it did not come to its end"  # what outcome.json says of a job while it runs


@dataclass(frozen=True)
class Outcome:
    """How a job of a sweep ended: its outcome.json."""

    launch: str = ""  # the command that started the job
    number: int = 0  # of the job in its sweep
    values: str = ""  # of the keys that were swept
    stopped: int | None = None  # the signal that stopped it
    pruned: str | None = None  # at which step its search gave it up, and why
    failed: str | None = None  # the sentence of its failure
    metric: Headline | None = None  # of the test; None: there was none
    mean: float | None = None
    ci95: float | None = None
    inner_steps: int | None = None
    shortfall: str | None = None  # how the test falls short of `expect`
    diverged: bool | None = None  # whether it failed since a loss was not finite

    def omitted(self) -> tuple[str, ...]:
        """Name the keys that the file of such an outcome does not have."""
        figures = ("metric", "mean", "ci95", "inner_steps", "shortfall") if self.metric is None else ()
        return (*figures, *(("diverged",) if self.diverged is None else ()))


def read_outcome(folder: Path) -> Outcome | None:
    """Read what became of the job in this folder; None where nothing says it, or nothing that can be read."""
    return outcome_and_damage(folder)[0]


def outcome_and_damage(folder: Path) -> tuple[Outcome | None, list[str]]:
    """Read the same, with the sentence on an outcome.json that cannot be read."""
    try:
        return read_record(Outcome, folder / OUTCOME) if (folder / OUTCOME).exists() else None, []
    except UserError as error:
        return None, [str(error)]


class Unfinished(NamedTuple):
    """How far a run is, and what happened to it."""

    step: int  # the last one that is known to be done
    steps: int
    wrote: float  # when anything of it was written last, in seconds since 1970
    saved: int | None  # the step of the newest checkpoint
    holder: str | None  # the process that works on it
    failed: str | None  # why
    pruned: str | None  # why a search gave it up, and when
    command: str  # what goes on with it

    @property
    def state(self) -> str:
        if self.holder:
            return "running"
        return "failed" if self.failed else "pruned" if self.pruned else "not finished"

    @property
    def progress(self) -> str:
        return f"step {self.step:,} of {self.steps:,}"

    @property
    def sentence(self) -> str:
        """Say what a reader should know of it, without the name of the run."""
        wrote = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.wrote))
        if self.holder:
            return f"running, {self.progress}, last wrote {wrote} ({self.holder})"
        why = f"failed at {self.progress}: {self.failed}" if self.failed else f"not finished, {self.progress}"
        if self.state == "pruned":
            return f"{self.pruned}, of {self.steps:,}; can be continued with: {self.command}"
        then = f"goes on after step {self.saved:,}" if self.saved else "nothing is saved: begins again"
        return f"{why}; last wrote {wrote}; {then} with: {self.command}"


def unfinished(folder: Path, config: Config, overrides: list[str], environment: Environment, step: int) -> Unfinished:
    """Say how far a run is whose logs end at this step."""
    checkpoints = folder / "checkpoints"
    newest = checkpoint.list_newest_first(checkpoints)
    saved = checkpoint.step_of(newest[0]) if newest else None
    written = [*folder.iterdir(), *checkpoints.glob("*")]
    at_work, outcome = holder(folder), read_outcome(folder)
    return Unfinished(
        max(step, saved or 0),
        config["steps"],
        max(path.stat().st_mtime for path in written if path.is_file()),
        saved,
        at_work,
        None if at_work else why_failed(folder),
        outcome.pruned if outcome else None,
        command(folder, config, overrides, Ranks(size=environment.ranks, local_size=environment.ranks)),
    )


def why_failed(folder: Path) -> str | None:
    """Say why a job or a run failed, by its outcome.json or its log; None where it was stopped or killed."""
    outcome = read_outcome(folder)
    if outcome is not None and outcome.failed not in (None, NOT_ENDED):
        return outcome.failed
    log = folder / "train.log"
    text = read_bytes(log).decode(errors="replace") if log.exists() else ""
    last_record = _RECORD_START.split(text)[-1]
    if not last_record.startswith("failed: "):
        return None
    return last_record.strip().split("\n")[-1].strip().removeprefix("failed: ")  # of a traceback the last line


_RECORD_START = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", re.MULTILINE)


def command(folder: Path, config: Config, overrides: list[str], ranks: Ranks) -> str:
    """The command that goes on with what was begun in a folder, given where its outputs/ is."""
    if folder.parent.name == "eval":
        return shlex.join(["metalearn", "eval", *overrides])
    parts = folder.absolute().parts
    inside = parts[len(parts) - parts[::-1].index("outputs") :] if "outputs" in parts else (folder.name,)
    return _train_command(config.get("name") or "/".join(inside), overrides, ranks)


def how_to_continue(folder: Path, overrides: list[str], ranks: Ranks = ALONE) -> str:
    """Say what was saved, and the command that goes on from it."""
    paths = checkpoint.list_newest_first(folder / "checkpoints")
    saved = f"saved step {checkpoint.step_of(paths[0])}" if paths else "nothing was trained yet"
    if (folder / scored_parts.FOLDER).exists():
        saved += " and a part of its test"
    return f"{saved}; continue with: {_train_command(str(folder.relative_to(runs.OUTPUTS)), overrides, ranks)}"


def _train_command(name: str, overrides: list[str], ranks: Ranks) -> str:
    """The command that trains this run alone, also where it is a job of a sweep."""
    kept = [override for override in overrides if not override.startswith(("name=", "sweep=", "hydra"))]
    return shlex.join([*launcher(ranks), "train", *kept, f"name={name}"])


def launcher(ranks: Ranks) -> list[str]:
    """The words that start as many ranks; on several machines the user adds where they meet."""
    if ranks.size == 1:
        return ["metalearn"]
    machines = [f"--nnodes={ranks.size // ranks.local_size}"] if ranks.size > ranks.local_size else []
    return ["torchrun", *machines, f"--nproc-per-node={ranks.local_size}", "-m", "metalearn_cli"]
