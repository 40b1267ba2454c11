"""The stages of a run: runs before it, each of which the next one starts from.

An item of `stages` has the keys that are other than the run's own, as a command line has them: {algo: pretrain,
algo.images: 128, optimizer: {lr: 0.1}}. A group that it chooses (algo, task, model, optimizer) is as its yaml file has
it.
"""

import contextlib
from collections.abc import Iterator
from copy import deepcopy

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import GROUPS, Config, flatten, group_in_yaml, keys_in_yaml, list_choices
from metalearn_cli.config.job import Job, make_job, with_validation
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.errors import UserError, nearest

OF_THE_RUN = ("name", "init", "init_names", "stages", "expect", "paper")


@contextlib.contextmanager
def of_stage(number: int) -> Iterator[None]:
    """Put the stage before the sentence of a mistake in it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"stages[{number}]: {error}") from (error.__cause__ or error)


def stage_jobs(job: Job) -> list[Job]:
    """The jobs of a run's stages. Raises UserError for a mistake in one."""
    jobs = []
    for number, keys in enumerate(job.run.stages):
        with of_stage(number):
            stage = _stage_job(job, flatten(keys))
            jobs.append(stage.with_keys(init=None, init_names=()) if number else stage)
    return jobs


def _stage_job(job: Job, keys: Config) -> Job:
    """The job of a stage that has these keys. What a debug preset sets, it sets for the stages too."""
    debug = job.choices.get("debug")
    shortened = keys_in_yaml("debug", debug) if debug else []
    keys = {key: value for key, value in keys.items() if f"debug.{key}" not in shortened}
    config = {**deepcopy(job.config), "stages": [], "expect": None, "paper": None}
    config["optimizer"]["schedule_steps"] = None  # the stage's own steps, if it does not say otherwise
    choices = {group: choice for group, choice in job.choices.items() if group != "experiment"}
    for group in (group for group in GROUPS if group in keys):
        choice = choices[group] = str(keys[group])
        if choice not in list_choices(group):
            raise UserError(f"{group}={choice} is none of the choices{nearest(choice, list_choices(group))}")
        config[group] = group_in_yaml(group, choice)
    for key, value in keys.items():
        group, _, name = key.partition(".")
        if group in OF_THE_RUN:
            raise UserError(f"{key} is for the whole run: give it beside stages")
        if name and group not in GROUPS:
            raise UserError(f"there is no key {key}{nearest(key, flatten(config))}")
        if key not in GROUPS:
            (config[group] if name else config)[name or key] = value
    stage = with_validation(make_job(OmegaConf.create(config), choices, ConfigSource(frozenset(keys), trust=True)))
    return stage._replace(given_keys=job.given_keys | stage.given_keys)
