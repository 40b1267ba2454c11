"""Decide after each validation of a trial whether it goes on."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from metalearn_cli.learning.scores import is_better
from metalearn_cli.run_folder.series import validations


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

        worst = -math.inf if direction(self.metric) == "maximize" else math.inf
        found = validations(folder, self.metric)
        if not found:
            return None
        values = {step: worst if value is None else value for step, value in found.items()}
        study = study_in_memory(self.metric, self.before)
        study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values))
        if not self.pruner.prune(study, study.trials[-1]):
            return None
        best = min(values.values(), key=lambda value: -value if direction(self.metric) == "maximize" else value)
        finished = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in self.before)
        result = "no finite" if math.isinf(best) else f"{best:.4g} as its best"
        return (
            f"pruned at step {max(values)} by {type(self.pruner).__name__}, with {result} validation {self.metric} "
            f"beside {finished} finished trials"
        )


def study_in_memory(metric: str, trials: list[Any], sampler: Any = None) -> Any:
    """Make an optuna.Study of these trials in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction(metric), sampler=sampler)
    study.add_trials(trials)
    return study


def direction(metric: str) -> Literal["maximize", "minimize"]:
    return "maximize" if is_better(metric, 1.0, 0.0) else "minimize"
