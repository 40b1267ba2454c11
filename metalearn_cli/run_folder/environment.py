"""What a run is made with, and what is left to its machine: environment.json, choices.json and task.json."""

import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metalearn_cli.config.conf_folder import GROUPS
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.run_folder.records import read_record
from metalearn_cli.system.limits import Count, FileName, Natural
from metalearn_cli.system.text import printable
from metalearn_cli.system.typed_json import read_value
from metalearn_cli.tasks.example_format import Examples, Weights, require_plausible
from metalearn_cli.version import __version__

ENVIRONMENT, CHOICES, TASK = "environment.json", "choices.json", "task.json"
Word = str | None


@dataclass(frozen=True)
class Origin:
    """What a run began with in place of drawn values, by the names of parameters and batch-norm statistics."""

    init: str  # the run or the file
    sha256: str  # of the checkpoint, or of the file
    step: Natural | None  # of the checkpoint
    taken: tuple[str, ...]
    other_shape: tuple[str, ...]  # each with both shapes
    left: tuple[str, ...]  # what only the file has
    drawn: tuple[str, ...]  # what the run has drawn


@dataclass(frozen=True)
class Environment:
    """The versions, the machine, the source and the data. None: an earlier version did not record it."""

    metalearn: Word = None
    python: Word = None
    torch: Word = None
    platform: Word = None
    processor: Word = None
    cpu_capability: Word = None
    ranks: Count = 1
    gpu: Word = None
    git_commit: Word = None
    git_dirty: bool | None = None
    command: tuple[str, ...] = ()
    choices: dict[str, str] = field(default_factory=dict)  # the chosen yaml of each group
    data: Word = None  # their fingerprint
    origin: Origin | None = None  # None: all was drawn
    network: Weights | None = None  # that came with weights

    def omitted(self) -> tuple[str, ...]:
        """Name the keys that the file of such a run does not have."""
        return tuple(name for name in ("origin", "network") if getattr(self, name) is None)


def environment_here(ranks: int, choices: dict[str, str], data: str, network: Weights | None = None) -> Environment:
    """Describe this machine and this version."""
    source = Path(__file__).parents[1]
    tracked = _git(source, "ls-files", "__init__.py")  # not the repository that a virtual environment stands in
    commit = _git(source, "rev-parse", "HEAD") if tracked else None
    return Environment(
        metalearn=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        processor=processor(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        ranks=ranks,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        git_commit=commit,
        git_dirty=bool(_git(source, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        command=tuple(sys.argv),
        choices=choices,
        data=data,
        network=network,
    )


def read_environment(folder: Path) -> Environment:
    """Read the environment of the run in this folder. Raises UserError where it is missing, damaged or changed."""
    environment = read_record(Environment, folder / ENVIRONMENT)
    for group, choice in environment.choices.items():
        if group in GROUPS:  # a path is made of it
            read_value(FileName, choice, folder / ENVIRONMENT, f"choices.{group}")
    return environment


def other_versions(folder: Path, ranks: int) -> list[str]:
    """Return a sentence for each version or machine that is not the one that the run was started with."""
    if not (folder / ENVIRONMENT).exists():
        return []
    then, now = read_environment(folder), environment_here(ranks, {}, "")
    return [
        f"this run was started with {key} {printable(str(getattr(then, key)))}, and goes on with {getattr(now, key)}: "
        "its bits may differ"
        for key in ("metalearn", "torch", "processor", "cpu_capability", "gpu", "ranks")
        if getattr(then, key) != getattr(now, key)
    ]


def processor() -> str:
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor()


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git in this folder; None where it is not a checkout or git is not installed."""
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


@dataclass(frozen=True)
class Choices:
    """What is chosen for a run on its machine. A field that is None is left to the next command."""

    denormals_are_zero: bool = False  # numbers below the least normal one; an earlier version kept them
    threads: Count | None = None
    ranks: Count = 1
    convolution: Convolution | None = None  # the fastest one on a GPU
    tasks_per_chunk: Count | None = None
    memory: str | None = None  # the bound that tasks_per_chunk keeps
    peak_memory: int | None = None  # bytes, as it was measured
    remat: bool | None = None  # whether inner steps are computed again in the backward pass

    def omitted(self) -> tuple[str, ...]:
        """Name the keys that the file of such choices does not have."""
        of_memory = ("tasks_per_chunk", "memory", "peak_memory", "remat") if self.tasks_per_chunk is None else ()
        unknown = [name for name in ("threads", "convolution") if getattr(self, name) is None]
        return (*of_memory, *unknown)


def read_choices(folder: Path) -> Choices:
    """Read what was chosen for the run in this folder; nothing where it has not begun."""
    return read_record(Choices, folder / CHOICES) if (folder / CHOICES).exists() else Choices()


def read_examples(folder: Path) -> Examples:
    """Read what the examples of a run are. Raises UserError where the file is missing, damaged or changed."""
    examples = read_record(Examples, folder / TASK)
    require_plausible(examples, folder / TASK)
    return examples
