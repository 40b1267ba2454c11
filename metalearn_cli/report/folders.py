"""The folders that `compare` and `report` are given: of a run, of an evaluation, of a sweep, or a pattern in quotes.

Everything is read from the folders: neither data nor checkpoints are wanted, and nothing of a run's own is imported.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
from numpy import float64

from metalearn_cli import runs
from metalearn_cli.catalog import GROUPS, PRESETS, flatten, run_keys
from metalearn_cli.checked import check_config, check_environment, check_episodes
from metalearn_cli.errors import UserError
from metalearn_cli.files import read_text
from metalearn_cli.mistakes import nearest
from metalearn_cli.progress import Console, Progress
from metalearn_cli.records import arrays_of
from metalearn_cli.report.found import find
from metalearn_cli.report.unfinished import Unfinished, damage_of_outcome, unfinished
from metalearn_cli.writers import Series, read_series, read_timing

Values = npt.NDArray[float64]

_OF_A_COMMAND = {*GROUPS, *PRESETS, "hydra", "sweep", "run", "name"}  # that a configuration need not have


class RunFolder(NamedTuple):
    """What a run or an evaluation has written."""

    folder: Path
    config: dict[str, Any]  # flat, {"algo.inner_lr": 0.1, ...}
    overrides: dict[str, str]  # what the command line gave
    environment: dict[str, Any]
    results: dict[str, Any] | None  # None: it is not finished
    metrics: Series  # metrics.jsonl
    timing: Series  # timing.jsonl
    damage: list[str]  # a sentence for what is missing, or is left out since it is not as a run writes it
    given: list[str]  # what the command line gave, word for word
    unfinished: Unfinished | None  # None: it has been tested after all its steps

    @property
    def is_evaluation(self) -> bool:
        return self.folder.parent.name == "eval"


class Part(NamedTuple):
    """The runs of one argument that differ in their seed at most."""

    name: str
    runs: list[RunFolder]  # by seed

    @property
    def settings(self) -> str:
        """What decides the result, but for the seed."""
        return repr(sorted(configuration(self.runs[0]).items()))


def split_arguments(arguments: list[str], keys: tuple[str, ...], command: str) -> tuple[list[str], dict[str, str]]:
    """Folders, and the options among `keys`; a folder's name may hold an equal sign, as those of a sweep's jobs do."""
    folders: list[str] = []
    options: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key in keys and equals:
            if key in options:
                raise UserError(f"{key}= is given twice")
            options[key] = value
        elif equals and re.fullmatch(r"[a-z_]+", key) and not Path(argument).exists():
            raise UserError(f"{command} has no key {key}{nearest(key, list(keys))}")
        else:
            folders.append(argument)
    return folders, options


def read(folder: Path) -> RunFolder:
    """Raises UserError where the figures cannot be trusted; what only makes them poorer is in `damage`."""
    config = flatten(runs.load_config(folder / "config.yaml"))
    check_config(folder / "config.yaml", config)
    environment = _json(folder / "environment.json") or {}
    check_environment(folder / "environment.json", environment)
    results, changed = runs.read_results(folder, config)
    given, damage = _given(folder / "overrides.txt", {*config, *run_keys()})
    metrics, timing = read_series(folder / "metrics.jsonl"), read_timing(folder / "timing.jsonl")
    damage += [*changed, *metrics.damage, *timing.damage, *damage_of_outcome(folder)]
    overrides = {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in given)}
    left = None
    if results is None or results.get("steps", config["steps"]) < config["steps"]:
        left = unfinished(folder, config, given, environment, max(metrics.last, timing.last))
    run = RunFolder(folder, config, overrides, environment, results, metrics, timing, damage, given, left)
    return run._replace(damage=[*damage, *missing(run)])


def _json(path: Path) -> dict[str, Any] | None:
    return runs.read_json(path) if path.exists() else None


def _given(path: Path, keys: set[str]) -> tuple[list[str], list[str]]:
    """What the command line gave for some of these keys, and a sentence for each line that is nothing of the kind."""
    try:
        lines = read_text(path).split("\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error

    def is_given(line: str) -> bool:
        key = line.lstrip("+").partition("=")[0] if "=" in line else ""
        return re.split("[./]", key)[0] in _OF_A_COMMAND or any(f"{one}.".startswith(f"{key}.") for one in keys)

    damage = [
        f"{path} line {number} is no key=value" + (" of a run" if "=" in line else "")
        for number, line in enumerate(lines, 1)
        if line and not is_given(line)
    ]
    return list(filter(is_given, lines)), damage


def missing(run: RunFolder) -> list[str]:
    """A sentence for each file that a run of this kind has, and for lines that were cut from the end of a finished
    one's."""
    logs = () if run.is_evaluation else ("metrics.jsonl", "timing.jsonl")
    names = ("overrides.txt", "environment.json", *(logs if run.results is not None else ()))
    found = [f"{run.folder / name} is missing" for name in names if not (run.folder / name).exists()]
    if run.results is None or run.is_evaluation or not (every := run.config.get("log_every")):
        return found
    last = int(run.results.get("steps") or 0) // every * every
    for name, series in (("metrics.jsonl", run.metrics), ("timing.jsonl", run.timing)):
        if (run.folder / name).exists() and series.last < last:
            found.append(f"{run.folder / name} ends at step {series.last}, and the run's last line was of step {last}")
    return found


def episodes(run: RunFolder) -> dict[str, npt.NDArray[Any]]:
    """episodes.npz: one value for each test episode, and after each inner step."""
    path = run.folder / "episodes.npz"
    arrays = arrays_of(path)
    check_episodes(path, arrays, run.results or {})
    return arrays


def parts(argument: str, one_of_each: bool = True) -> list[Part]:
    """The runs of an argument, those that differ in their seed alone together.

    Raises UserError where two are alike in their seed too; without `one_of_each` such runs are parts of their own.
    """
    return group(find(argument).runs, argument, one_of_each)


def group(folders: list[Path], argument: str, one_of_each: bool) -> list[Part]:
    groups: dict[str, list[RunFolder]] = {}
    with Progress(Console(), f"reading {argument}", len(folders), passing=True) as progress:
        for number, run in enumerate(map(read, folders), 1):
            groups.setdefault(Part("", [run]).settings, []).append(run)
            progress.advance(number, "runs")
    members = list(groups.values())
    keys = swept([seeds[0] for seeds in members])
    found = []
    for seeds in members:
        seeds.sort(key=lambda run: int(run.config["seed"]))
        alike = [pair for pair in pairwise(seeds) if pair[0].config["seed"] == pair[1].config["seed"]]
        if alike and not one_of_each:
            found += [Part(str(run.folder), [run]) for run in seeds]
            continue
        if alike:
            run, other = alike[0]
            raise UserError(
                f"{run.folder} and {other.folder} are one configuration with the same seed: give one of them"
            )
        values = ",".join(f"{key}={seeds[0].overrides[key]}" for key in keys if key in seeds[0].overrides)
        found.append(Part(f"{argument} {values or seeds[0].folder.name}" if len(members) > 1 else argument, seeds))
    return found


def swept(some: list[RunFolder]) -> list[str]:
    """The keys, but for the seed, whose values on the command line differ between runs."""
    keys = sorted({key for run in some for key in run.overrides} - {"seed", "name"})
    return [key for key in keys if len({run.overrides.get(key) for run in some}) > 1]


def configuration(run: RunFolder) -> dict[str, Any]:
    """What decides the result, but for the seed."""
    free = (runs.FREE - {"steps"}) | {"seed"}
    return {key: value for key, value in run.config.items() if key not in free and not key.startswith("paper")}


def differences(some: list[RunFolder]) -> dict[str, list[Any]]:
    """The keys that all of these runs have and in which they differ, but for the seed and what does not change the
    result, with their values; of classes that differ (algo, task, ...) the names."""
    configs = [configuration(run) for run in some]
    found: dict[str, list[Any]] = {}
    for key in sorted(set.intersection(*(set(config) for config in configs))):
        values = [config[key] for config in configs]
        if any(value != values[0] for value in values):
            group = key.removesuffix("._target_")
            found[group] = values if group == key else [str(value).rpartition(".")[2] for value in values]
    return found
