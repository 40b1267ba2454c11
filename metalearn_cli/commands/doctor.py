"""`metalearn doctor`: what this machine has for metalearn, what is wrong with it, and how to mend that."""

import fcntl
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from metalearn_cli.config import conf_folder
from metalearn_cli.datasets.paths import cache_root
from metalearn_cli.errors import UsageError, UserError
from metalearn_cli.system.console import show
from metalearn_cli.tasks.known_sets import about_sets
from metalearn_cli.version import __version__

PLACE = 12
HELP = """\
Check what is here, what is wrong, and how to mend it.

metalearn doctor

  metalearn doctor                                            in the folder and the environment that you train in
  METALEARN_DATA=/data metalearn doctor                       which data sets are found there, and how to get the others

Prints a line each on the versions of metalearn, Python and the packages; the optional parts; the device that
device=auto takes, and the threads; each data set, and whether it is packed; whether the cache and outputs can be
written and locked, and have space left; and three steps of a training. A line begins with ok, note (some things will
not work, or are slower) or WRONG (nothing that needs it works), and says what to do. Nothing is fetched or changed.

Exit codes: 0 nothing is wrong, 1 something is wrong.
"""

_NAME = "metalearn-cli"
_LEAST_SPACE = 1  # GB: a run's checkpoints and a packed set fit into it


class Finding(NamedTuple):
    level: str  # "ok"; "note": some things will not work; "WRONG": nothing that needs it works
    what: str
    sentence: str


def complete(words: list[str]) -> list[str]:
    return []


def run(arguments: list[str]) -> int:
    if arguments:
        raise UsageError(f"doctor takes no options, and {arguments[0]} was given")
    text, is_well = doctor()
    show(text)
    return 0 if is_well else 1


def doctor() -> tuple[str, bool]:
    """Examine everything -> what to show, and whether all is well."""
    from metalearn_cli.run_folder import runs

    findings = [
        *_versions(),
        _extras(),
        _device(),
        _threads(),
        *_data(),
        _folder("cache", cache_root(), "set METALEARN_CACHE to a folder that you can write to"),
        _folder("outputs", runs.OUTPUTS, "run metalearn in a folder that you can write to"),
        _step(),
    ]
    width = max(len(finding.what) for finding in findings)
    wrong = sum(finding.level == "WRONG" for finding in findings)
    lines = [f"{finding.level:<6} {finding.what:<{width}}  {finding.sentence}" for finding in findings]
    lines.append(f"{wrong} thing(s) to mend" if wrong else "nothing is wrong")
    return "\n".join(lines), not wrong


def _versions() -> Iterator[Finding]:
    place = f"{__version__} in {Path(__file__).parents[1]}, configuration in {conf_folder.conf_dir()}"
    yield Finding("ok", "metalearn", place)
    needed = SpecifierSet(importlib.metadata.metadata(_NAME)["Requires-Python"])
    yield _version("python", platform.python_version(), needed, "make an environment with such a one")
    for package in map(Requirement, importlib.metadata.requires(_NAME) or []):
        if package.marker is None or package.marker.evaluate({"extra": ""}):
            version = _version_of(package.name)
            yield _version(package.name, version, package.specifier, f"pip install '{package}'")


def _version(name: str, version: str | None, needed: SpecifierSet, remedy: str) -> Finding:
    if version is None:
        return Finding("WRONG", name, f"is not installed: {remedy}")
    if not needed.contains(version, prereleases=True):
        return Finding("WRONG", name, f"{version}, and metalearn needs {needed}: {remedy}")
    return Finding("ok", name, version)


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> Finding:
    """Say which of the optional parts are whole."""
    requirements = [Requirement(text) for text in importlib.metadata.requires(_NAME) or []]
    states = []
    for extra in importlib.metadata.metadata(_NAME).get_all("Provides-Extra") or []:
        of_extra = [r.name for r in requirements if r.marker is not None and r.marker.evaluate({"extra": extra})]
        lacking = [name for name in of_extra if name != _NAME and _version_of(name) is None]
        states.append(f"[{extra}] {'lacks ' + ', '.join(lacking) if lacking else 'is there'}")
    return Finding("ok", "extras", "; ".join(states))


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("ok", "device", f"device=auto takes cuda: {names}")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        remedy = "install one for CUDA, see https://pytorch.org/get-started"
        return Finding("note", "device", f"this machine has an NVIDIA driver, and torch is for the CPU alone: {remedy}")
    processor = torch.backends.cpu.get_cpu_capability()
    return Finding("ok", "device", f"device=auto takes cpu ({processor}); torch sees no GPU")


def _threads() -> Finding:
    import torch

    from metalearn_cli.system import ranks

    cores, threads = ranks.cores(), torch.get_num_threads()
    numbers = f"threads=null takes {threads}, and this process may use {cores} core(s)"
    if threads > cores:
        return Finding("note", "threads", f"{numbers}: more threads than cores slow a step down; set threads={cores}")
    if threads < cores and (number := os.environ.get("OMP_NUM_THREADS")):
        reason = f"OMP_NUM_THREADS={number} keeps it from the others; threads=N wins over it"
        return Finding("note", "threads", f"{numbers}: {reason}")
    return Finding("ok", "threads", numbers)


def _data() -> Iterator[Finding]:
    root = os.environ.get("METALEARN_DATA")
    if not root:
        need = "tasks of images need it, or task.root; sinusoids and their like need no data"
        yield Finding("note", "data", f"METALEARN_DATA is not set: {need}")
    elif not Path(root).expanduser().is_dir():
        remedy = "make it, or set it to the folder of the data sets"
        yield Finding("WRONG", "data", f"METALEARN_DATA={root} is not a folder: {remedy}")
    else:
        for name, known in about_sets().items():
            folder = known.folder_of()
            state = "packed" if known.packed_files() else "not packed yet, which its first run does"
            if known.is_in(folder):
                yield Finding("ok", name, f"found in {folder}, {state}")
            else:
                yield Finding("note", name, f"{known.title} is not in {folder}: {known.instructions}")


def _folder(name: str, folder: Path, remedy: str) -> Finding:
    """Try whether a run could write to `folder`, lock a file in it, and not fill it at once. Leaves nothing behind."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"\0" * 4096)
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = shutil.disk_usage(nearest).free / 1e9
    except OSError as error:
        return Finding("WRONG", name, f"{folder}: {error.strerror or error}; {remedy}")
    if free < _LEAST_SPACE:
        return Finding("note", name, f"{folder} has {free:.2f} GB left: a run stops when a checkpoint does not fit")
    return Finding("ok", name, f"{folder} can be written and locked, {free:,.0f} GB free")


def _step() -> Finding:
    """Make three training steps of MAML on sinusoids, as `train` makes them."""
    from metalearn_cli.config import assemble
    from metalearn_cli.config import job as jobs

    try:
        job = jobs.load_job([])
        learner = assemble.new_learner(job)
        began = time.perf_counter()
        for step in range(3):
            learner.step(job.task.gather(job.training_draw(step), learner.device), step)
        learner.check()
    except UserError as error:
        return Finding("WRONG", "training", str(error))
    seconds = time.perf_counter() - began
    return Finding("ok", "training", f"three steps of MAML on sinusoids on {learner.device}, {seconds:.2g} s")
