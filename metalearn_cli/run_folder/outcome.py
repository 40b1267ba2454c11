"""Read how a job of a sweep ended: outcome.json."""

from pathlib import Path
from typing import Any

from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import records


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """A sweep's word on its job; None where there is none, or none that can be read."""
    try:
        return records.read_json(folder / "outcome.json") if (folder / "outcome.json").exists() else None
    except UserError:  # `damage_of_outcome` says so
        return None


def damage_of_outcome(folder: Path) -> list[str]:
    try:
        if (folder / "outcome.json").exists():
            records.read_json(folder / "outcome.json")
    except UserError as error:
        return [str(error)]
    return []
