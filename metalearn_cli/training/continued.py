"""Continue a run under other defaults with the values that it began with.

A default, or a preset's content, may have changed since the run's folder was made. Where the command asks for the same
choices (algorithm, task, network, preset), a key that was named neither then nor now keeps its value.
"""

from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, flatten
from metalearn_cli.config.job import Job, make_job
from metalearn_cli.config.overrides import FREE_TEXT, given_keys
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.environment import read_environment
from metalearn_cli.system.files import read_text

# The command decides on these, and never the folder: files, and what this machine or user needs.
OF_NOW = {*FREE_TEXT, "model.name", "trust", "lock", "logger"}
OF_NOW |= {"device", "threads", "allocator", "compile", "cuda_graph", "memory"}


class Begun(NamedTuple):
    """How a run began, as its folder records it."""

    folder: Path
    config: Config  # flat
    choices: dict[str, str]
    given_keys: frozenset[str]  # the keys that its command named


def begun(name: str | None) -> Begun | None:
    """Read how the run of this name began; None without such a run, or without a record of it."""
    folder = runs.OUTPUTS / (name or "")
    paths = [folder / file for file in ("config.yaml", "environment.json", "overrides.txt")]
    if name is None or not all(path.is_file() for path in paths):
        return None
    choices = read_environment(folder).choices
    try:
        overrides = read_text(folder / "overrides.txt").splitlines()
    except OSError as error:
        raise UserError(f"{folder / 'overrides.txt'} cannot be read ({error.strerror}): mend or remove it") from error
    return Begun(folder, flatten(load_config(folder / "config.yaml")), choices, frozenset(given_keys(overrides)))


def as_begun(job: Job, before: Begun | None) -> Job:
    """The job with the earlier values of all keys that were not named, and a sentence on them."""
    if before is None or _chosen(before.choices) != _chosen(job.choices):
        return job
    now, given_keys = flatten(job.config), before.given_keys | job.given_keys
    kept = {
        key: before.config[key]
        for key, value in now.items()
        if before.config.get(key, value) != value and _is_open(key, given_keys, before.config[key])
    }
    ends = "optimizer.schedule_steps"  # follows from `steps`, where it is not named
    if ends in kept and before.config.get("steps") != kept.get("steps", now["steps"]):
        del kept[ends]
    if not kept:
        return job
    assignments = ", ".join(f"{key}={_text(value)}" for key, value in sorted(kept.items()))
    config = OmegaConf.create(job.config)
    for key, value in kept.items():
        OmegaConf.update(config, key, value)
    try:  # without the names of classes, whose own defaults would stand otherwise
        named = frozenset(key for key in job.given_keys if not key.endswith("._target_"))
        continued = make_job(config, job.choices, ConfigSource(named, trust=True))
    except UserError as error:
        raise UserError(f"{before.folder} cannot go on with {assignments}, as it began: {error}") from error
    notes = [*job.notes, f"going on with {assignments}, as this run began"]
    return continued._replace(choices=job.choices, given_keys=job.given_keys, notes=notes)


def _chosen(choices: dict[str, str]) -> dict[str, str]:
    return {group: choice for group, choice in choices.items() if group != "sweep"}


def _is_open(key: str, given_keys: frozenset[str], value: object) -> bool:
    """Tell whether the key was not named, and a folder may decide on it."""
    named = any(key == name or key.startswith(f"{name}.") for name in given_keys - {*GROUPS, *PRESETS})
    is_choice = key in OF_NOW or key.endswith("._target_") or key.partition(".")[0] == "paper" or "${" in str(value)
    return not named and not is_choice


def _text(value: object) -> str:
    """Write a value as on a command line."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
