"""Find and read the runs that an argument of `compare` and `report` stands for.

Everything is read from their folders: neither data nor checkpoints are needed, and none of a run's classes is imported.
"""

import glob
import re
from pathlib import Path
from typing import NamedTuple

import numpy.typing as npt
from numpy import float64

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, flatten, run_keys
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.environment import ENVIRONMENT, Environment, read_environment
from metalearn_cli.run_folder.proof import checked_results
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.runs import stage_folders
from metalearn_cli.run_folder.series import Series, read_series, read_timing, training_seconds
from metalearn_cli.run_folder.unfinished import Unfinished, outcome_and_damage, unfinished, why_failed
from metalearn_cli.system.files import read_bytes, read_text
from metalearn_cli.system.limits import Natural
from metalearn_cli.system.typed_json import from_json

OF_A_COMMAND = {*GROUPS, *PRESETS, "hydra", "sweep", "run", "name"}  # a configuration may lack them
Values = npt.NDArray[float64]


class RunKeys(NamedTuple):
    """The keys of a configuration that every run has."""

    seed: int
    steps: Natural
    name: str | None = None
    log_every: Natural | None = None


class RunFolder(NamedTuple):
    """What a run or an evaluation has written."""

    folder: Path
    config: Config  # flat, {"algo.inner_lr": 0.1, ...}
    overrides: dict[str, str]  # what the command line gave
    environment: Environment
    results: Results | None  # None: it is not finished
    metrics: Series  # metrics.jsonl
    timing: Series  # timing.jsonl
    damage: list[str]  # a sentence for what is missing, or is left out since it is not as a run writes it
    given_words: list[str]  # what the command line gave, word for word
    unfinished: Unfinished | None  # None: it has been tested after all its steps

    @property
    def is_evaluation(self) -> bool:
        return self.folder.parent.name == "eval"


def read_run(folder: Path) -> RunFolder:
    """Read a run. Raises UserError where its figures cannot be trusted; what only makes them poorer is in `damage`."""
    config = flatten(load_config(folder / "config.yaml"))
    from_json(RunKeys, config, folder / "config.yaml")
    environment = read_environment(folder) if (folder / ENVIRONMENT).exists() else Environment()
    results, changed = checked_results(folder, config)
    given_words, damage = _read_overrides(folder / "overrides.txt", {*config, *run_keys()})
    metrics, timing = read_series(folder / "metrics.jsonl"), read_timing(folder / "timing.jsonl")
    damage += [*changed, *metrics.damage, *timing.damage, *outcome_and_damage(folder)[1]]
    overrides = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in given_words)}
    is_tested = results is not None and results.steps >= config["steps"]
    last = max(metrics.last, timing.last)
    open_end = None if is_tested else unfinished(folder, config, given_words, environment, last)
    run = RunFolder(folder, config, overrides, environment, results, metrics, timing, damage, given_words, open_end)
    return run._replace(damage=[*damage, *missing(run)])


def stage_seconds(folder: Path) -> float:
    """The seconds for which the stages of a run were trained."""
    timings = [read_timing(stage / "timing.jsonl") for stage in stage_folders(folder)]
    return sum(training_seconds(timing) or 0.0 for timing in timings)


def _read_overrides(path: Path, keys: set[str]) -> tuple[list[str], list[str]]:
    """Read what the command line gave for some of these keys, and a sentence for each line that is something else."""
    try:
        lines = read_text(path).split("\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error

    def is_override(line: str) -> bool:
        key = line.lstrip("+").partition("=")[0] if "=" in line else ""
        return re.split("[./]", key)[0] in OF_A_COMMAND or any(f"{known}.".startswith(f"{key}.") for known in keys)

    damage = [
        f"{path} line {number} is not key=value" + (" of a run" if "=" in line else "")
        for number, line in enumerate(lines, 1)
        if line and not is_override(line)
    ]
    return list(filter(is_override, lines)), damage


def missing(run: RunFolder) -> list[str]:
    """Return a sentence for each file that a run of this kind has, and for lines that are gone at the end of a log."""
    logs = () if run.is_evaluation or run.results is None else ("metrics.jsonl", "timing.jsonl")
    names = ("overrides.txt", ENVIRONMENT, *logs)
    damage = [f"{run.folder / name} is missing" for name in names if not (run.folder / name).exists()]
    if run.results is None or not (log_every := run.config.get("log_every")):
        return damage
    last = run.results.steps // log_every * log_every
    for name, series in zip(logs, (run.metrics, run.timing), strict=False):
        if (run.folder / name).exists() and series.last < last:
            damage.append(f"{run.folder / name} ends at step {series.last}, and the run's last line was of step {last}")
    return damage


class Found(NamedTuple):
    """The folders that an argument stands for, in the order of the numbers in their names."""

    runs: list[Path]
    failed: dict[str, str]  # the jobs that failed before they had a configuration, each with its sentence


def find_runs(argument: str) -> Found:
    """Find the runs that this argument stands for. Raises UserError where there is none."""
    path = Path(argument)
    if (path / "config.yaml").is_file():
        return Found([path], {})
    if is_pattern := not path.exists() and glob.has_magic(argument):
        inside = [Path(match) for match in glob.glob(argument)]  # noqa: PTH207 - it may be absolute
    else:
        inside = [path] if _is_job(path) else list(path.iterdir())
    jobs = [path for path in inside if _is_job(path)]
    if is_pattern:  # which may stand for sweeps too
        others = [path for path in inside if path.is_dir() and path not in jobs]
        jobs += [job for sweep in others for job in sweep.iterdir() if _is_job(job)]
    jobs.sort(key=_natural)
    begun = [job for job in jobs if (job / "config.yaml").is_file()]
    failed = {str(job): _failure(job) for job in jobs if job not in begun}
    if not begun and failed:
        named = "; ".join(f"{job} failed: {sentence}" for job, sentence in list(failed.items())[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise UserError(f"{argument} has no run that began: {named}{more}")
    if not begun and is_pattern:
        raise UserError(f"no folder of a run is like {argument}")
    if not begun:
        raise UserError(f"{argument} is not the folder of a run or of a sweep: there is no config.yaml in it")
    return Found(begun, failed)


def _is_job(folder: Path) -> bool:
    """Whether it is the folder of a run, or of one that failed at once."""
    return any((folder / name).is_file() for name in ("config.yaml", "outcome.json", "train.log"))


def _failure(job: Path) -> str:
    if (sentence := why_failed(job)) is not None:
        return sentence
    lines = read_bytes(job / "train.log").decode(errors="replace").split("\n") if (job / "train.log").exists() else []
    spoken = [line for line in lines if line.strip()]
    return f"it did not begin; {f'the last it said: {spoken[-1]}' if spoken else 'nothing was said'}"


def _natural(path: Path) -> list[str | float]:
    """Sort seed=2 before seed=10."""
    return [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", str(path)))]
