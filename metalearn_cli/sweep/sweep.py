"""`-m`: one training for each combination of the swept keys, or each trial of a search, started by Hydra's launcher.

A sweep's folder is outputs/NAME, and a job's folder in it is named by the swept keys alone, sorted, so that the same
command again continues what is missing. A job may run in another process, or on another machine that shares the
folder: its outcome.json tells how it ended.
"""

import importlib.util
import math
import os
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra

from metalearn_cli.compare.best_setting import best_sentences
from metalearn_cli.compare.groups import group
from metalearn_cli.config.conf_folder import conf_dir
from metalearn_cli.config.job import Job, train_job
from metalearn_cli.config.overrides import compose_config, quote
from metalearn_cli.config.stages import stage_jobs
from metalearn_cli.config.sweep_values import hydra_keys, in_grammar, listed, split_sweep
from metalearn_cli.errors import UserError, is_debugging
from metalearn_cli.learning.scores import after_steps, in_unit, text_of, with_interval
from metalearn_cli.run_folder import runs
from metalearn_cli.run_folder.unfinished import Outcome
from metalearn_cli.sweep.sweep_job import STUDY_FILE, job_folder, outcomes, run_job
from metalearn_cli.system.console import show, tell, tell_each
from metalearn_cli.system.ranks import cores
from metalearn_cli.system.signals import Interrupted
from metalearn_cli.system.text import printable

# Hydra makes no folders and no log files of its own; its multirun.yaml stands in the sweep's folder.
_QUIET = ["hydra.output_subdir=null", "hydra/job_logging=disabled", "hydra/hydra_logging=disabled"]


def sweep(overrides: list[str]) -> int:
    """Run every job, also after one that failed, and print a table -> 0, 1 if a job failed, 3 if one fell short."""
    names = [override.partition("=")[2] for override in overrides if override.startswith("name=")]
    fixed, swept = split_sweep(overrides)
    hydra = hydra_keys(fixed)
    if hydra.runtime.choices["hydra/sweeper"] == "optuna":
        if importlib.util.find_spec("optuna") is None:
            raise UserError("Optuna is not in this environment: pip install 'metalearn-cli[optuna]'")
        from metalearn_cli.sweep import search, search_plan

        space = {key: search_plan.distribution(override) for key, override in swept.items()}
        jobs = _check_each(fixed, {key: search_plan.ends(of) for key, of in space.items()}, overrides)
        plan, together = search_plan.plan(hydra.sweeper, space, fixed, jobs), hydra.sweeper.n_jobs
        texts = [in_grammar(key, of) if isinstance(of, list) else str(of.input_line) for key, of in swept.items()]
    else:
        values = {key: of if isinstance(of, list) else listed(of) for key, of in swept.items()}
        jobs = _check_each(fixed, values, overrides)
        plan, together = None, math.prod(map(len, values.values()))
        texts = [in_grammar(key, each) for key, each in values.items()]
    folder = _folder(names[-1] if names else None, is_search=plan is not None)
    tell(f"metalearn: {'search' if plan else 'sweep'} over {', '.join(swept)} in {folder}")
    tell_each(dict.fromkeys(note for job in jobs for note in job.notes))
    launch = secrets.token_hex(4)
    escaped = quote(f"name={folder}").removeprefix("name=")
    words = [*map(quote, fixed), *texts, *_QUIET, f"hydra.sweep.dir={escaped}", "hydra.sweep.subdir=."]
    words += _share_cores(hydra, together)
    run_one = partial(run_job, Path.cwd(), folder, launch, frozenset(swept))
    is_broken = False
    try:
        version.setbase("1.3")  # as hydra.main does, which takes its arguments from sys.argv alone
        main = Hydra.create_main_hydra2("metalearn", create_config_search_path(str(conf_dir())))
        if plan is None:
            main.multirun("config", run_one, words)
        else:
            search.run_search(plan, folder, run_one, main, words)
    except Interrupted as signal:  # between two jobs
        raise Interrupted(signal.code - 128, "the same command with the same name continues the sweep") from signal
    except UserError:
        raise
    except Exception as error:  # of the launcher: a job's own is in its outcome
        if is_debugging():
            raise
        is_broken = True
        tell(f"metalearn: the jobs could not all be run ({type(error).__name__}: {' '.join(str(error).split())[:500]})")
    finally:
        GlobalHydra.instance().clear()
    done = outcomes(folder, launch)
    if stopped := [outcome.stopped for outcome in done if outcome.stopped]:
        raise Interrupted(stopped[0], "the same command with the same name continues the sweep")
    if plan is not None:
        code = _print_table(folder, *search.trials(folder, plan.metric))
    else:
        folders = [job_folder(folder, outcome.values) for outcome in done]
        begun = [job for job in folders if (job / "config.yaml").exists()]
        code = _print_table(folder, done, best_sentences(group(begun, str(folder), False)), None)
    return 1 if is_broken else code


def _folder(name: str | None, is_search: bool) -> Path:
    """Make the folder of the sweep of this name, or a new one where there is no name."""
    folder = runs.OUTPUTS / (name or time.strftime(f"%Y-%m-%d/%H-%M-%S-sweep-{secrets.token_hex(2)}"))
    has_study = (folder / STUDY_FILE).exists()
    if (folder / "config.yaml").exists():
        raise UserError(f"{folder} holds a run and cannot hold a sweep too: take another name")
    if has_study and not is_search:
        raise UserError(f"{folder} holds a search and cannot hold a sweep too: take another name")
    if is_search and not has_study and any(folder.glob("*/outcome.json")):
        raise UserError(f"{folder} holds a sweep and cannot hold a search too: take another name")
    folder.mkdir(parents=True, exist_ok=name is not None)
    return folder


def _check_each(fixed: list[str], values: dict[str, list[str]], overrides: list[str]) -> list[Job]:
    """Compose each value once before the first job -> the jobs that can succeed. Raises UserError where none can."""
    first = {key: f"{key}={each[0]}" for key, each in values.items()}
    jobs: list[Job] = []
    failures: list[UserError] = []
    for key, each in values.items():
        for value in each:
            composed, choices = compose_config([*fixed, *{**first, key: f"{key}={value}"}.values()])
            try:
                job = train_job(composed, choices, overrides)
                _ = stage_jobs(job)
                jobs.append(job)
            except UserError as error:
                failures.append(error)
    if not jobs:
        raise failures[0]
    return jobs


def _share_cores(hydra: Any, jobs: int) -> list[str]:
    """Share the cores among jobs beside one another, unless OMP_NUM_THREADS is set -> overrides for their launcher."""
    launcher, more = hydra.runtime.choices["hydra/launcher"], list[str]()
    if launcher not in ("joblib", "submitit_local"):
        return []
    if launcher == "joblib":  # the other starts all at once
        jobs = min(jobs, hydra.launcher.n_jobs if hydra.launcher.n_jobs > 0 else cores())
        more = [f"hydra.launcher.n_jobs={jobs}"]
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    os.environ.setdefault("MKL_NUM_THREADS", threads)  # which torch asks first, and joblib would set
    return more


def _print_table(folder: Path, outcomes: list[Outcome], best: list[str], validations: list[float | None] | None) -> int:
    """Print a line for each job, of a search with its best validation result, and those about the best of them."""
    width = max((len(outcome.values) for outcome in outcomes), default=0)
    code = 0
    lines: list[str] = []
    for place, outcome in enumerate(outcomes):
        values = f"{outcome.values:<{width}}"
        if outcome.failed is not None:
            # In a search some values may diverge, as some are pruned: another trial has come to its end.
            is_given_up = outcome.diverged and validations is not None and best
            lines.append(f"{values}  {'diverged' if is_given_up else 'failed'}: {outcome.failed}")
            code = code if is_given_up else 1
            continue
        if outcome.pruned:
            lines.append(f"{values}  {outcome.pruned}")
            continue
        if (metric := outcome.metric) is None:
            lines.append(f"{values}  not tested")
            continue
        validation = f"val {text_of(validations[place], metric)}, " if validations is not None else ""
        test = f"{in_unit(metric)} {with_interval(outcome.mean, outcome.ci95, metric)}"
        short = f": {outcome.shortfall}" if outcome.shortfall else ""
        step = after_steps(outcome.inner_steps)
        lines.append(f"{values}  {validation}{test}{step}{short}")
        code = code or (3 if short else 0)
    lines += best
    lines.append(f"results are in {folder}")
    show("\n".join(map(printable, lines)))
    return code
