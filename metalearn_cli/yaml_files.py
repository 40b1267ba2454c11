"""Yaml that somebody else may have written: what is wrong with it is said by file and line."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from metalearn_cli.errors import UserError

MOST_BYTES = 1 << 17  # no configuration is nearly so large, and yaml is read slowly


def load(path: Path) -> Any:
    """The content as plain values; nothing in it is imported, run or looked up."""
    check(path)
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except yaml.YAMLError as error:
        raise UserError(sentence(error, path)) from error
    except Exception as error:  # what OmegaConf raises where yaml is right but no configuration
        raise UserError(f"{path} is no configuration ({' '.join(str(error).split())}): mend or remove it") from error


def check(path: Path) -> None:
    """Raises UserError for a file that would take long to read: a large one, or few lines that stand for many."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{path} has {size:,} bytes, and no configuration has more than {MOST_BYTES:,}: mend it")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): mend or remove it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: mend or remove it") from error
    if re.search(r"[\s,:\[{-]\*[^\s*]", text):  # what may be an alias
        try:
            for event in yaml.parse(text):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1
                    raise UserError(f"{path} line {line} has an alias, *{event.anchor}: write the value itself")
        except yaml.YAMLError as error:
            raise UserError(sentence(error, path)) from error


def sentence(error: yaml.YAMLError, path: Path | None = None) -> str:
    """What is wrong, in which line of which file."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or " ".join(str(error).split())
    file: Any = path or (mark.name if mark else getattr(error, "name", "a yaml file"))
    return f"{file}{f' line {mark.line + 1}' if mark else ''} is not right: {what}"
