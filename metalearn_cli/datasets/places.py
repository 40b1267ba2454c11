"""Where data sets and packed sets are. Imports nothing heavy, so that lists are quick."""

import os
from pathlib import Path

from metalearn_cli.errors import UserError


def data_root() -> Path:
    """The folder of all data sets."""
    if not (value := os.environ.get("METALEARN_DATA")):
        raise UserError(
            "METALEARN_DATA is not set: set it to the folder that holds the data sets (omniglot/, cifar-fs/, ...), "
            "or give the data set's own folder as task.root"
        )
    return expand(value)


def cache_root() -> Path:
    """The folder of all packed sets."""
    if (value := os.environ.get("METALEARN_CACHE")) == "":
        raise UserError("METALEARN_CACHE is set to nothing: set it to the folder for packed data sets, or unset it")
    return expand(value) if value else expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "metalearn"


def expand(path: str) -> Path:
    """The path, with the home folder for a ~ at its start."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path} is in a home folder that is not known here: give the whole path (METALEARN_CACHE for packed sets)"
        ) from None
