"""Runs that belong together: parts of a command line, and groups that differ in their seeds only."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.read import RunFolder, find_runs, read_run
from metalearn_cli.run_folder.runs import FREE
from metalearn_cli.system.console import Console, Progress


class Part(NamedTuple):
    """The runs of one argument that differ in nothing but their seed."""

    name: str
    runs: list[RunFolder]  # by seed


def parts(argument: str, one_of_each: bool = True) -> list[Part]:
    """Read the runs of an argument, and group them."""
    return group(find_runs(argument).runs, argument, one_of_each)


def group(folders: list[Path], argument: str, one_of_each: bool) -> list[Part]:
    """Put runs together that differ only in their seed. Raises UserError where two are alike in their seed too;
    without `one_of_each` such runs are parts of their own."""
    groups: dict[str, list[RunFolder]] = {}
    with Progress(Console(), f"reading {argument}", len(folders), passing=True) as progress:
        for number, run in enumerate(map(read_run, folders), 1):
            groups.setdefault(repr(sorted(configuration(run).items())), []).append(run)
            progress.advance(number, "runs")
    keys = swept([runs[0] for runs in groups.values()])
    parts_found = []
    for runs in groups.values():
        runs.sort(key=lambda run: int(run.config["seed"]))
        alike = [pair for pair in pairwise(runs) if pair[0].config["seed"] == pair[1].config["seed"]]
        if alike and one_of_each:
            run, other = alike[0]
            raise UserError(
                f"{run.folder} and {other.folder} are one configuration with the same seed: give one of them"
            )
        if alike:
            parts_found += [Part(str(run.folder), [run]) for run in runs]
            continue
        values = ",".join(f"{key}={runs[0].overrides[key]}" for key in keys if key in runs[0].overrides)
        parts_found.append(Part(f"{argument} {values or runs[0].folder.name}" if len(groups) > 1 else argument, runs))
    return parts_found


def swept(runs: list[RunFolder]) -> list[str]:
    """The keys, except the seed, whose values on the command line differ between runs."""
    keys = sorted({key for run in runs for key in run.overrides} - {"seed", "name"})
    return [key for key in keys if len({run.overrides.get(key) for run in runs}) > 1]


def configuration(run: RunFolder) -> Config:
    """The keys that decide the result, except the seed."""
    free = (FREE - {"steps"}) | {"seed"}
    return {key: value for key, value in run.config.items() if key not in free and not key.startswith("paper")}


def differences(runs: list[RunFolder]) -> dict[str, list[Any]]:
    """The keys of `configuration` that all of these runs have and in which they differ, with their values; of classes
    that differ (algo, task, ...) the names."""
    configs = [configuration(run) for run in runs]
    differing: dict[str, list[Any]] = {}
    for key in sorted(set.intersection(*map(set, configs))):
        values = [config[key] for config in configs]
        if any(value != values[0] for value in values):
            group = key.removesuffix("._target_")
            differing[group] = values if group == key else [str(value).rpartition(".")[2] for value in values]
    return differing
