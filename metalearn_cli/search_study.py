"""A search's study on the disk, NAME/optuna.log: a journal of Optuna's, one line for each thing that was told."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from metalearn_cli.errors import UserError
from metalearn_cli.files import write_durably
from metalearn_cli.pruning import direction
from metalearn_cli.sweep_job import STUDY_FILE

NAME = "metalearn"  # optuna.load_study(study_name=NAME, storage=...)


def tidy(folder: Path) -> None:
    """Put away what a killed process has left: half a line, and Optuna's own lock; this one holds the folder."""
    path = folder / STUDY_FILE
    path.with_name(f"{STUDY_FILE}.lock").unlink(missing_ok=True)
    if path.exists() and (written := path.read_bytes()) and not written.endswith(b"\n"):
        write_durably(path, written[: written.rfind(b"\n") + 1])


def open_storage(folder: Path) -> JournalStorage:
    """Raises UserError for a damaged file."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / STUDY_FILE
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} has a damaged line ({type(error).__name__}: {error}): take a copy of the file, or another name"
        ) from error


def open_study(folder: Path, storage: JournalStorage, metric: str, asked: dict[str, str]) -> optuna.Study:
    """The study, with what it searches. Raises UserError where that is something else than before."""
    if NAME in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=NAME, storage=storage)
    else:
        study = optuna.create_study(study_name=NAME, storage=storage, direction=direction(metric))
    if "search" not in study.user_attrs:
        study.set_user_attr("search", asked)
    before = study.user_attrs["search"]
    if changes := [key for key in sorted(before.keys() | asked.keys()) if before.get(key) != asked.get(key)]:
        shown = ", ".join(f"{key}: {before.get(key)} -> {asked.get(key)}" for key in changes)
        raise UserError(f"{folder} holds another search ({shown}): take another name")
    return study
