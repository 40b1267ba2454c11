"""A run that was not tested to its end: how far it is, why it failed, and how it goes on."""

import re
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.run_folder import checkpoint, runs, scored_parts
from metalearn_cli.run_folder.environment import Environment
from metalearn_cli.run_folder.lock import holder
from metalearn_cli.run_folder.outcome import NOT_ENDED, read_outcome
from metalearn_cli.system.files import read_bytes
from metalearn_cli.system.ranks import ALONE, Ranks


class Unfinished(NamedTuple):
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
        """What a reader should know of it, without the name of the run."""
        wrote = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.wrote))
        if self.holder:
            return f"running, {self.progress}, last wrote {wrote} ({self.holder})"
        why = f"failed at {self.progress}: {self.failed}" if self.failed else f"not finished, {self.progress}"
        if self.state == "pruned":
            return f"{self.pruned}, of {self.steps:,}; can be continued with: {self.command}"
        on = f"goes on after step {self.saved:,}" if self.saved else "nothing is saved: begins again"
        return f"{why}; last wrote {wrote}; {on} with: {self.command}"


def unfinished(folder: Path, config: Config, given: list[str], environment: Environment, step: int) -> Unfinished:
    """`step` is that of the last line of its logs, and `given` what the command line gave."""
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
        command(folder, config, given, environment.ranks),
    )


def command(folder: Path, config: Config, given: list[str], ranks: int = 1) -> str:
    """What goes on with a run, from the folder that holds outputs/."""
    kept = [one for one in given if not one.startswith(("name=", "sweep=", "hydra"))]  # of a sweep: this job alone
    parts = folder.absolute().parts
    if folder.parent.name == "eval":
        return shlex.join(["metalearn", "eval", *given])
    inside = parts[len(parts) - parts[::-1].index("outputs") :] if "outputs" in parts else (folder.name,)
    name = config.get("name") or "/".join(inside)
    start = ["torchrun", f"--nproc-per-node={ranks}", "-m", "metalearn_cli"] if ranks > 1 else ["metalearn"]
    return shlex.join([*start, "train", *kept, f"name={name}"])


def why_failed(folder: Path) -> str | None:
    """The sentence of a job's or a run's failure, from its outcome.json or its log; None where it did not fail: it was
    stopped or killed."""
    outcome = read_outcome(folder)
    if outcome is not None and outcome.failed not in (None, NOT_ENDED):
        return outcome.failed
    return _last_failure(folder / "train.log")


_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.*)")


def _last_failure(log: Path) -> str | None:
    """Why the log ends: where its last record says that something failed, of a traceback the last line."""
    lines = read_bytes(log).decode(errors="replace").splitlines() if log.exists() else []
    starts = [number for number, line in enumerate(lines) if _RECORD.fullmatch(line)]
    if not starts:
        return None
    record = [_RECORD.sub(r"\1", lines[starts[-1]]), *filter(None, lines[starts[-1] + 1 :])]
    if not record[0].startswith("failed: "):
        return None
    return record[-1].strip().removeprefix("failed: ")


def how_to_continue(folder: Path, overrides: list[str], ranks: Ranks = ALONE) -> str:
    """What was saved, and the command that goes on from it."""
    paths = checkpoint.list_newest_first(folder / "checkpoints")
    saved = f"saved step {checkpoint.step_of(paths[0])}" if paths else "nothing was trained yet"
    if (folder / scored_parts.FOLDER).exists():
        saved += " and a part of its test"
    rest = [override for override in overrides if not override.startswith("name=")]
    command = shlex.join([*launcher(ranks), "train", *rest, f"name={folder.relative_to(runs.OUTPUTS)}"])
    return f"{saved}; continue with: {command}"


def launcher(ranks: Ranks) -> list[str]:
    """How as many ranks are started; on several machines the user adds where they meet."""
    if ranks.size == 1:
        return ["metalearn"]
    machines = [f"--nnodes={ranks.size // ranks.local_size}"] if ranks.size > ranks.local_size else []
    return ["torchrun", *machines, f"--nproc-per-node={ranks.local_size}", "-m", "metalearn_cli"]
