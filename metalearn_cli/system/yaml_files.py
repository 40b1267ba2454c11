"""Read yaml that somebody else may have written, and say by file and line what is wrong with it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from metalearn_cli.errors import UserError
from metalearn_cli.system.files import read_text

MOST_BYTES = 1 << 17  # no configuration is nearly so large, and yaml is read slowly
MOST_LEVELS = 50  # of lists and mappings in one another

_Events: Any = getattr(yaml, "CLoader", yaml.Loader)  # libyaml, where PyYAML has it: in no way slow


def load_yaml(path: Path) -> Any:
    """Read plain values; nothing is imported or looked up. Links and references are refused: no run writes one."""
    text = _text(path)
    try:
        for event in _checked(text, path):
            if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
                line = event.start_mark.line + 1
                raise UserError(f"{path} line {line} has a reference, which no run writes: mend the file")
        return OmegaConf.to_container(OmegaConf.create(text))
    except yaml.YAMLError as error:
        raise UserError(sentence(error, path)) from error
    except UserError:
        raise
    except Exception as error:  # what OmegaConf raises where yaml is right but no configuration
        raise UserError(f"{path} is not a configuration ({' '.join(str(error).split())}): mend or remove it") from error


def refuse_slow(path: Path) -> None:
    """Raises UserError for a large file of conf/, and for few lines that stand for many. It may be a link."""
    with contextlib.suppress(yaml.YAMLError):  # said better where values are made of it
        for _ in _checked(_text(path, is_link_followed=True), path):
            pass


def _text(path: Path, is_link_followed: bool = False) -> str:
    try:
        return read_text(Path(os.path.realpath(path)) if is_link_followed else path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error


def _checked(text: str, path: Path) -> Iterator[Any]:
    """Yield what a parser sees. Raises UserError for what would become many values or levels, and YAMLError."""
    level = 0
    try:
        for event in yaml.parse(text, Loader=_Events):
            line = event.start_mark.line + 1
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise UserError(f"{path} line {line} has more than {MOST_LEVELS} levels: mend or remove it")
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path} line {line} has an alias, *{event.anchor}: write the value itself")
            yield event
    except yaml.YAMLError as error:
        if "nesting" in str(error):  # libyaml looks ahead, and has a limit of its own
            raise UserError(f"{path} has more than {MOST_LEVELS} levels: mend or remove it") from error
        raise


def sentence(error: yaml.YAMLError, path: Path | None = None) -> str:
    """Say what is wrong, in which line of which file."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or " ".join(str(error).split())
    file: Any = path or (mark.name if mark else getattr(error, "name", "a yaml file"))
    return f"{file}{f' line {mark.line + 1}' if mark else ''} is not right: {what}"
