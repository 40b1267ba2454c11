"""A search's study on the disk, NAME/optuna.log: a journal of Optuna's, one line for each thing that it was told.

It may be somebody else's, and the values of its trials become keys of trainings: a trial that this search cannot have
made is refused.
"""

import os
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from metalearn_cli.errors import UserError
from metalearn_cli.sweep.sweep_job import STUDY_FILE, direction
from metalearn_cli.system.files import open_plain
from metalearn_cli.system.typed_json import is_finite

NAME = "metalearn"  # optuna.load_study(study_name=NAME, storage=...)


def open_storage(folder: Path) -> JournalStorage:
    """Open the journal. Raises UserError where it is damaged."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / STUDY_FILE
    os.close(open_plain(path, os.O_RDWR | os.O_CREAT))  # Optuna itself would follow a link
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:  # whatever Optuna raises for a line that it has not written
        raise UserError(
            f"{path} has a damaged line ({type(error).__name__}: {error}): take a copy of the file, or another name"
        ) from error


def open_study(
    folder: Path, storage: JournalStorage, metric: str, asked: dict[str, str], space: dict[str, BaseDistribution]
) -> optuna.Study:
    """Open the study of this search. Raises UserError where it searched something else, or holds a foreign trial."""
    if NAME in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=NAME, storage=storage)
    else:
        study = optuna.create_study(study_name=NAME, storage=storage, direction=direction(metric))
    if "search" not in study.user_attrs:
        study.set_user_attr("search", asked)
    before = study.user_attrs["search"]
    if not isinstance(before, dict) or [each.name.lower() for each in study.directions] != [direction(metric)]:
        raise UserError(f"{folder / STUDY_FILE} does not hold a search of this program: take another name")
    if changes := [key for key in sorted(before.keys() | asked.keys()) if before.get(key) != asked.get(key)]:
        shown = ", ".join(f"{key}: {before.get(key)} -> {asked.get(key)}" for key in changes)
        raise UserError(f"{folder} holds another search ({shown}): take another name")
    for trial in study.trials:
        if odd := why_foreign(trial, space):
            raise UserError(
                f"trial {trial.number} in {folder / STUDY_FILE} was not made by this search ({odd}): take "
                "another name, or the file from before it was changed"
            )
    return study


def why_foreign(trial: FrozenTrial, space: dict[str, BaseDistribution]) -> str | None:
    """Say what in a trial differs from what a search of this space writes; None where nothing does."""
    if odd := sorted(trial.params.keys() ^ space.keys()):
        return f"{odd[0]} is {'not searched' if odd[0] in trial.params else 'missing'}"
    for key, of in space.items():
        value: Any = trial.params[key]
        is_of_kind = isinstance(value, str) if isinstance(of, CategoricalDistribution) else is_finite(value)
        if trial.distributions[key] != of or not is_of_kind or not of._contains(of.to_internal_repr(value)):
            return f"{key}={value!r} lies outside of {of}"
    batch = trial.user_attrs.get("batch")
    if type(batch) is not int or not 0 <= batch <= trial.number:
        return f"its batch is {batch!r}"
    if trial.state == TrialState.COMPLETE and len(trial.values) != 1:
        return f"its results are {trial.values}"
    results = [*trial.intermediate_values.values(), *(trial.values or [])]
    return next((f"a result of it is {result!r}" for result in results if not is_finite(result)), None)
