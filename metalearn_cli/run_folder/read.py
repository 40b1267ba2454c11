"""The folders that `compare` and `report` are given: of a run, of an evaluation, of a sweep, or a pattern in quotes.

Everything is read from the folders: neither data nor checkpoints are wanted, and nothing of a run's own is imported.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy.typing as npt
from numpy import float64

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, flatten, run_keys
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.environment import FILE as ENVIRONMENT
from metalearn_cli.run_folder.environment import Environment, read_environment
from metalearn_cli.run_folder.outcome import damage_of_outcome
from metalearn_cli.run_folder.proof import checked_results
from metalearn_cli.run_folder.results import Results
from metalearn_cli.run_folder.series import Series, read_series, read_timing
from metalearn_cli.run_folder.unfinished import Unfinished, unfinished
from metalearn_cli.system.files import read_text
from metalearn_cli.system.limits import Natural
from metalearn_cli.system.typed_json import from_json

OF_A_COMMAND = {*GROUPS, *PRESETS, "hydra", "sweep", "run", "name"}  # that a configuration need not have
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
    given: list[str]  # what the command line gave, word for word
    unfinished: Unfinished | None  # None: it has been tested after all its steps

    @property
    def is_evaluation(self) -> bool:
        return self.folder.parent.name == "eval"


def read_run(folder: Path) -> RunFolder:
    """Raises UserError where the figures cannot be trusted; what only makes them poorer is in `damage`."""
    config = flatten(load_config(folder / "config.yaml"))
    from_json(RunKeys, config, folder / "config.yaml")
    environment = read_environment(folder) if (folder / ENVIRONMENT).exists() else Environment()
    results, changed = checked_results(folder, config)
    given, damage = _given(folder / "overrides.txt", {*config, *run_keys()})
    metrics, timing = read_series(folder / "metrics.jsonl"), read_timing(folder / "timing.jsonl")
    damage += [*changed, *metrics.damage, *timing.damage, *damage_of_outcome(folder)]
    overrides = {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in given)}
    left = None
    if results is None or results.steps < config["steps"]:
        left = unfinished(folder, config, given, environment, max(metrics.last, timing.last))
    run = RunFolder(folder, config, overrides, environment, results, metrics, timing, damage, given, left)
    return run._replace(damage=[*damage, *missing(run)])


def _given(path: Path, keys: set[str]) -> tuple[list[str], list[str]]:
    """What the command line gave for some of these keys, and a sentence for each line that is nothing of the kind."""
    try:
        lines = read_text(path).split("\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error

    def is_given(line: str) -> bool:
        key = line.lstrip("+").partition("=")[0] if "=" in line else ""
        return re.split("[./]", key)[0] in OF_A_COMMAND or any(f"{one}.".startswith(f"{key}.") for one in keys)

    damage = [
        f"{path} line {number} is not key=value" + (" of a run" if "=" in line else "")
        for number, line in enumerate(lines, 1)
        if line and not is_given(line)
    ]
    return list(filter(is_given, lines)), damage


def missing(run: RunFolder) -> list[str]:
    """A sentence for each file that a run of this kind has, and for lines that were cut from the end of a finished
    one's."""
    logs = () if run.is_evaluation else ("metrics.jsonl", "timing.jsonl")
    names = ("overrides.txt", ENVIRONMENT, *(logs if run.results is not None else ()))
    found = [f"{run.folder / name} is missing" for name in names if not (run.folder / name).exists()]
    if run.results is None or run.is_evaluation or not (every := run.config.get("log_every")):
        return found
    last = run.results.steps // every * every
    for name, series in (("metrics.jsonl", run.metrics), ("timing.jsonl", run.timing)):
        if (run.folder / name).exists() and series.last < last:
            found.append(f"{run.folder / name} ends at step {series.last}, and the run's last line was of step {last}")
    return found
