"""One job of a sweep, in any process that the launcher has started, its outcome.json, and whether it is pruned."""

import dataclasses
import hashlib
import math
import os
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from metalearn_cli.config.job import train_job
from metalearn_cli.config.overrides import chosen, unquote
from metalearn_cli.errors import Pruned, RunFailed, UserError, is_debugging
from metalearn_cli.learning.scores import is_better
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.records import write_record
from metalearn_cli.run_folder.results import shortfall
from metalearn_cli.run_folder.series import validations
from metalearn_cli.run_folder.unfinished import NOT_ENDED, OUTCOME, Outcome, read_outcome
from metalearn_cli.system.console import Console, tell
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.signals import Interrupted
from metalearn_cli.tasks.metrics import METRICS
from metalearn_cli.training.run import train_run
from metalearn_cli.training.session import never

STUDY_FILE = "optuna.log"  # in the folder of a sweep that is a search


@dataclasses.dataclass(frozen=True)
class Pruning:
    """One of Optuna's pruners, and the trials to compare with. It travels to the process, or the machine, that runs the
    trial. Its verdict depends on these and the trial's folder alone, so that a trial that was killed and goes on is
    stopped at the same step."""

    metric: str
    pruner: Any  # optuna.pruners.BasePruner
    before: list[Any]  # optuna.trial.FrozenTrial

    def verdict(self, folder: Path) -> str | None:
        """Say why the run in this folder is not worth its time, by its validations so far; None where it goes on."""
        import optuna

        metric, validated = METRICS[self.metric], validations(folder, self.metric)
        if not validated:
            return None
        values = {step: metric.worst if value is None else value for step, value in validated.items()}
        study = study_in_memory(self.metric, self.before)
        study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values))
        if not self.pruner.prune(study, study.trials[-1]):
            return None
        best = metric.best(list(values.values()))
        finished = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in self.before)
        result = "no finite" if math.isinf(best) else f"{best:.4g} as its best"
        return (
            f"pruned at step {max(values)} by {type(self.pruner).__name__}, with {result} validation {self.metric} "
            f"beside {finished} finished trials"
        )


def run_job(
    here: Path, sweep: Path, launch: str, swept: frozenset[str], composed: DictConfig, pruning: Pruning | None = None
) -> float | None:
    """Run the job that Hydra has composed -> its best validation result, for the sweeper."""
    os.chdir(here)
    overrides = [unquote(text) for text in HydraConfig.get().overrides.task]
    values = label(text for text in overrides if text.partition("=")[0] in swept)
    # Its own outcome is of an earlier life: a job that was preempted is started again.
    if any(outcome.stopped for outcome in outcomes(sweep, launch) if outcome.values != values):
        return None
    tell(f"metalearn: {values}")
    folder = job_folder(sweep, values)
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun = Outcome(launch, HydraConfig.get().job.num, values)
    write_record(folder / OUTCOME, dataclasses.replace(begun, failed=NOT_ENDED))
    best: float | None = None
    try:
        outcome, best = _run(folder, composed, overrides, begun, pruning)
    except Interrupted as signal:
        outcome = dataclasses.replace(begun, stopped=signal.code - 128)
    write_record(folder / OUTCOME, outcome)
    return best if outcome.failed is None else math.nan


def label(swept: Any) -> str:
    """Name a job: key=value,key=value, sorted, without the + before a key of the user's own class."""
    return ",".join(sorted(text.lstrip("+") for text in swept))


def job_folder(sweep: Path, values: str) -> Path:
    """The folder of the job with these values. A name that is too long for a file system is cut, and gets a hash."""
    name = values.replace("/", "_")
    if len(name.encode()) > 255:
        digest = hashlib.sha256(values.encode()).hexdigest()[:16]
        name = f"{name.encode()[:230].decode(errors='ignore')}-{digest}"
    return sweep / name


def _run(
    folder: Path, composed: DictConfig, overrides: list[str], begun: Outcome, pruning: Pruning | None
) -> tuple[Outcome, float | None]:
    """Run one job -> its outcome, with its figures or the sentence of its failure; and its best validation."""
    name = folder.relative_to(runs.OUTPUTS).as_posix()
    device = one_of_several_gpus(composed.device, HydraConfig.get())
    node = OmegaConf.create({**composed, "name": name, "device": device})
    choices = chosen(HydraConfig.get().runtime.choices)
    try:
        job = train_job(node, choices, overrides)
        gives_up = pruning.verdict if pruning is not None else never
        _, results = train_run(job, [*overrides, f"name={name}"], gives_up=gives_up, number=HydraConfig.get().job.num)
        best = best_validation(folder)
        if pruning is not None and best is None:
            failed = f"no validation {results.metric} of it was finite"
            return dataclasses.replace(begun, failed=failed, diverged=True), None
        outcome = dataclasses.replace(begun, metric=results.metric, mean=results.mean, ci95=results.ci95)
        short = shortfall(job.run.expect, results)
        return dataclasses.replace(outcome, inner_steps=results.last.step, shortfall=short), best
    except Pruned as end:
        return dataclasses.replace(begun, pruned=str(end)), best_validation(folder)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RunFailed) else error
        sentence = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(cause))
        tell(f"metalearn: {sentence}")
        if not (folder / "train.log").exists():  # it failed before it had a log to say so in
            with closing(Console(folder / "train.log")) as console:
                console.note(f"failed: {sentence}")
        if is_debugging():
            raise
        failed = str(error) if isinstance(error, RunFailed) else sentence.strip().splitlines()[-1]
        return dataclasses.replace(begun, failed=failed, diverged=isinstance(error.__cause__, NonFinite)), None


def one_of_several_gpus(device: str, hydra: Any) -> str:
    """Choose the GPU of a job: jobs beside one another take those of their machine in turn, if device is auto."""
    is_beside_others = hydra.runtime.choices["hydra/launcher"] in ("joblib", "submitit_local")
    gpus = torch.cuda.device_count() if is_beside_others and device == "auto" and torch.cuda.is_available() else 0
    return f"cuda:{hydra.job.num % gpus}" if gpus > 1 else device


def best_validation(folder: Path) -> float | None:
    """The best validation result of a run; None where it had no validation."""
    best: float | None = None
    for metric in METRICS:
        for value in validations(folder, metric).values():
            best = value if is_better(metric, value, best) else best
    return best


def outcomes(folder: Path, launch: str) -> list[Outcome]:
    """Read what became of the jobs of this launch, in their order."""
    every = [read_outcome(path.parent) for path in folder.glob("*/outcome.json")]
    mine = [outcome for outcome in every if outcome is not None and outcome.launch == launch]
    return sorted(mine, key=lambda outcome: outcome.number)


def study_in_memory(metric: str, trials: list[Any], sampler: Any = None) -> Any:
    """Make an optuna.Study of these trials in memory."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction(metric), sampler=sampler)
    study.add_trials(trials)
    return study


def direction(metric: str) -> Literal["maximize", "minimize"]:
    return "maximize" if METRICS[metric].sign > 0 else "minimize"
