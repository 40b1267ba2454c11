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
    return Path(value).expanduser()


def cache_root() -> Path:
    """The folder of all packed sets."""
    if value := os.environ.get("METALEARN_CACHE"):
        return Path(value).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metalearn"
