"""`-m sweep=optuna`: Optuna chooses the values of a sweep by the validation results of the trials before.

The study is outputs/NAME/optuna.log, which this process alone writes: a trial is one line that is there or not, with
all its values, and each is told what came of it when its batch is done. A trial's run is a job like those of any sweep,
in a folder that is named by its values. What trial k gets is a function of the sampler's seed, k and the trials of the
batches before, and whether it is pruned of those and its own validations, so that a search that was killed at any
moment goes on with the same command to the same trials.
"""

import dataclasses
import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from metalearn_cli.config.assemble import require_parts
from metalearn_cli.config.job import train_job
from metalearn_cli.config.overrides import compose_config, quote
from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import figure, in_unit
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.outcome import Outcome, read_outcome
from metalearn_cli.run_folder.series import validations
from metalearn_cli.sweep.pruning import Pruning, study_in_memory
from metalearn_cli.sweep.search_plan import Search
from metalearn_cli.sweep.search_space import shortened
from metalearn_cli.sweep.search_study import NAME, open_storage, open_study, tidy
from metalearn_cli.sweep.sweep_job import best_validation, folder_of, label
from metalearn_cli.system.console import tell
from metalearn_cli.system.files import write_durably


def run_search(search: Search, folder: Path, job: Any, hydra: Hydra, overrides: list[str]) -> None:
    """Launch batch after batch until there are enough trials, or one was stopped by a signal or has failed.

    A failure of the machine is nothing that a sampler should know of: such a trial stays as it was, running."""
    with lock(folder, search.lock):
        tidy(folder)
        storage = open_storage(folder)
        asked = {**search.fixed, **{key: str(space) for key, space in search.space.items()}}
        study = open_study(folder, storage, search.metric, asked, search.space)
        config = hydra.compose_config("config", overrides, run_mode=RunMode.MULTIRUN)
        write_durably(folder / "multirun.yaml", OmegaConf.to_yaml(config).encode())
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        fixed = [text for text in config.hydra.overrides.task if text.partition("=")[0] not in search.space]
        while batch := next_batch(study, search):
            pruning = Pruning(search.metric, search.pruner, study.trials[: batch[0].user_attrs["batch"]])
            launcher = Plugins.instance().instantiate_launcher(context, partial(job, pruning=pruning), config)
            launch(launcher, fixed, study, batch, folder)
            outcomes = [read_outcome(folder_of(folder, values_of(trial))) for trial in batch]
            came = [outcome for outcome in outcomes if outcome is not None and not outcome.stopped]
            if len(came) < len(batch):
                return  # a signal has come: it goes on with the next command
            failed = [
                trial.number
                for trial, outcome in zip(batch, came, strict=True)
                if outcome.failed and not outcome.diverged and not is_refused(study, trial, search, folder)
            ]
            for trial, outcome in zip(batch, came, strict=True):
                if trial.number not in failed:
                    tell_study(study, storage, search.metric, trial, outcome, folder)
            tell(f"metalearn: {progress(study, search)}")
            if failed:
                tell(
                    f"metalearn: the search stops, since trial {' and '.join(map(str, failed))} failed: mend that, and "
                    "the same command goes on with it"
                )
                return


def launch(launcher: Launcher, fixed: list[str], study: optuna.Study, batch: list[FrozenTrial], folder: Path) -> None:
    """Train what is not trained: the same values again are the same run, which is there already or comes once."""
    there = {values_of(trial) for trial in study.trials if trial.state.is_finished()}
    wanted: dict[str, list[str]] = {}
    for trial in batch:
        values = values_of(trial)
        if values not in there or read_outcome(folder_of(folder, values)) is None:
            (folder_of(folder, values) / "outcome.json").unlink(missing_ok=True)  # of one that was killed
            wanted[values] = [*fixed, *map(quote, overrides_of(trial))]
    if wanted:
        for done in launcher.launch(list(wanted.values()), initial_job_idx=batch[0].number):
            _ = done.return_value  # raises what the job has raised


def next_batch(study: optuna.Study, search: Search) -> list[FrozenTrial]:
    """The trials of the batch that was not finished, or of a new one; none, where there are enough."""
    batch = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    there_are = len(study.trials)
    first = batch[0].user_attrs["batch"] if batch else there_are
    end = min(first + search.together, search.trials)
    return batch + [suggest(study, search, k, first) for k in range(there_are, end)]


def suggest(study: optuna.Study, search: Search, k: int, first: int) -> FrozenTrial:
    """Trial k, in the study, of the batch that begins with trial `first`.

    A sampler made anew finds its values in memory, so that the trial is written in one piece."""
    digest = hashlib.blake2b(f"{search.sampler.seed} {k}".encode(), digest_size=4).digest()
    sampler = instantiate(search.sampler, seed=int.from_bytes(digest, "little"))
    asked = study_in_memory(search.metric, study.trials, sampler).ask(search.space)
    values = {key: shortened(asked.params[key], of) for key, of in search.space.items()}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.RUNNING, params=values, distributions=search.space, user_attrs={"batch": first}
        )
    )
    return study.trials[k]


def tell_study(
    study: optuna.Study,
    storage: JournalStorage,
    metric: str,
    trial: FrozenTrial,
    outcome: Outcome,
    folder: Path,
) -> None:
    """A trial that diverged is one that was given up, worse than any that was pruned: a sampler learns nothing from
    failed trials, and would go on where the others diverge."""
    of_run = folder_of(folder, values_of(trial))
    if outcome.failed:
        storage.set_trial_user_attr(trial._trial_id, "failed", outcome.failed)
        study.tell(trial.number, state=TrialState.PRUNED if outcome.diverged else TrialState.FAIL)
        return
    for step, value in validations(of_run, metric).items():
        if value is not None:
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
    if outcome.pruned:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, best_validation(of_run))


def is_refused(study: optuna.Study, trial: FrozenTrial, search: Search, folder: Path) -> bool:
    """Whether the trial failed by its values alone, which do not fit together: those of another that has begun do, so
    that it is neither the device nor the data."""
    begun = [one for one in study.trials if has_begun(folder, one)]
    if not begun or has_begun(folder, trial):
        return False
    here, there = ([*search.overrides, *overrides_of(one)] for one in (trial, begun[0]))
    return not can_be_made(here) and can_be_made(there)


def can_be_made(overrides: list[str]) -> bool:
    GlobalHydra.instance().clear()  # which composing wants for itself, and no launcher needs
    try:
        require_parts(train_job(*compose_config(overrides), overrides))
    except UserError:
        return False
    return True


def has_begun(folder: Path, trial: FrozenTrial) -> bool:
    return (folder_of(folder, values_of(trial)) / "config.yaml").exists()


def overrides_of(trial: FrozenTrial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def values_of(trial: FrozenTrial) -> str:
    return label(overrides_of(trial))


def progress(study: optuna.Study, search: Search) -> str:
    done = f"{sum(trial.state.is_finished() for trial in study.trials)} of {search.trials} trials"
    best = best_trial(study)
    return f"{done}, the best of them {summary(best, search.metric)}" if best else f"{done}, none has come to its end"


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def summary(trial: FrozenTrial, metric: str) -> str:
    return f"trial {trial.number}, val {in_unit(metric)} {figure(trial.value, metric)}"


def trials(folder: Path, metric: str) -> tuple[list[Outcome], list[str], list[float | None]]:
    """Return the outcomes of all trials in their order, a line about the best, where there is one, and each trial's
    best validation result."""
    storage = open_storage(folder)
    if NAME not in optuna.get_all_study_names(storage):
        return [], [], []  # the search has failed before it had one
    study = optuna.load_study(study_name=NAME, storage=storage)
    outcomes: list[Outcome] = []
    validated: list[float | None] = []
    for trial in study.trials:
        of_run = folder_of(folder, values_of(trial))
        if (outcome := read_outcome(of_run)) is not None:
            values = f"{trial.number:>3}  {values_of(trial)}"
            outcomes.append(dataclasses.replace(outcome, values=values))
            validated.append(best_validation(of_run))
    best = best_trial(study)
    lines = [f"best by validation: {summary(best, metric)}: {values_of(best)}"] if best else []
    return outcomes, lines, validated
