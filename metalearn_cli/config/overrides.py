"""The words of a command line, and what Hydra composes of conf/*.yaml by them."""

import functools
import glob
import re
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from metalearn_cli.config.conf_folder import GROUPS, PRESETS, Config, conf_dir, list_choices
from metalearn_cli.config.explain import composition_sentence
from metalearn_cli.config.fields import is_in_source, typed, types_in_source
from metalearn_cli.datasets.paths import expand
from metalearn_cli.errors import UserError, nearest
from metalearn_cli.system import yaml_files

PATHS = ("init", "task.root", "task.split_file", "task.split_lists", "task.labels")
# Keys whose values are a person's text: names, paths, sentences.
FREE_TEXT = ("name", "run", "expect", "support", "query", "unlabelled", "out", *PATHS, "task.pattern")
RUN = "metalearn_cli.config.job.Run"  # the class of the keys that belong to no group


def compose_config(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """The configuration that these command-line overrides ask for, and the yaml chosen in each group."""
    composed = compose_with_hydra(overrides)
    choices = chosen(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    try:
        OmegaConf.resolve(composed)
    except OmegaConfBaseException as error:
        raise UserError(" ".join(str(error).split())) from error
    return composed, choices


def compose_with_hydra(overrides: list[str]) -> DictConfig:
    """Compose the same with Hydra's own keys, and with references as they stand."""
    overrides = [quote(override) for override in overrides]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if override.startswith("~"):
            raise UserError(f"{override}: a key cannot be deleted; give it another value")
        if key in FREE_TEXT and "${" in override:
            raise UserError(f"{override}: a name or path cannot hold ${{, which begins a reference to another key")
        if not key:
            raise UserError(f"{override!r} is not of the form key=value")
        if key in (*GROUPS, *PRESETS):
            if value not in (*list_choices(key), *["null"] * (key in PRESETS)):
                raise UserError(f"{key}={value} is none of the choices{nearest(value, list_choices(key))}")
            if override.startswith("+"):
                raise UserError(f"{override}: give {key}={value} without the +")
    _refuse_slow_files(conf_dir())
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", overrides, return_hydra_config=True)
    except yaml.YAMLError as error:
        raise UserError(yaml_files.sentence(error)) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(composition_sentence(error, overrides)) from error


@functools.cache
def _refuse_slow_files(folder: Path) -> None:
    for path in folder.rglob("*.yaml"):
        yaml_files.refuse_slow(path)


def compose_run(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """Compose one run and check its keys, types and ranges: without torch, which takes a second to import."""
    refuse_hydra(overrides)
    for override in overrides:
        if override.startswith("sweep=") and override != "sweep=null":
            raise UserError(f"{override} is for the jobs of a sweep, and this is one run: give -m, or leave it out")
    composed, choices = compose_config(overrides)
    check_run(composed, overrides)
    return composed, choices


def check_run(composed: DictConfig, overrides: list[str]) -> None:
    """Raises UserError where a key is unknown, or its value is not of its type or outside of its range."""
    _check_types(RUN, composed, GROUPS, "")
    for group in GROUPS:
        if isinstance(composed[group], DictConfig):
            check_group(group, composed[group], overrides)


def check_group(group: str, node: DictConfig, overrides: list[str]) -> None:
    """Raises UserError for a wrong key or value of one group, where its class is of this package and the yaml's own."""
    owner = str(node.get("_target_"))
    if is_in_source(owner) and f"{group}._target_" not in given_keys(overrides):
        _check_types(owner, node, ("_target_",), f"{group}.")


def _check_types(owner: str, node: DictConfig, others: tuple[str, ...], prefix: str) -> None:
    """Raises UserError where a key in `node` other than `others` is not of this class, or has another type."""
    keys = OmegaConf.masked_copy(node, [str(key) for key in node if key not in others])
    typed(types_in_source(owner), keys, prefix, owner)


def chosen(choices: Any) -> dict[str, str]:
    """The yaml chosen in each group, of all that Hydra lists."""
    return {group: choices[group] for group in (*GROUPS, *PRESETS) if choices.get(group) is not None}


def quote(override: str) -> str:
    """Put the value of a free-text key in quotes. Else Hydra's grammar would refuse `expect=accuracy>=0.95` and paths
    with brackets, equal signs or letters beyond ASCII, and would make numbers of names."""
    key, equals, value = override.partition("=")
    if key.lstrip("+") not in FREE_TEXT or not equals or value == "null":
        return override
    # A backslash before a quote is doubled, and so are those at the end.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    tail = len(escaped) - len(escaped.rstrip("\\"))
    return f"{key}='{escaped}{tail * chr(92)}'"


def unquote(override: str) -> str:
    """What `quote` was given."""
    key = override.partition("=")[0]
    if key.lstrip("+") not in FREE_TEXT:
        return override
    value = OverridesParser.create().parse_override(override).value()
    return f"{key}={value}" if isinstance(value, str) else override


def several_texts(override: str) -> list[str]:
    """The values of a text key in a sweep, choice(a,b) or a list of paths; [] where it is one value."""
    key, _, text = override.partition("=")
    is_choice = key in (*PATHS, "task.pattern") and text.startswith("choice(") and text.endswith(")")
    if is_choice:
        text = text.removeprefix("choice(").removesuffix(")")
    elif key not in PATHS or "," not in text or expand(text).exists():
        return []
    parts = re.finditer(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]*?))\s*(?:,|\Z)""", text)
    values = list(dict.fromkeys("".join(filter(None, part.groups())) for part in parts if part.end() > part.start()))
    if not all(values) or not values or text.endswith(","):
        raise UserError(f"{override}: one of the values is empty")
    return values


def parse_override(override: str) -> tuple[str, Any]:
    """Parse one key=value -> the key and its value, as Hydra's grammar reads them."""
    try:
        parsed = OverridesParser.create().parse_override(quote(override))
    except HydraException:
        raise UserError(f"{override!r} is not of the form key=value") from None
    value = parsed.value()
    if parsed.is_sweep_override():
        raise UserError(f"{override}: one value is expected here")
    return parsed.key_or_group, str(value) if isinstance(value, QuotedString) else value


def check_value(override: str, config: Config | DictConfig) -> None:
    """Raises UserError where the value of this override is not of its key's type or outside of its range."""
    key, value = parse_override(override)
    group, dot, name = key.rpartition(".")
    owner = str(config[group]["_target_"]) if group else RUN
    if name in (types := types_in_source(owner)):
        typed(types, OmegaConf.create({name: value}), f"{group}{dot}", owner)


def command_values(overrides: list[str], command: str, owner: str, more: dict[str, type]) -> Config:
    """The keys and values of a command that composes no configuration: those of class `owner`, and `more`."""
    types = types_in_source(owner) | more
    values: Config = {}
    for override in overrides:
        key, value = parse_override(override)
        if "${" in override:
            raise UserError(f"{override}: {command} takes plain values, not references")
        if key in values:
            raise UserError(f"{key}= is given twice")
        if key not in types:
            raise UserError(f"{command} has no key {key}{nearest(key, types)}")
        group, dot, name = key.rpartition(".")
        typed({name: types[key]}, OmegaConf.create({name: value}), f"{group}{dot}", owner)
        values[key] = value
    return values


def split_folders(arguments: list[str], keys: tuple[str, ...], command: str) -> tuple[list[str], dict[str, str]]:
    """Folders of runs, whose names may have an equal sign as those of a sweep's jobs, and options among `keys`."""
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
        elif not Path(argument).is_dir() and (Path(argument).exists() or not glob.has_magic(argument)):
            raise UserError(f"{argument} is not there: give the folder of a run, of an evaluation or of a sweep")
        else:
            folders.append(argument)
    return folders, options


def check_file(key: str, path: Path) -> None:
    """Raises UserError where no file can be written at the path that this key names."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{key}={path}: there is no folder {path.parent}: make it first")
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: give the name of a file")


def refuse_hydra(overrides: list[str], honoured: tuple[str, ...] = ()) -> None:
    """Raises UserError for a key of Hydra's own, which would be accepted and do nothing."""
    for override in overrides:
        if re.match(r"\+*hydra[./=]", override) and not override.startswith(honoured):
            settable = "hydra/launcher, hydra/sweeper and what stands in them can be set, for a sweep (-m)"
            raise UserError(f"{override} would do nothing: of Hydra's own keys only {settable}; give name=FOLDER")


def given_keys(overrides: list[str]) -> set[str]:
    return {override.partition("=")[0].lstrip("+") for override in overrides}


def given_twice(overrides: list[str]) -> list[str]:
    """A sentence for each key that has two values."""
    last: dict[str, str] = {}
    notes: list[str] = []
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if last.get(key, value) != value:
            notes.append(f"{key} is given twice, and the last counts: {key}={value}, not {last[key]}")
        last[key] = value
    return notes
