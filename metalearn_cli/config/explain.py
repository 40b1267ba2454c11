"""The sentences for mistakes on the command line: what would be right, and the nearest name."""

import re
from typing import Any

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, conf_dir, flatten, list_choices
from metalearn_cli.errors import nearest

# Hydra's plugins by the extra that has them.
_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def composition_sentence(error: Exception, overrides: list[str]) -> str:
    """Say Hydra's refusal as one sentence, with the nearest name where a key or a choice is unknown."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    text = str(error)
    if match := re.search(r"Could not find 'hydra/launcher/(\w+)'", text):
        if extra := _EXTRAS.get(match[1]):
            return f"the launcher {match[1]} is not in this environment: pip install 'metalearn-cli[{extra}]'"
    elif match := re.search(r"Could not find '(hydra/sweeper/\w+)/(\w+)'", text):
        return f"{match[1]}={match[2]} is none of the choices{nearest(match[2], list_choices(match[1]))}"
    elif match := re.search(r"Could not find 'hydra/sweeper/(\w+)'", text):
        return f"hydra/sweeper={match[1]} is none of the choices: give sweep=optuna for a search, or leave it out"
    elif match := re.search(r"Could not override '(hydra\.sweeper\.[\w.]+)'", text):
        return f"there is no key {match[1]}: those of sweep=optuna stand in conf/hydra/sweeper"
    parsed: list[tuple[str, Any]] = []
    for override in overrides:
        try:
            parts = OverridesParser.create().parse_override(override)
        except HydraException:
            return f"{override!r} is not of the form key=value (values with spaces or brackets need quotes: key='a b')"
        parsed.append((parts.key_or_group, parts.value()))
    choices = [f"{key}={value}" for key, value in parsed if key in (*GROUPS, *PRESETS)]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known: Any = OmegaConf.to_container(compose("config", choices))
    for key, value in parsed:
        if key in (*GROUPS, *PRESETS) or key.startswith("hydra"):
            continue
        if key not in known and key not in flatten(known):
            return f"there is no key {key}{_nearest_key(key, known, dict(parsed))}"
        if f"+{key}=" in "".join(overrides):
            return f"+{key} exists: give {key}=... without the +"
        if isinstance(value, dict) and isinstance((known | flatten(known))[key], list):
            return f"{key} must be a list: give {key}=[...]"
    return " ".join(str(error).split())


def _nearest_key(key: str, known: Config, overrides: Config) -> str:
    """Find it among the keys of the key's own group, where it names one; a key of a user's class needs a +."""
    group, dot, _ = key.partition(".")
    keys = [name for name in flatten(known) if "_target_" not in name]
    if not (dot and group in GROUPS):
        return nearest(key, [*keys, *GROUPS, *PRESETS])
    if not str(overrides.get(f"{group}._target_", "metalearn_cli.")).startswith("metalearn_cli."):
        return f": give +{key}=... for a key of your own class"
    return nearest(key, [name for name in keys if name.startswith(f"{group}.")])
