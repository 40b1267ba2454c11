"""The machine, the versions and the commit that a run was made with."""

import platform
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from metalearn_cli.config.conf_folder import GROUPS
from metalearn_cli.run_folder.records import read_record, write_record
from metalearn_cli.system.limits import Count, FileName
from metalearn_cli.system.text import printable
from metalearn_cli.system.typed_json import read_value
from metalearn_cli.version import __version__

FILE = "environment.json"
Word = str | None


@dataclass(frozen=True)
class Environment:
    """What else decides the result: versions, the machine, the state of the source, and the data. A field is None where
    an earlier version did not record it."""

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


def environment_here(ranks: int, choices: dict[str, str], data: str) -> Environment:
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
    )


def read_environment(folder: Path) -> Environment:
    """Read the environment of the run in this folder. Raises UserError where it is missing, damaged or changed."""
    environment = read_record(Environment, folder / FILE)
    for group, choice in environment.choices.items():
        if group in GROUPS:  # of which a path is made
            read_value(FileName, choice, folder / FILE, f"choices.{group}")
    return environment


def write_environment(folder: Path, environment: Environment) -> None:
    write_record(folder / FILE, environment)


def other_versions(folder: Path, ranks: int = 1) -> list[str]:
    """Return a sentence for each version or machine that the run was started with and that is another one now."""
    if not (folder / FILE).exists():
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
    """git's answer in this folder, None where it is not a checkout or git is not installed."""
    try:
        answer = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
