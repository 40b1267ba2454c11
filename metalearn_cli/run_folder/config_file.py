"""Read config.yaml in the folder of a run, as plain values: light to import, so that a wrong folder is told at once."""

from pathlib import Path

from metalearn_cli.config.conf_folder import Config, flatten
from metalearn_cli.errors import UserError
from metalearn_cli.system import yaml_files

EDITED = "edited"  # true where somebody has changed a file on purpose: then it is taken as it stands
EXPORT = "model.json"  # what the folder of an export has in place of config.yaml


def check_folder(run: Path, key: str = "run") -> None:
    """Raises UserError where that is not the folder of a run, with the one that is. `key` is what the user gave."""
    if run.parent.name == "eval" and (run.parents[1] / "config.yaml").is_file():
        raise UserError(f"{key}={run} is the folder of an evaluation: give {key}={run.parents[1]}")
    if (run / "config.yaml").is_file():
        return
    if jobs := sorted(run.glob("*/config.yaml")):
        raise UserError(f"{key}={run} is the folder of a sweep: give one of its runs, e.g. {key}={jobs[0].parent}")
    if (run / EXPORT).is_file():
        weights = f", or {key}={next(run.glob('*.safetensors'), run)}" if key == "init" else ""
        raise UserError(f"{key}={run} is an export: give the folder of its run{weights}")
    raise UserError(f"{key}={run} is not the folder of a run: there is no config.yaml in it")


def load_config(path: Path) -> Config:
    """Read a config.yaml as plain values; nothing in it is imported or run."""
    config = yaml_files.load_yaml(path)
    if not isinstance(config, dict) or not config:
        raise UserError(f"{path} holds no configuration: mend or remove it")
    return {key: value for key, value in config.items() if key != EDITED}


def check_parts(path: Path, config: Config, groups: tuple[str, ...]) -> None:
    """Raises UserError where these groups of a stored configuration name no class, or where it refers to something."""
    for group in groups:
        if not isinstance(config.get(group), dict) or not isinstance(config[group].get("_target_"), str):
            raise UserError(f"{path} has no {group}._target_: it is not whole, or of another version")
    if references := [key for key, value in flatten(config).items() if "${" in str(value)]:
        raise UserError(f"{references[0]} in {path} is a reference, which no run writes: mend the file")


def check_usable(folder: Path) -> None:
    """Raises UserError where that is neither an export nor the folder of a run."""
    if not (folder / EXPORT).is_file():
        check_folder(folder)
