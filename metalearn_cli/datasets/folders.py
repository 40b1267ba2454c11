"""Folders of image files: what is in them, and the picture in a file. Whatever is odd is named, never passed over."""

from collections.abc import Sequence
from pathlib import Path

from metalearn_cli.errors import UserError


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name; hidden entries (.DS_Store and the like) do not count."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read as a folder ({error.strerror})") from error


def sizes(paths: Sequence[Path]) -> list[tuple[str, int]]:
    """The name of each file with its size in bytes."""
    try:
        return [(path.name, path.stat().st_size) for path in paths]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
