"""`-m`: one training for each combination of the swept keys, started by Hydra's sweeper and launcher.

A sweep's folder is outputs/NAME, and a job's folder in it is named by the swept keys alone, sorted, so that the same
command again continues what is missing.
"""

import os
import secrets
import sys
import time
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from metalearn_cli import runs
from metalearn_cli.catalog import conf_dir
from metalearn_cli.config import check_name, chosen, compose_config, quote, refuse_hydra, train_job
from metalearn_cli.errors import Broken, UserError
from metalearn_cli.interrupt import Interrupted
from metalearn_cli.jobs import number, train_run
from metalearn_cli.metrics import shortfall
from metalearn_cli.progress import Console, show, tell

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
    outcomes: dict[str, dict[str, Any] | str] = {}
    stopped: list[Interrupted] = []

    def job(config: DictConfig) -> None:
        if stopped:
            return
        own = list(HydraConfig.get().overrides.task)
        # A key of one's own class is given as +key=value; the folder is named by the key.
        values = ",".join(sorted(text.lstrip("+") for text in own if text.partition("=")[0] in swept))
        tell(f"metalearn: {values}")
        try:
            outcomes[values] = _run(folder / values.replace("/", "_"), config, own)
        except Interrupted as signal:
            stopped.append(signal)

    swept_overrides = [f"{key}={','.join(values)}" for key, values in swept.items()]
    before = sys.argv
    sys.argv = ["metalearn", "--multirun", *map(quote, fixed), *swept_overrides, *_QUIET]
    escaped = quote(f"name={folder}").removeprefix("name=")
    sys.argv += [f"hydra.sweep.dir={escaped}", "hydra.sweep.subdir=."]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except Interrupted as signal:  # between two jobs
        stopped.append(signal)
    finally:
        sys.argv = before
    if stopped:
        raise Interrupted(stopped[0].code - 128, "the same command with the same name continues the sweep")
    return _print_table(folder, outcomes)


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


def _run(folder: Path, composed: DictConfig, overrides: list[str]) -> dict[str, Any] | str:
    """One job -> its results, or the sentence of its failure, which stands in its own log too."""
    name = folder.relative_to(runs.OUTPUTS).as_posix()
    node = OmegaConf.create({**composed, "name": name})
    choices = chosen(HydraConfig.get().runtime.choices)
    try:
        job = train_job(node, choices, overrides)
        _, results = train_run(job, [*overrides, f"name={name}"])
        return {**results, "shortfall": shortfall(job.run.expect, results)}
    except Exception as error:
        cause = error.__cause__ if isinstance(error, Broken) else error
        sentence = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(cause))
        tell(f"metalearn: {sentence}")
        if not (folder / "train.log").exists():  # it failed before it had a log to say so in
            folder.mkdir(parents=True, exist_ok=True)
            with closing(Console(folder / "train.log")) as console:
                console.note(f"failed: {sentence}")
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return str(error) if isinstance(error, Broken) else sentence.strip().splitlines()[-1]


def _print_table(folder: Path, outcomes: dict[str, dict[str, Any] | str]) -> int:
    width = max(map(len, outcomes))
    code = 0
    lines: list[str] = []
    for values, outcome in outcomes.items():
        if isinstance(outcome, str):
            lines.append(f"{values:<{width}}  failed: {outcome}")
            code = 1
            continue
        percent = outcome["metric"] == "accuracy"
        figure = f"{number(outcome['mean'], percent)} +- {number(outcome['ci95'], percent)}"
        short = f": {outcome['shortfall']}" if outcome["shortfall"] else ""
        lines.append(f"{values:<{width}}  {outcome['metric']}{' in %' if percent else ''} {figure}{short}")
        code = code or (3 if short else 0)
    lines.append(f"results are in {folder}")
    show("\n".join(lines))
    return code
