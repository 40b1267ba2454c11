"""The run folder: who may write it, what was asked for, and on which machine and versions.

outputs/NAME, or outputs/<date>/<time>-<algo>-<task>-<id> without a name. config.yaml holds the whole configuration;
the same command with the same name continues the run.
"""

import contextlib
import fcntl
import os
import re
import secrets
import socket
import time
from pathlib import Path
from typing import IO

from omegaconf import OmegaConf

from metalearn_cli.config.conf_folder import Config, flatten
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import checkpoint, records
from metalearn_cli.run_folder.config_file import EDITED, load_config
from metalearn_cli.run_folder.environment import FILE as ENVIRONMENT
from metalearn_cli.run_folder.environment import environment_here, read_environment, write_environment
from metalearn_cli.run_folder.results import FILE as RESULTS
from metalearn_cli.run_folder.results import Results, check_figures, read_results
from metalearn_cli.system.files import (
    open_plain,
    read_bytes,
    refuse_link,
    write_durably,
)
from metalearn_cli.version import __version__

OUTPUTS = Path("outputs")
# What may differ when a run goes on; `steps` may only grow, which `check_same` sees to.
FREE = frozenset(
    {
        "name",
        "steps",
        "device",
        "threads",
        "allocator",
        "compile",
        "cuda_graph",
        "memory",
        "algo.remat",
        "save_every",
        "log_every",
        "eval_every",
        "keep",
        "logger",
        "expect",
        "trust",
        "lock",
    }
)
# What the final test alone depends on: it may be given otherwise, and then the run is tested again. batch_norm,
# episodes_seed and algo.test_steps are no such keys: a validation has them too, and chooses a checkpoint by them.
TEST_KEYS = frozenset({"test_episodes", "other_batch_norm", "select"})


def is_free(key: str, free: frozenset[str] = FREE | TEST_KEYS) -> bool:
    return key in free or key.startswith("paper")


def deciding(config: Config) -> Config:
    """The keys of a configuration, flat, that decide what is trained: a checkpoint and results.json hold them with
    their values."""
    keys = {key: value for key, value in flatten(config).items() if not is_free(key)}
    if config["steps"] == 0:  # where a schedule ends, which nothing has followed yet
        keys.pop("optimizer.schedule_steps", None)
    return keys


def folder_of(name: str | None, algo: str, task: str) -> Path:
    """Where a run of this name stands; without a name, a new folder that no other launch can get."""
    if name is not None:
        return OUTPUTS / name
    now = time.localtime()
    stem = f"{time.strftime('%H-%M-%S', now)}-{algo}-{task}-{secrets.token_hex(4)}"
    return OUTPUTS / time.strftime("%Y-%m-%d", now) / stem


def lock(folder: Path, enabled: bool) -> IO[str]:
    """Take the folder for this process for as long as the returned file stays open.

    The kernel frees the lock when its holder dies, however it dies.
    """
    path = folder / "lock"
    file = open(open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "a+")
    if not enabled:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{folder} is in use by {file.read(200).strip() or 'another process'}: wait for it, or take another name"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder} stands on a file system that cannot lock files ({error.strerror}): give lock=false, and see to "
            "it yourself that only one process uses the folder"
        ) from error
    try:
        os.truncate(file.fileno(), 0)
        os.write(file.fileno(), f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError as error:  # a full disk
        error.filename = str(path)
        raise
    return file


def holder(folder: Path) -> str | None:
    """Who holds the folder now; None where nobody does. Of a process on another machine it is not known whether it
    still runs."""
    try:
        with open(open_plain(folder / "lock", os.O_RDONLY)) as file:
            text = file.read(200).strip()
            pid, host = text.removeprefix("pid ").split(" on ", 1)
            if host != socket.gethostname():
                return f"{text}, if it still runs there"
            os.kill(int(pid), 0)  # raises where there is no such process
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # there is one, and it may be another by now
    except BlockingIOError:
        return text
    except PermissionError:  # of another user
        return text
    except (OSError, ValueError, OverflowError):
        return None
    return None


def check_same(folder: Path, config: Config, defaults: Config, given: frozenset[str]) -> None:
    """Raises UserError where the folder holds a run of another configuration, with the keys that differ.

    A version without some key did what its default of now does, which `defaults` names. The keys of the test may differ
    where they are `given`.
    """
    path = folder / "config.yaml"
    if not path.exists():
        others = sorted({entry.name for entry in folder.iterdir()} - {"lock", "train.log", "outcome.json"})
        if others:
            raise UserError(f"{folder} holds {others[0]} and is not the folder of a run: take another name")
        return
    old, new = flatten(load_config(path)), flatten(config)
    old = {key: defaults[key] for key in new.keys() & defaults.keys()} | old
    free = FREE | (TEST_KEYS & given)
    differing = sorted(
        key for key in old.keys() | new.keys() if not is_free(key, free) and old.get(key) != new.get(key)
    )
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
    """What is wrong with a run that has these keys, which there are no longer."""
    version = read_environment(folder).metalearn or "?" if (folder / ENVIRONMENT).exists() else "?"
    given = ", ".join(f"{key}={keys[key]}" for key in sorted(keys))
    return (
        f"was started by metalearn {version} with {given}, which metalearn {__version__} does not have: use the "
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


def load_tested(run: Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """The checkpoint that a run has tested, or its newest one, and what the user should know of it: what was skipped to
    get it, and what of the folder is not proved. Raises UserError where the folder does not stand as it was written."""
    skipped: list[str] = []
    if (run / RESULTS).exists():
        tested = checkpoint.load_step(run / "checkpoints", read_results(run).step)
    else:
        newest, skipped = checkpoint.load_newest(run / "checkpoints")
        if newest is None:
            raise UserError(f"{run} has no checkpoint yet: train it first")
        tested = newest
    changed = check_config(run, flatten(load_config(run / "config.yaml")), tested.proof, str(tested))
    notes = [*changed, *check_records(run), *unproved(run, tested.proof)]
    return tested, [*(f"skipping {damage}" for damage in skipped), *notes]


def checked_results(folder: Path, config: Config) -> tuple[Results | None, list[str]]:
    """The results in a folder with this configuration (None: there are none), and a sentence for what was changed on
    purpose. Raises UserError where results.json, episodes.npz or config.yaml is not as it was written."""
    path = folder / RESULTS
    if not path.exists():
        return None, []
    results = read_results(folder)
    changed = check_config(folder, flatten(config), results.config, path.name)
    if not is_edited(path):
        check_figures(folder, results)
    return results, [*changed, *check_records(folder)]


def check_written(folder: Path) -> list[str]:
    """Raises UserError where the configuration of a run that goes on is not that of its checkpoints -> a sentence where
    nothing proves it."""
    newest = None
    with contextlib.suppress(UserError):  # where none is whole: who resumes says so
        newest, _ = checkpoint.load_newest(folder / "checkpoints")
    if newest is None or not (folder / "config.yaml").exists():
        return []
    if said := check_config(folder, flatten(load_config(folder / "config.yaml")), newest.proof, str(newest)):
        raise UserError(f"{said[0]}; a training cannot go on from there: put it back, or take another name")
    return unproved(folder, newest.proof)


def check_config(folder: Path, config: Config, proof: Config | None, by: str) -> list[str]:
    """Raises UserError where a folder's config.yaml, flat, has another value than `proof` for a key that decides, with
    which `by` was made -> a sentence where somebody did that on purpose. `proof` None: of a version before."""
    path, proof = folder / "config.yaml", proof or {}
    changed = [key for key in sorted(proof) if not is_free(key) and not _is_same(config, proof, key)]
    what = ", ".join(f"{key} is {config.get(key, 'gone')} where {by} has {proof[key]}" for key in changed[:3])
    what += f", and {len(changed) - 3} keys more" if len(changed) > 3 else ""
    if is_edited(path):
        return [f"{path} was changed on purpose, and is taken as it stands{f': {what}' if what else ''}"]
    if changed:
        raise UserError(
            f"{path} is not as it was written, {what}: put it back, or write `{EDITED}: true` into it to have "
            "it taken as it is"
        )
    return []


def _is_same(one: Config, other: Config, key: str) -> bool:
    return key in one and (one[key] == other[key] or repr(one[key]) == repr(other[key]))  # nan is not nan


def check_records(folder: Path) -> list[str]:
    """Raises UserError where a record that decides what is predicted or printed is not as it was written -> a sentence
    for what was changed on purpose."""
    found = _records(folder)
    for path, content in found.items():
        _ = records.unsealed(path, content)
    edited = [path for path, content in found.items() if content.get(EDITED)]
    return [f"{path} was changed on purpose, and is taken as it stands" for path in edited]


def unproved(folder: Path, proof: Config | None) -> list[str]:
    """A sentence on the files that a version has written which kept no hashes; `proof` is that of config.yaml."""
    names = ["config.yaml"] if proof is None else []
    marks = {records.HASH, EDITED}
    names += [path.name for path, content in _records(folder).items() if not content.keys() & marks]
    if not names:
        return []
    return [
        f"{folder} is of a version that kept no hashes: nothing proves that {', '.join(names)} are as it wrote them"
    ]


def _records(folder: Path) -> dict[Path, Config]:
    """The records that decide what is predicted or printed, as they stand in the folder."""
    names = (ENVIRONMENT, "task.json", RESULTS, "unlike.json", "model.json")
    return {path: records.read_object(path) for name in names if (path := folder / name).exists()}


def is_edited(path: Path) -> bool:
    """Whether somebody says in it that it was changed on purpose."""
    if path.suffix == ".json":
        return bool(records.read_object(path).get(EDITED))
    return path.exists() and re.search(rb"^edited: *true\b", read_bytes(path), re.MULTILINE) is not None


def remove_temporary(folder: Path) -> None:
    """What a killed process left behind; only safe while the run's lock is held."""
    refuse_link(folder / "checkpoints")
    for path in (*folder.glob("*.tmp-*"), *folder.glob("checkpoints/*.tmp-*")):
        path.unlink()


def write_records(
    folder: Path,
    config: Config,
    overrides: list[str],
    choices: dict[str, str],
    fingerprint: str,
    ranks: int = 1,
) -> None:
    """config.yaml, overrides.txt, environment.json."""
    write_durably(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)).encode())
    write_durably(folder / "overrides.txt", "".join(f"{override}\n" for override in overrides).encode())
    write_environment(folder, environment_here(ranks, choices, fingerprint))
