"""The machine, the versions and the commit that a run was made with."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from metalearn_cli.run_folder.records import read_json
from metalearn_cli.system.text import printable
from metalearn_cli.version import __version__


def other_versions(folder: Path, ranks: int = 1) -> list[str]:
    """A sentence for each version or machine that the run was started with and that is another one now."""
    path = folder / "environment.json"
    if not path.exists():
        return []
    old, new = {"ranks": 1, **read_json(path)}, environment(ranks)
    return [
        f"this run was started with {key} {printable(str(old.get(key)))}, and goes on with {new[key]}: its bits may "
        "differ"
        for key in ("metalearn", "torch", "processor", "cpu_capability", "gpu", "ranks")
        if old.get(key) != new[key]
    ]


def environment(ranks: int) -> dict[str, Any]:
    """What else decides the result: versions, the machine, and the state of the source."""
    source = Path(__file__).parents[1]
    tracked = _git(source, "ls-files", "__init__.py")  # not the repository that a virtual environment stands in
    commit = _git(source, "rev-parse", "HEAD") if tracked else None
    return {
        "metalearn": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ranks": ranks,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": commit,
        "git_dirty": bool(_git(source, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "command": sys.argv,
    }


def _processor() -> str:
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
