"""The values that a sweep goes over, and whether each is possible: without torch, which takes a second to import."""

import math
import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig

from metalearn_cli.config import overrides as command_line
from metalearn_cli.config.conf_folder import GROUPS, PRESETS
from metalearn_cli.config.overrides import check_value, compose_config, quote, several_texts
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Name, check_limit

# What of Hydra's own a sweep honours: who starts the jobs, and who chooses the values.
_HONOURED = (
    *("hydra/launcher=", "hydra.launcher.", "+hydra.launcher."),
    *("hydra/sweeper=", "hydra/sweeper/sampler=", "hydra/sweeper/pruner=", "hydra.sweeper."),
    *("+hydra.sweeper.sampler.", "+hydra.sweeper.pruner."),
)


def check_sweep(overrides: list[str]) -> None:
    """Raises UserError for a group, key, type or range that is wrong in any of the values that are listed."""
    fixed, swept = split_sweep(overrides)
    hydra_keys(fixed)
    if names := [override.partition("=")[2] for override in overrides if override.startswith("name=")]:
        check_limit("name", names[-1], Name)
    fixed = [override for override in fixed if not re.match(r"sweep=|\+*hydra[./]", override)]
    values = {key: each if isinstance(each, list) else _values(each) for key, each in swept.items()}
    first = {key: f"{key}={each[0]}" for key, each in values.items() if each}
    composed = _checked([*fixed, *first.values()])
    for key, value in ((key, value) for key, each in values.items() for value in each[1:]):
        # Another value of such a key needs no other configuration.
        if key.rpartition(".")[0] in ("", *GROUPS) and key not in (*GROUPS, *PRESETS):
            check_value(f"{key}={value}", composed)
        else:
            _checked([*fixed, *(first | {key: f"{key}={value}"}).values()])


def _values(override: Override) -> list[str]:
    """The listed values; [] for an interval, of which a search chooses, and for a range without an end."""
    sweep = override.value()
    if override.is_interval_sweep() or (isinstance(sweep, RangeSweep) and math.isinf(sweep.stop or 0)):
        return []
    return list(dict.fromkeys(map(str, override.sweep_string_iterator())))


def _checked(overrides: list[str]) -> DictConfig:
    composed, _ = compose_config(overrides)
    command_line.check_run(composed, overrides)
    return composed


def split_sweep(overrides: list[str]) -> tuple[list[str], dict[str, Override | list[str]]]:
    """The overrides with one value, but for the name, and by their key those with several, in Hydra's grammar."""
    command_line.refuse_hydra(overrides, _HONOURED)
    fixed: list[str] = []
    swept: dict[str, Override | list[str]] = {}
    for text in (override for override in overrides if not override.startswith("name=")):
        key = text.partition("=")[0]
        if texts := several_texts(text):
            if len({value.replace("/", "_") for value in texts}) < len(texts):
                raise UserError(f"{text}: a job is named by its value with _ for /, and two of these are then the same")
            if len(texts) == 1:
                fixed.append(f"{key}={texts[0]}")
            else:
                swept[key] = texts
            continue
        try:
            override = OverridesParser.create().parse_override(quote(text))
        except HydraException:
            compose_config([text])  # says what is wrong with it
            raise
        if isinstance(override.value(), Glob):
            raise UserError(f"{text}: a sweep knows no glob(...): list the choices, e.g. task=sinusoid,harmonics")
        if override.is_sweep_override():
            swept[key] = override
        else:
            fixed.append(text)
    if not swept:
        raise UserError("-m needs a key with several values, e.g. seed=0,1,2")
    return fixed, swept


def in_grammar(key: str, values: list[str]) -> str:
    """These values of a key in Hydra's grammar."""
    return f"{key}={','.join(quote(f'{key}={value}').removeprefix(f'{key}=') for value in values)}"


def listed(override: Override) -> list[str]:
    """The values of a grid; one that is given twice is one job."""
    if not (values := _values(override)):
        example = f"{override.key_or_group}=0.1,0.2; sweep=optuna searches an interval"
        raise UserError(f"{override.input_line}: the sweep takes listed values, e.g. {example}")
    return values


def hydra_keys(overrides: list[str]) -> Any:
    """What these overrides make of Hydra's own configuration."""
    return command_line.compose_with_hydra([text for text in overrides if re.match(r"sweep=|\+*hydra[./]", text)]).hydra
