"""The sentences for mistakes on the command line: what would be right, and the nearest name."""

import re
from enum import Enum
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, conf_dir, flatten, list_choices
from metalearn_cli.errors import nearest
from metalearn_cli.system.limits import words_of

# Hydra's plugins by the extra that has them.
_EXTRAS = {"joblib": "joblib", "submitit_slurm": "slurm", "submitit_local": "slurm", "ray": "ray"}


def describe(kind: Any) -> str:
    """A type in the user's words."""
    if words := words_of(kind):
        return words
    options = [option for option in getattr(kind, "__args__", ()) if option is not type(None)]
    or_null = " or null" if type(None) in getattr(kind, "__args__", ()) else ""
    if len(options) == 1:
        kind = options[0]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.name for member in kind)}{or_null}"
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        is_enum = isinstance(item, type) and issubclass(item, Enum)
        examples = {int: "40,40", float: "0.01,0.1", str: "train,val"}
        if is_enum:
            return f"a list of some of {', '.join(member.name for member in item)}{or_null}"
        return f"a list, e.g. [{examples.get(item, '1,2')}]{or_null}"
    if get_origin(kind) is dict:
        return f"a mapping, e.g. {{mean:0.9,source:mine}}{or_null}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, "a list, e.g. [1,2]") + or_null


def composition_sentence(error: Exception, overrides: list[str]) -> str:
    """Hydra's refusal as one sentence, with the nearest name where a key or a choice is unknown."""
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    found = re.search(r"Could not find 'hydra/launcher/(\w+)'", str(error))
    if found and found[1] in _EXTRAS:
        return f"the launcher {found[1]} is not in this environment: pip install 'metalearn-cli[{_EXTRAS[found[1]]}]'"
    if found := re.search(r"Could not find '(hydra/sweeper/\w+)/(\w+)'", str(error)):
        return f"{found[1]}={found[2]} is none of the choices{nearest(found[2], list_choices(found[1]))}"
    if found := re.search(r"Could not find 'hydra/sweeper/(\w+)'", str(error)):
        return f"hydra/sweeper={found[1]} is none of the choices: give sweep=optuna for a search, or leave it out"
    if found := re.search(r"Could not override '(hydra\.sweeper\.[\w.]+)'", str(error)):
        return f"there is no key {found[1]}: those of sweep=optuna stand in conf/hydra/sweeper"
    parsed: list[tuple[str, Any]] = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return f"{text!r} is not of the form key=value (values with spaces or brackets need quotes: key='a b')"
        parsed.append((override.key_or_group, override.value()))
    choices = [(key, value) for key, value in parsed if key in (*GROUPS, *PRESETS)]
    for key, value in choices:
        options = list_choices(key)
        if str(value) not in options:
            return f"{key}={value} is none of the choices{nearest(str(value), options)}"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        known: Any = OmegaConf.to_container(compose("config", [f"{key}={value}" for key, value in choices]))
    for key, _ in parsed:
        if key in (*GROUPS, *PRESETS) or key.startswith("hydra"):
            continue
        if key not in known and key not in flatten(known):
            return f"there is no key {key}{_nearest_key(key, known, dict(parsed))}"
        if f"+{key}=" in "".join(overrides):
            return f"+{key} is there already: give {key}=... without the +"
    return " ".join(str(error).split())


def _nearest_key(key: str, known: Config, given: Config) -> str:
    """Among the keys of the key's own group, where it names one; a key of a user's class wants a +."""
    group, dot, _ = key.partition(".")
    keys = [name for name in flatten(known) if "_target_" not in name]
    if not (dot and group in GROUPS):
        return nearest(key, [*keys, *GROUPS, *PRESETS])
    if not str(given.get(f"{group}._target_", "metalearn_cli.")).startswith("metalearn_cli."):
        return f": give +{key}=... for a key of your own class"
    return nearest(key, [name for name in keys if name.startswith(f"{group}.")])
