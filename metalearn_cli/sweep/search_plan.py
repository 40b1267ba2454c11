"""The plan of a search: the space, how it is searched, and what may not change when it goes on."""

import re
from typing import Any, NamedTuple

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner

from metalearn_cli.config.conf_folder import conf_dir, list_choices
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import runs


class Search(NamedTuple):
    """What is searched and how: `trials` in all, of which `together` are launched at once."""

    space: dict[str, BaseDistribution]  # by the key as the command line gives it, with a + or without
    metric: str
    sampler: DictConfig  # which is made again for each trial
    pruner: BasePruner
    trials: int
    together: int
    overrides: list[str]  # those of all trials
    fixed: dict[str, str]  # what of them makes it this search
    lock: bool


def plan(sweeper: DictConfig, space: dict[str, BaseDistribution], fixed: list[str], jobs: list[Job]) -> Search:
    """Make the plan for which hydra.sweeper asks. Raises UserError for mistakes in it, or where trials cannot be
    compared."""
    for key in ("n_trials", "n_jobs"):
        if not isinstance(sweeper[key], int) or sweeper[key] < 1:
            raise UserError(f"hydra.sweeper.{key}={sweeper[key]} must be a whole number from 1 on")
    metrics = sorted({job.task.spec.metric for job in jobs})
    if len(metrics) > 1:
        raise UserError(f"a search compares by one metric, and its tasks have {' and '.join(metrics)}: give one task")
    for run in (job.run for job in jobs):
        if run.eval_every == 0 or run.eval_every > run.steps:
            raise UserError(
                f"a search compares trials by their validations, and eval_every={run.eval_every} with "
                f"steps={run.steps} has none: give an eval_every from 1 to {run.steps}"
            )
    instantiate_part("sampler", sweeper.sampler)
    pruner: BasePruner = instantiate_part("pruner", sweeper.pruner)
    asked = dict(text.lstrip("+").split("=", 1) for text in fixed if not re.match(r"sweep=|\+*hydra[./]", text))
    asked = {key: value for key, value in asked.items() if key not in runs.FREE - {"steps", "eval_every"}}
    asked |= {
        f"hydra.sweeper.{part}.{key}": str(value)
        for part in ("sampler", "pruner")
        for key, value in sweeper[part].items()
    }
    how_many = (sweeper.n_trials, sweeper.n_jobs)
    return Search(space, metrics[0], sweeper.sampler, pruner, *how_many, fixed, asked, jobs[0].run.lock)


def instantiate_part(part: str, node: Any) -> Any:
    choices = list_choices(f"hydra/sweeper/{part}")
    files = [conf_dir() / "hydra/sweeper" / part / f"{choice}.yaml" for choice in choices]
    classes = [OmegaConf.select(OmegaConf.load(file), "_target_") for file in files]
    if not isinstance(node, DictConfig) or node.get("_target_") not in classes:
        # Another of Optuna's may remember more than the trials, and would not go on as it began.
        raise UserError(
            f"hydra.sweeper.{part}: choose by hydra/sweeper/{part}=... from {', '.join(choices)}, and not by a dot or "
            "_target_"
        )
    try:
        return instantiate(node)
    except HydraException as error:
        raise UserError(f"hydra.sweeper.{part} cannot be made: {error.__cause__ or error}") from error
