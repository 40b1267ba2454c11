"""`-m`: one training for each combination of the swept keys, started by Hydra's sweeper and launcher.

A sweep's folder is outputs/NAME, and a job's folder in it is named by the swept keys alone, sorted, so that the same
command again continues what is missing. A job may run in another process, or on another machine that shares the
folder: what became of it stands in its outcome.json.
"""

import json
import math
import os
import secrets
import time
import traceback
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from metalearn_cli import runs
from metalearn_cli.catalog import conf_dir
from metalearn_cli.config import train_job
from metalearn_cli.errors import RunFailed, UserError
from metalearn_cli.interrupt import Interrupted
from metalearn_cli.jobs import number, train_run
from metalearn_cli.metrics import is_better, shortfall
from metalearn_cli.overrides import check_name, chosen, compose_config, quote, refuse_hydra
from metalearn_cli.parallel import cores
from metalearn_cli.progress import Console, show, tell
from metalearn_cli.report.best import best_sentences
from metalearn_cli.report.folders import group
from metalearn_cli.report.summary import after
from metalearn_cli.writers import read_lines

# Hydra makes no folders and no log files of its own; its multirun.yaml stands in the sweep's folder.
_QUIET = ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]

# What of Hydra's own a sweep honours: who starts the jobs, and who chooses the values.
_HONOURED = ("hydra/launcher=", "hydra/sweeper=", "hydra.launcher.", "+hydra.launcher.", "hydra.sweeper.")


def sweep(overrides: list[str]) -> int:
    """Run every job, also after one that failed, and print a table -> 0, 1 if a job failed, 3 if one fell short."""
    refuse_hydra(overrides, _HONOURED)
    names = [override.partition("=")[2] for override in overrides if override.startswith("name=")]
    fixed, swept = _split([override for override in overrides if not override.startswith("name=")])
    if not swept:
        raise UserError("-m wants a key with several values, e.g. seed=0,1,2")
    # A typo in a key or a choice is no reason for many failed jobs: each value is composed once before the first job.
    first = {key: f"{key}={values[0]}" for key, values in swept.items()}
    failures: list[UserError] = []
    for key, values in swept.items():
        for value in values:
            composed, choices = compose_config([*fixed, *{**first, key: f"{key}={value}"}.values()])
            try:
                train_job(composed, choices, overrides)
            except UserError as error:
                failures.append(error)
    if len(failures) == sum(map(len, swept.values())):
        raise failures[0]  # no job can succeed
    if names:
        check_name(names[-1])
        if (runs.OUTPUTS / names[-1] / "config.yaml").exists():
            raise UserError(f"{runs.OUTPUTS / names[-1]} holds a run and cannot hold a sweep too: take another name")
    folder = runs.OUTPUTS / (names[-1] if names else time.strftime(f"%Y-%m-%d/%H-%M-%S-sweep-{secrets.token_hex(2)}"))
    folder.mkdir(parents=True, exist_ok=bool(names))
    tell(f"metalearn: sweep over {', '.join(swept)} in {folder}")
    launch = secrets.token_hex(4)
    escaped = quote(f"name={folder}").removeprefix("name=")
    given = [*map(quote, fixed), *(f"{key}={','.join(values)}" for key, values in swept.items())]
    given += [*_QUIET, f"hydra.sweep.dir={escaped}", "hydra.sweep.subdir=."]
    given += _share_cores([*fixed, *first.values()], math.prod(map(len, swept.values())))
    is_broken = False
    try:
        _multirun(partial(_job, Path.cwd(), folder, launch, frozenset(swept)), given)
    except Interrupted as signal:  # between two jobs
        raise Interrupted(signal.code - 128, "the same command with the same name continues the sweep") from signal
    except Exception as error:  # of the launcher: a job's own is in its outcome
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        is_broken = True
        tell(f"metalearn: the jobs could not all be run ({type(error).__name__}: {' '.join(str(error).split())[:500]})")
    outcomes = _outcomes(folder, launch)
    if stopped := [outcome["stopped"] for outcome in outcomes if outcome["stopped"]]:
        raise Interrupted(stopped[0], "the same command with the same name continues the sweep")
    code = _print_table(folder, outcomes)
    return 1 if is_broken else code


def _split(overrides: list[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The overrides with one value, and those with several: key -> values, as Hydra's grammar reads them."""
    fixed: list[str] = []
    swept: dict[str, list[str]] = {}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(quote(text))
        except HydraException:
            compose_config([text])  # says what is wrong with it
            raise
        if not override.is_sweep_override():
            fixed.append(text)
        elif override.is_interval_sweep():
            raise UserError(f"{text}: the sweep takes listed values, e.g. {override.key_or_group}=0.1,0.2")
        else:
            swept[text.partition("=")[0]] = [str(value) for value in override.sweep_string_iterator()]
    return fixed, swept


def _share_cores(overrides: list[str], jobs: int) -> list[str]:
    """Let jobs that run beside one another on this machine have its cores together, unless OMP_NUM_THREADS says
    otherwise -> overrides for their launcher."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose("config", [*map(quote, overrides)], return_hydra_config=True).hydra
    more: list[str] = []
    match node.runtime.choices["hydra/launcher"]:
        case "joblib":
            jobs = min(jobs, node.launcher.n_jobs if node.launcher.n_jobs > 0 else cores())
            more = [f"hydra.launcher.n_jobs={jobs}"]
        case "submitit_local":  # all at once
            pass
        case _:
            return []
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    os.environ.setdefault("MKL_NUM_THREADS", threads)  # which torch asks first, and joblib would set
    return more


def _multirun(job: Any, overrides: list[str]) -> None:
    """What hydra.main does with sys.argv under --multirun: nothing public takes its arguments."""
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2("metalearn", create_config_search_path(str(conf_dir())))
    try:
        hydra.multirun("config", job, overrides)
    finally:
        GlobalHydra.instance().clear()


def _job(here: Path, sweep: Path, launch: str, swept: frozenset[str], composed: DictConfig) -> float | None:
    """One job, in whatever process the launcher has made for it -> its best validation result, for the sweeper."""
    os.chdir(here)
    overrides = list(HydraConfig.get().overrides.task)
    # A key of one's own class is given as +key=value; the folder is named by the key.
    values = ",".join(sorted(text.lstrip("+") for text in overrides if text.partition("=")[0] in swept))
    # Its own outcome is that of an earlier life, of a job that was preempted and comes again.
    if any(outcome["stopped"] for outcome in _outcomes(sweep, launch) if outcome["values"] != values):
        return None
    tell(f"metalearn: {values}")
    folder = sweep / values.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True)
    about = {"launch": launch, "number": HydraConfig.get().job.num, "values": values, "stopped": None}
    runs.write_json(folder / "outcome.json", {**about, "failed": runs.NOT_ENDED})
    try:
        outcome = _run(folder, composed, overrides)
    except Interrupted as signal:
        outcome = {"failed": None, "stopped": signal.code - 128}
    runs.write_json(folder / "outcome.json", {**about, **outcome})
    return _validation(folder) if outcome["failed"] is None else math.nan


def _run(folder: Path, composed: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """One job -> its figures, or the sentence of its failure, which stands in its own log too."""
    name = folder.relative_to(runs.OUTPUTS).as_posix()
    node = OmegaConf.create({**composed, "name": name})
    choices = chosen(HydraConfig.get().runtime.choices)
    try:
        job = train_job(node, choices, overrides)
        _, results = train_run(job, [*overrides, f"name={name}"])
        figures = {key: results[key] for key in ("metric", "mean", "ci95")}
        figures["inner_steps"] = results["per_step"][-1]["step"]
        return {"failed": None, **figures, "shortfall": shortfall(job.run.expect, results)}
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RunFailed) else error
        sentence = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(cause))
        tell(f"metalearn: {sentence}")
        if not (folder / "train.log").exists():  # it failed before it had a log to say so in
            with closing(Console(folder / "train.log")) as console:
                console.note(f"failed: {sentence}")
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return {"failed": str(error) if isinstance(error, RunFailed) else sentence.strip().splitlines()[-1]}


def _validation(folder: Path) -> float | None:
    """The best validation result of a run; None where it had no validation."""
    best: float | None = None
    for line in read_lines(folder / "metrics.jsonl"):
        for metric in ("accuracy", "mse"):
            if (value := line.get(f"val/{metric}")) is not None and is_better(metric, value, best):
                best = value
    return best


def _outcomes(folder: Path, launch: str) -> list[dict[str, Any]]:
    """What became of the jobs of this launch, in their order."""
    found: list[dict[str, Any]] = []
    for path in folder.glob("*/outcome.json"):
        try:
            outcome = json.loads(path.read_text())
        except (OSError, ValueError):  # of another sweep, and damaged
            continue
        if outcome.get("launch") == launch:
            found.append(outcome)
    return sorted(found, key=lambda outcome: int(outcome["number"]))


def _print_table(folder: Path, outcomes: list[dict[str, Any]]) -> int:
    width = max((len(outcome["values"]) for outcome in outcomes), default=0)
    code = 0
    lines: list[str] = []
    for outcome in outcomes:
        values = f"{outcome['values']:<{width}}"
        if outcome["failed"] is not None:
            lines.append(f"{values}  failed: {outcome['failed']}")
            code = 1
            continue
        percent = outcome["metric"] == "accuracy"
        figure = f"{number(outcome['mean'], percent)} +- {number(outcome['ci95'], percent)}"
        short = f": {outcome['shortfall']}" if outcome["shortfall"] else ""
        step = after(outcome["inner_steps"])
        lines.append(f"{values}  {outcome['metric']}{' in %' if percent else ''} {figure}{step}{short}")
        code = code or (3 if short else 0)
    jobs = [folder / outcome["values"].replace("/", "_") for outcome in outcomes]
    lines += best_sentences(group([job for job in jobs if (job / "config.yaml").exists()], str(folder), False))
    lines.append(f"results are in {folder}")
    show("\n".join(lines))
    return code
