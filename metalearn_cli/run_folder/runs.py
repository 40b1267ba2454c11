"""The run folder: where it stands, what was asked for in it, and whether a command may go on with it.

outputs/NAME, or outputs/<date>/<time>-<algo>-<task>-<id> without a name. config.yaml holds the whole configuration;
the same command with the same name continues the run.
"""

import secrets
import time
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import Config, flatten
from metalearn_cli.config.job import Job
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder.config_file import load_config
from metalearn_cli.run_folder.environment import ENVIRONMENT, environment_here, read_environment
from metalearn_cli.run_folder.records import write_record
from metalearn_cli.system.files import refuse_link, write_durably
from metalearn_cli.system.text import printable
from metalearn_cli.tasks.example_format import Weights
from metalearn_cli.version import __version__

OUTPUTS = Path("outputs")
# What may differ when a run goes on; `steps` may only grow, which `check_same` sees to.
FREE = frozenset(
    {
        *("name", "steps", "device", "threads", "allocator", "compile", "cuda_graph", "memory", "algo.remat"),
        *("save_every", "log_every", "eval_every", "keep", "logger", "expect", "trust", "lock"),
    }
)
# Only the final test depends on these: they may be given otherwise, and then the run is tested again. batch_norm,
# episodes_seed and algo.test_steps are not among them: a validation has them too, and chooses a checkpoint by them.
TEST_KEYS = frozenset({"test_episodes", "other_batch_norm", "select"})


def is_free(key: str, free: frozenset[str] = FREE | TEST_KEYS) -> bool:
    return key in free or key.startswith("paper")


def deciding(config: Config) -> Config:
    """Return the keys, flat, that decide what is trained: a checkpoint and results.json hold them with their values."""
    keys = {key: value for key, value in flatten(config).items() if not is_free(key)}
    if config["steps"] == 0:  # where a schedule ends, which nothing has followed yet
        keys.pop("optimizer.schedule_steps", None)
    return keys


def choose_folder(name: str | None, algo: str, task: str) -> Path:
    """Say where a run of this name stands; without a name, a folder that no other launch can get."""
    if name is not None:
        return OUTPUTS / name
    now = time.localtime()
    stem = f"{time.strftime('%H-%M-%S', now)}-{algo}-{task}-{secrets.token_hex(4)}"
    return OUTPUTS / time.strftime("%Y-%m-%d", now) / stem


def stage_folder(run: Path, number: int) -> Path:
    return run / f"stage{number}"


def stage_folders(run: Path) -> list[Path]:
    """The folders of a run's stages that have begun, in their order."""
    return list(takewhile(Path.is_dir, (stage_folder(run, number) for number in count())))


def newest_folder(run: Path) -> Path:
    """The folder with the checkpoints from which a run goes on: of its last stage, where it has none of its own."""
    stages = stage_folders(run)
    return stages[-1] if stages and not any((run / "checkpoints").glob("step-*")) else run


def check_same(folder: Path, config: Config, defaults: Config, given_keys: frozenset[str]) -> None:
    """Raises UserError where the folder holds a run of another configuration. A version without some key did what its
    default in `defaults` does, and the keys of the test may differ where they are in `given_keys`."""
    path = folder / "config.yaml"
    if not path.exists():
        others = sorted({entry.name for entry in folder.iterdir()} - {"lock", "train.log", "outcome.json"})
        if others:
            raise UserError(f"{folder} holds {others[0]} and is not the folder of a run: take another name")
        return
    old, new = flatten(load_config(path)), flatten(config)
    old = {key: defaults[key] for key in new.keys() & defaults.keys()} | old
    may_differ = FREE | (TEST_KEYS & given_keys)
    keys = sorted(key for key in old.keys() | new.keys() if not is_free(key, may_differ))
    differing = [key for key in keys if old.get(key) != new.get(key)]
    if "optimizer.schedule_steps" in differing and old["steps"] == 0:  # nothing has followed the schedule yet
        differing.remove("optimizer.schedule_steps")
    if differing == ["optimizer.schedule_steps"]:
        ends = old["optimizer.schedule_steps"]
        raise UserError(
            f"the {old['optimizer.schedule']} schedule of {folder} ends at step {ends}: give "
            f"optimizer.schedule_steps={ends} to go on at its last rate, or take another name"
        )
    if differing and not any(key in new for key in differing):
        raise UserError(f"{folder} {gone_keys(folder, {key: old[key] for key in differing})}, or take another name")
    if differing:
        changes = ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in differing)
        raise UserError(f"{folder} holds a run of another configuration ({changes}): take another name")
    if new["steps"] < old["steps"]:
        raise UserError(
            f"{folder} holds a run of {old['steps']} steps, and steps={new['steps']} is less: take another name"
        )


def gone_keys(folder: Path, keys: Config) -> str:
    """Say what is wrong with a run that has these keys, which this version does not have."""
    version = read_environment(folder).metalearn or "?" if (folder / ENVIRONMENT).exists() else "?"
    shown = ", ".join(f"{key}={keys[key]}" for key in sorted(keys))
    return (
        f"was started by metalearn {version} with {shown}, which metalearn {__version__} does not have: use the "
        "version that it was started with"
    )


def check_same_data(folder: Path, fingerprint: str) -> None:
    """Raises UserError where the folder holds a run on other data: a user's own images may have changed."""
    data = read_environment(folder).data if (folder / ENVIRONMENT).exists() else None
    if data not in (None, fingerprint):
        raise UserError(
            f"the data of {folder} have changed: their hash was {data[:16]} when it was trained, and is "
            f"{fingerprint[:16]}; put them back, or train in a run of another name"
        )


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process left behind; only safe while the run's lock is held."""
    refuse_link(folder / "checkpoints")
    for path in (*folder.glob("*.tmp-*"), *folder.glob("checkpoints/*.tmp-*")):
        path.unlink()


def check_same_weights(folder: Path, weights: Weights | None) -> None:
    """Raises UserError where the folder holds a run on a network with other weights of the same name."""
    then = read_environment(folder).network if (folder / ENVIRONMENT).exists() else None
    if then is not None and weights is not None and then.sha256 != weights.sha256:
        raise UserError(f"{folder} {other_weights(then, weights)}")


def other_weights(then: Weights, now: Weights) -> str:
    return (
        f"was made with the weights {then.sha256[:16]} of {printable(then.name)}, and {printable(now.name)} has "
        f"{now.sha256[:16]} now: put them back, or train in a run of another name"
    )


def write_records(folder: Path, job: Job, overrides: list[str], fingerprint: str, ranks: int = 1) -> None:
    """Write config.yaml, overrides.txt and environment.json, which keeps what the run began with."""
    here = environment_here(ranks, job.choices, fingerprint, job.weights)
    origin = read_environment(folder).origin if (folder / ENVIRONMENT).exists() else None
    write_durably(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(job.config)).encode())
    write_durably(folder / "overrides.txt", "".join(f"{override}\n" for override in overrides).encode())
    write_record(folder / ENVIRONMENT, replace(here, origin=origin))
