"""The plan of a search: its space, how it is searched, and what may not change when it goes on.

The space is written in Hydra's grammar of sweeps:

choice(a,b) or a,b          one of them
interval(0.1,1)             a number between; tag(log,interval(0.001,1)) by its order of magnitude
int(interval(1,8))          a whole number between, both ends included; int(tag(log,interval(1,64)))
range(1,9,2)                as everywhere in Hydra: 1, 3, 5, 7
"""

import math
import re
from typing import Any, NamedTuple

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner

from metalearn_cli.config.conf_folder import conf_dir, list_choices
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import runs


class Search(NamedTuple):
    """What is searched and how: `trials` in all, of which `together` are launched at once."""

    space: dict[str, BaseDistribution]  # by the key as the command line gives it, with a + or without
    metric: str
    sampler: DictConfig  # it is made again for each trial
    pruner: BasePruner
    trials: int
    together: int
    overrides: list[str]  # of all trials
    fixed: dict[str, str]  # those of them that make it this search
    lock: bool


def plan(sweeper: DictConfig, space: dict[str, BaseDistribution], fixed: list[str], jobs: list[Job]) -> Search:
    """Make the plan that hydra.sweeper asks for. Raises UserError where it is wrong, or trials cannot be compared."""
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
    for part in ("sampler", "pruner"):
        asked |= {f"hydra.sweeper.{part}.{key}": str(value) for key, value in sweeper[part].items()}
    numbers = (sweeper.n_trials, sweeper.n_jobs)
    return Search(space, metrics[0], sweeper.sampler, pruner, *numbers, fixed, asked, jobs[0].run.lock)


def instantiate_part(part: str, node: Any) -> Any:
    """Make the sampler or the pruner. Raises UserError where it is not one of conf/, or cannot be made."""
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


def distribution(override: Override | list[str]) -> BaseDistribution:
    """Translate one override, or listed values. Raises UserError where there is nothing to choose from."""
    if isinstance(override, list):
        return CategoricalDistribution(override)
    swept, line = override.value(), override.input_line
    if unknown := sorted(swept.tags - {"log", "int"}) if isinstance(swept, IntervalSweep | RangeSweep) else []:
        raise UserError(f"{line}: a search knows the tags log and int, not {unknown[0]}")
    if isinstance(swept, IntervalSweep):
        return _interval(line, swept)
    if isinstance(swept, RangeSweep) and not swept.shuffle:
        return _range(line, swept)
    if isinstance(swept, ChoiceSweep | RangeSweep):
        swept.shuffle = False  # the order means nothing to a search, and must be the same in every command
    return CategoricalDistribution(list(dict.fromkeys(map(str, override.sweep_string_iterator()))))


def _interval(line: str | None, swept: IntervalSweep) -> BaseDistribution:
    low, high, is_log = swept.start, swept.end, "log" in swept.tags
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{line}: an interval goes from one finite number to another")
    is_whole = "int" in swept.tags or (isinstance(low, int) and isinstance(high, int))
    low, high = (int(low), int(high)) if is_whole else (float(low), float(high))
    if not low < high:
        whole = f", and {low} to {high} in whole numbers does not" if is_whole else ""
        raise UserError(f"{line}: an interval goes from a lower number to a higher one{whole}")
    if is_log and low <= 0:
        from_one = ", in whole numbers from 1 on" if is_whole else ""
        raise UserError(f"{line}: tag(log) needs an interval above 0{from_one}")
    return IntDistribution(int(low), int(high), log=is_log) if is_whole else FloatDistribution(low, high, log=is_log)


def _range(line: str | None, swept: RangeSweep) -> BaseDistribution:
    if not all(end is not None and math.isfinite(end) for end in (swept.start, swept.stop, swept.step)):
        raise UserError(f"{line}: a range goes from one finite number to another")
    values = sorted(swept.range())
    if not values:
        raise UserError(f"{line} is empty")
    low, high, step, is_log = values[0], values[-1], abs(swept.step), "log" in swept.tags
    if is_log and (low <= 0 or step != 1):
        raise UserError(f"{line}: tag(log) needs a range of whole numbers above 0 in steps of 1, or an interval")
    if isinstance(low, int) and isinstance(step, int):
        return IntDistribution(low, high, step=1 if is_log else step, log=is_log)
    return FloatDistribution(_round(low), _round(high), step=_round(step))


def shortened(value: object, of: BaseDistribution) -> object:
    """Round a float to six digits, as it will stand in the name of a folder: what is recorded is what is trained."""
    if not isinstance(value, float) or not isinstance(of, FloatDistribution):
        return value
    return min(max(_round(value), of.low), of.high)


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def ends(of: BaseDistribution) -> list[str]:
    """List the values that are checked before the first trial: every choice, and both ends of numbers."""
    if isinstance(of, CategoricalDistribution):
        return list(map(str, of.choices))
    assert isinstance(of, FloatDistribution | IntDistribution)
    return [str(of.low), str(of.high)]
