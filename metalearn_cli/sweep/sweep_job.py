"""One job of a sweep, in whatever process the launcher has started, and its outcome.json."""

import dataclasses
import hashlib
import math
import os
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from metalearn_cli.config.job import train_job
from metalearn_cli.config.overrides import chosen, unquote
from metalearn_cli.errors import Pruned, RunFailed, UserError, is_debugging
from metalearn_cli.learning.scores import is_better
from metalearn_cli.learning.step import NonFinite
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.outcome import NOT_ENDED, Outcome, read_outcome, write_outcome
from metalearn_cli.run_folder.results import shortfall
from metalearn_cli.run_folder.series import validations
from metalearn_cli.sweep.pruning import Pruning
from metalearn_cli.system.console import Console, tell
from metalearn_cli.system.files import refuse_link
from metalearn_cli.system.signals import Interrupted
from metalearn_cli.training.run import train_run
from metalearn_cli.training.session import never

STUDY_FILE = "optuna.log"  # in the folder of a sweep that is a search


def run_job(
    here: Path,
    sweep: Path,
    launch: str,
    swept: frozenset[str],
    composed: DictConfig,
    pruning: Pruning | None = None,
) -> float | None:
    """Run the job that Hydra has composed -> its best validation result, for the sweeper."""
    os.chdir(here)
    overrides = [unquote(text) for text in HydraConfig.get().overrides.task]
    values = label(text for text in overrides if text.partition("=")[0] in swept)
    # Its own outcome is that of an earlier life, of a job that was preempted and comes again.
    if any(outcome.stopped for outcome in outcomes(sweep, launch) if outcome.values != values):
        return None
    tell(f"metalearn: {values}")
    folder = folder_of(sweep, values)
    refuse_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begun = Outcome(launch, HydraConfig.get().job.num, values)
    write_outcome(folder, dataclasses.replace(begun, failed=NOT_ENDED))
    best: float | None = None
    try:
        outcome, best = _run(folder, composed, overrides, begun, pruning)
    except Interrupted as signal:
        outcome = dataclasses.replace(begun, stopped=signal.code - 128)
    write_outcome(folder, outcome)
    return best if outcome.failed is None else math.nan


def label(swept: Any) -> str:
    """key=value,key=value, sorted. A key of one's own class is given as +key=value; it is named by the key."""
    return ",".join(sorted(text.lstrip("+") for text in swept))


def folder_of(sweep: Path, values: str) -> Path:
    """The folder of the job with these values. A name that is too long for a file system is cut, and gets a hash."""
    name = values.replace("/", "_")
    if len(name.encode()) > 255:
        digest = hashlib.sha256(values.encode()).hexdigest()[:16]
        name = f"{name.encode()[:230].decode(errors='ignore')}-{digest}"
    return sweep / name


def _run(
    folder: Path, composed: DictConfig, overrides: list[str], begun: Outcome, pruning: Pruning | None
) -> tuple[Outcome, float | None]:
    """Run one job -> its outcome, which has its figures, or the sentence of its failure, which stands in its own log
    too; and its best validation."""
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
        outcome = dataclasses.replace(
            begun,
            metric=results.metric,
            mean=results.mean,
            ci95=results.ci95,
            inner_steps=results.last.step,
            shortfall=shortfall(job.run.expect, results),
        )
        return outcome, best
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
    """The GPU of a job: jobs that run side by side on a machine take its GPUs in turn, where device=auto leaves it
    open."""
    is_beside_others = hydra.runtime.choices["hydra/launcher"] in ("joblib", "submitit_local")
    gpus = torch.cuda.device_count() if is_beside_others and device == "auto" and torch.cuda.is_available() else 0
    return f"cuda:{hydra.job.num % gpus}" if gpus > 1 else device


def best_validation(folder: Path) -> float | None:
    """The best validation result of a run; None where it had no validation."""
    best: float | None = None
    for metric in ("accuracy", "mse"):
        for value in validations(folder, metric).values():
            best = value if is_better(metric, value, best) else best
    return best


def outcomes(folder: Path, launch: str) -> list[Outcome]:
    """Read what became of the jobs of this launch, in their order."""
    found = [outcome for path in folder.glob("*/outcome.json") if (outcome := read_outcome(path.parent)) is not None]
    return sorted((one for one in found if one.launch == launch), key=lambda one: one.number)
