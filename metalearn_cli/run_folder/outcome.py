"""How a job of a sweep ended: its outcome.json."""

from dataclasses import dataclass
from pathlib import Path

from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.records import read_record, write_record

FILE = "outcome.json"
NOT_ENDED = "it did not come to its end"  # what outcome.json says of a job while it runs


@dataclass(frozen=True)
class Outcome:
    launch: str = ""  # the command that started the job
    number: int = 0  # of the job in its sweep
    values: str = ""  # of the keys that were swept
    stopped: int | None = None  # the signal that stopped it
    pruned: str | None = None  # at which step its search gave it up, and why
    failed: str | None = None  # the sentence of its failure
    metric: str | None = None  # of the test; None: there was none
    mean: float | None = None
    ci95: float | None = None
    inner_steps: int | None = None
    shortfall: str | None = None  # how the test falls short of `expect`
    diverged: bool | None = None  # whether it failed since a loss was not finite

    def omitted(self) -> tuple[str, ...]:
        """The keys that the file of such an outcome does not have."""
        figures = ("metric", "mean", "ci95", "inner_steps", "shortfall") if self.metric is None else ()
        return (*figures, *(("diverged",) if self.diverged is None else ()))


def write_outcome(folder: Path, outcome: Outcome) -> None:
    write_record(folder / FILE, outcome)


def read_outcome(folder: Path) -> Outcome | None:
    """Read what became of the job in this folder; None where nothing says it, or nothing that can be read."""
    try:
        return read_record(Outcome, folder / FILE) if (folder / FILE).exists() else None
    except UserError:  # `damage_of_outcome` says so
        return None


def damage_of_outcome(folder: Path) -> list[str]:
    """Return the sentence on an outcome.json that cannot be read, where there is one."""
    try:
        if (folder / FILE).exists():
            read_record(Outcome, folder / FILE)
    except UserError as error:
        return [str(error)]
    return []
