"""What was chosen for a run on its machine: its choices.json."""

from dataclasses import dataclass
from pathlib import Path

from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.run_folder.records import read_record, write_record
from metalearn_cli.system.limits import Count

FILE = "choices.json"


@dataclass(frozen=True)
class Choices:
    """A field that is None is left to the next command."""

    denormals_are_zero: bool = False  # numbers below the least normal one; an earlier version kept them
    threads: Count | None = None
    ranks: Count = 1
    convolution: Convolution | None = None  # the fastest one on a GPU
    tasks_per_chunk: Count | None = None
    memory: str | None = None  # the bound that tasks_per_chunk keeps
    peak_memory: int | None = None  # bytes, as it was measured
    remat: bool | None = None  # whether inner steps are computed again in the backward pass

    def omitted(self) -> tuple[str, ...]:
        """The keys that the file of such choices does not have."""
        of_memory = ("tasks_per_chunk", "memory", "peak_memory", "remat") if self.tasks_per_chunk is None else ()
        unknown = [name for name in ("threads", "convolution") if getattr(self, name) is None]
        return (*of_memory, *unknown)


def read_choices(folder: Path) -> Choices:
    """Read what was chosen for the run in this folder; nothing is where it has not begun."""
    path = folder / FILE
    return read_record(Choices, path) if path.exists() else Choices()


def write_choices(folder: Path, choices: Choices) -> None:
    write_record(folder / FILE, choices)
