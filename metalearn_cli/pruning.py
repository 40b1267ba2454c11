"""Whether a trial of a search goes on, asked after each of its validations."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from metalearn_cli.metrics import is_better
from metalearn_cli.writers import validations


@dataclasses.dataclass(frozen=True)
class Pruning:
    """One of Optuna's pruners, and the trials that are measured against. It travels to the process, or the machine,
    that runs the trial. The answer depends on what stands here and in the trial's folder alone, so that a trial that
    was killed and goes on is stopped at the same step."""

    metric: str
    pruner: Any  # optuna.pruners.BasePruner
    before: list[Any]  # optuna.trial.FrozenTrial

    def verdict(self, folder: Path) -> str | None:
        """Why the run in this folder is not worth its time, by its validations so far; None where it goes on."""
        import optuna

        values = validations(folder, self.metric)
        if not values:
            return None
        study = study_in_memory(self.metric, self.before)
        study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values))
        if not self.pruner.prune(study, study.trials[-1]):
            return None
        best: float | None = None
        for value in values.values():
            best = value if is_better(self.metric, value, best) else best
        finished = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in self.before)
        return (
            f"pruned at step {max(values)} by {type(self.pruner).__name__}, with a best validation {self.metric} of "
            f"{best:.4g}, beside {finished} finished trials"
        )


def study_in_memory(metric: str, trials: list[Any], sampler: Any = None) -> Any:
    """An optuna.Study of these trials that nobody else sees."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction(metric), sampler=sampler)
    study.add_trials(trials)
    return study


def direction(metric: str) -> Literal["maximize", "minimize"]:
    return "maximize" if is_better(metric, 1.0, 0.0) else "minimize"
