"""`-m sweep=optuna`: Optuna chooses the values of a sweep by the validation results of earlier trials.

The study is outputs/NAME/optuna.log, which only this process writes: a trial is one line that is there or not, with
all its values, and its result is told when its batch is done. A trial's run is a job like those of any sweep, in a
folder that is named by its values. The values of trial k depend on the sampler's seed, k and the trials of earlier
batches alone, and its pruning on those and its own validations, so that a search that was killed at any moment goes on
with the same command to the same trials.
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
from metalearn_cli.learning.scores import in_unit, text_of
from metalearn_cli.run_folder.lock import lock
from metalearn_cli.run_folder.series import drop_half_line, validations
from metalearn_cli.run_folder.unfinished import Outcome, read_outcome
from metalearn_cli.sweep.search_plan import Search, shortened
from metalearn_cli.sweep.search_study import NAME, open_storage, open_study
from metalearn_cli.sweep.sweep_job import STUDY_FILE, Pruning, best_validation, job_folder, label, study_in_memory
from metalearn_cli.system.console import tell
from metalearn_cli.system.files import write_durably


def run_search(search: Search, folder: Path, job: Any, hydra: Hydra, overrides: list[str]) -> None:
    """Launch batch after batch until there are enough trials, or one was stopped by a signal or has failed: such a
    trial stays as it was, running, since a sampler must not learn from a failure of the machine."""
    with lock(folder, search.lock):
        (folder / f"{STUDY_FILE}.lock").unlink(missing_ok=True)  # a killed process left them, or half a line
        drop_half_line(folder / STUDY_FILE)
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
            failed: list[str] = []
            ended: list[tuple[FrozenTrial, Outcome]] = []
            for trial in batch:
                outcome = read_outcome(trial_folder(folder, trial))
                if outcome is None or outcome.stopped:
                    return  # a signal has come: it goes on with the next command
                if outcome.failed and not outcome.diverged and not is_refused(study, trial, search, folder):
                    failed.append(str(trial.number))
                else:
                    ended.append((trial, outcome))
            for trial, outcome in ended:
                tell_study(study, storage, search.metric, trial, outcome, folder)
            tell(f"metalearn: {progress(study, search)}")
            if failed:
                tell(
                    f"metalearn: the search stops, since trial {' and '.join(failed)} failed: mend that, and the same "
                    "command goes on with it"
                )
                return


def launch(launcher: Launcher, fixed: list[str], study: optuna.Study, batch: list[FrozenTrial], folder: Path) -> None:
    """Train what is not trained: the same values again are the same run, which is trained once."""
    finished = {values_of(trial) for trial in study.trials if trial.state.is_finished()}
    jobs: dict[str, list[str]] = {}
    for trial in batch:
        values, outcome = values_of(trial), trial_folder(folder, trial) / "outcome.json"
        if values not in finished or read_outcome(outcome.parent) is None:
            outcome.unlink(missing_ok=True)  # of a job that was killed
            jobs[values] = [*fixed, *map(quote, overrides_of(trial))]
    if jobs:
        for done in launcher.launch(list(jobs.values()), initial_job_idx=batch[0].number):
            _ = done.return_value  # raises what the job has raised


def next_batch(study: optuna.Study, search: Search) -> list[FrozenTrial]:
    """Return the trials of the batch that was not finished, or of a new one; none where there are enough."""
    batch = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
    number = len(study.trials)
    first = batch[0].user_attrs["batch"] if batch else number
    end = min(first + search.together, search.trials)
    return batch + [suggest(study, search, k, first) for k in range(number, end)]


def suggest(study: optuna.Study, search: Search, k: int, first: int) -> FrozenTrial:
    """Add trial k, of the batch that begins with trial `first`, to the study. A new sampler finds its values in memory,
    so that the trial is written in one piece."""
    digest = hashlib.blake2b(f"{search.sampler.seed} {k}".encode(), digest_size=4).digest()
    sampler = instantiate(search.sampler, seed=int.from_bytes(digest, "little"))
    asked = study_in_memory(search.metric, study.trials, sampler).ask(search.space)
    values = {key: shortened(asked.params[key], of) for key, of in search.space.items()}
    trial = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=values, distributions=search.space, user_attrs={"batch": first}
    )
    study.add_trial(trial)
    return study.trials[k]


def tell_study(
    study: optuna.Study, storage: JournalStorage, metric: str, trial: FrozenTrial, outcome: Outcome, folder: Path
) -> None:
    """Tell the study the result of a trial. One that diverged is told as pruned: a sampler learns nothing from failed
    trials, and would go on where the others diverge."""
    if outcome.failed:
        storage.set_trial_user_attr(trial._trial_id, "failed", outcome.failed)
        study.tell(trial.number, state=TrialState.PRUNED if outcome.diverged else TrialState.FAIL)
        return
    for step, value in validations(trial_folder(folder, trial), metric).items():
        if value is not None:
            storage.set_trial_intermediate_value(trial._trial_id, step, value)
    if outcome.pruned:
        study.tell(trial.number, state=TrialState.PRUNED)
    else:
        study.tell(trial.number, best_validation(trial_folder(folder, trial)))


def is_refused(study: optuna.Study, trial: FrozenTrial, search: Search, folder: Path) -> bool:
    """Whether the trial failed since its values do not fit together: those of another trial, which has begun, do, so
    that neither the device nor the data is the reason."""
    begun = [other for other in study.trials if has_begun(folder, other)]
    if not begun or has_begun(folder, trial):
        return False
    mine, others = ([*search.overrides, *overrides_of(each)] for each in (trial, begun[0]))
    return not can_be_made(mine) and can_be_made(others)


def can_be_made(overrides: list[str]) -> bool:
    GlobalHydra.instance().clear()  # composing needs it for itself, and no launcher does
    try:
        require_parts(train_job(*compose_config(overrides), overrides))
    except UserError:
        return False
    return True


def has_begun(folder: Path, trial: FrozenTrial) -> bool:
    return (trial_folder(folder, trial) / "config.yaml").exists()


def overrides_of(trial: FrozenTrial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.params.items()]


def values_of(trial: FrozenTrial) -> str:
    return label(overrides_of(trial))


def trial_folder(folder: Path, trial: FrozenTrial) -> Path:
    return job_folder(folder, values_of(trial))


def progress(study: optuna.Study, search: Search) -> str:
    done = f"{sum(trial.state.is_finished() for trial in study.trials)} of {search.trials} trials"
    best = best_trial(study)
    return f"{done}, the best of them {summary(best, search.metric)}" if best else f"{done}, none has come to its end"


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def summary(trial: FrozenTrial, metric: str) -> str:
    return f"trial {trial.number}, val {in_unit(metric)} {text_of(trial.value, metric)}"


def trials(folder: Path, metric: str) -> tuple[list[Outcome], list[str], list[float | None]]:
    """Return the outcomes of all trials, a line about the best of them, and the best validation of each."""
    storage = open_storage(folder)
    if NAME not in optuna.get_all_study_names(storage):
        return [], [], []  # the search has failed before it had one
    study = optuna.load_study(study_name=NAME, storage=storage)
    outcomes: list[Outcome] = []
    validated: list[float | None] = []
    for trial in study.trials:
        of_run = trial_folder(folder, trial)
        if (outcome := read_outcome(of_run)) is not None:
            values = f"{trial.number:>3}  {values_of(trial)}"
            outcomes.append(dataclasses.replace(outcome, values=values))
            validated.append(best_validation(of_run))
    best = best_trial(study)
    lines = [f"best by validation: {summary(best, metric)}: {values_of(best)}"] if best else []
    return outcomes, lines, validated
