"""The folders that an argument of `compare` and `report` stands for: of a run, of a sweep, or of all like a pattern."""

import glob
import re
from pathlib import Path
from typing import NamedTuple

from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.unfinished import why_failed
from metalearn_cli.system.files import read_bytes


class Found(NamedTuple):
    """What an argument stands for, in the order of the numbers in their names."""

    runs: list[Path]
    failed: dict[str, str]  # the jobs that failed before they had a configuration, each with its sentence


def find_runs(argument: str) -> Found:
    """Raises UserError where there is no run."""
    path = Path(argument)
    if (path / "config.yaml").is_file():
        return Found([path], {})
    if is_pattern := not path.exists() and glob.has_magic(argument):
        inside = [Path(match) for match in glob.glob(argument)]  # noqa: PTH207 - it may be absolute
    else:
        inside = [path] if _is_job(path) else list(path.iterdir())
    jobs = [one for one in inside if _is_job(one)]
    if is_pattern:  # which may stand for sweeps too
        jobs += [job for one in inside if one.is_dir() and one not in jobs for job in one.iterdir() if _is_job(job)]
    jobs.sort(key=_natural)
    found = [job for job in jobs if (job / "config.yaml").is_file()]
    failed = {str(job): _failure(job) for job in jobs if job not in found}
    if not found and failed:
        named = "; ".join(f"{job} failed: {sentence}" for job, sentence in list(failed.items())[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise UserError(f"{argument} has no run that began: {named}{more}")
    if not found and is_pattern:
        raise UserError(f"no folder of a run is like {argument}")
    if not found:
        raise UserError(f"{argument} is not the folder of a run or of a sweep: there is no config.yaml in it")
    return Found(found, failed)


def _is_job(folder: Path) -> bool:
    """A run, or what a sweep or a start leaves of one that failed at once."""
    return any((folder / name).is_file() for name in ("config.yaml", "outcome.json", "train.log"))


def _failure(job: Path) -> str:
    if (sentence := why_failed(job)) is not None:
        return sentence
    lines = read_bytes(job / "train.log").decode(errors="replace").split("\n") if (job / "train.log").exists() else []
    said = [line for line in lines if line.strip()]
    return f"it did not begin; {f'the last it said: {said[-1]}' if said else 'nothing was said'}"


def _natural(path: Path) -> list[str | float]:
    """seed=2 before seed=10."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", str(path)))]
