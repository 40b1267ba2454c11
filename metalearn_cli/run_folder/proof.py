"""Check that the files of a run stand as the run wrote them; docs/records.md has the whole.

config.yaml is compared with the keys in the checkpoints, whose names carry their hashes, and in results.json; a record
carries the hash of its own content.
"""

import contextlib
import re
from pathlib import Path

from metalearn_cli.config.conf_folder import Config, flatten
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import checkpoint, records
from metalearn_cli.run_folder.config_file import EDITED, load_config
from metalearn_cli.run_folder.environment import ENVIRONMENT, TASK
from metalearn_cli.run_folder.results import RESULTS, Results, check_figures, read_results
from metalearn_cli.run_folder.runs import is_free
from metalearn_cli.system.files import read_bytes


def load_tested(run: Path) -> tuple[checkpoint.Checkpoint, list[str]]:
    """Load the checkpoint that a run has tested, or its newest one -> it, and what the user should know of it: what was
    skipped, and what of the folder is not proved. Raises UserError where the folder is not as it was written."""
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
    """Read the results in a folder with this configuration (None: there are none), and a sentence for what was changed
    on purpose. Raises UserError where results.json, episodes.npz or config.yaml is not as it was written."""
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
    with contextlib.suppress(UserError):  # where none is whole: `resume` says so
        newest, _ = checkpoint.load_newest(folder / "checkpoints")
    if newest is None or not (folder / "config.yaml").exists():
        return []
    if changed := check_config(folder, flatten(load_config(folder / "config.yaml")), newest.proof, str(newest)):
        raise UserError(f"{changed[0]}; a training cannot go on from there: put it back, or take another name")
    return unproved(folder, newest.proof)


def check_config(folder: Path, config: Config, proof: Config | None, by: str) -> list[str]:
    """Raises UserError where a folder's config.yaml, flat, has another value of a deciding key than `proof`, with which
    `by` was made -> a sentence where somebody did that on purpose. `proof` None: `by` is of an earlier version."""
    path, proof = folder / "config.yaml", proof or {}
    changed = [key for key in sorted(proof) if not is_free(key) and not _is_same(config, proof, key)]
    changes = ", ".join(f"{key} is {config.get(key, 'gone')} where {by} has {proof[key]}" for key in changed[:3])
    changes += f", and {len(changed) - 3} keys more" if len(changed) > 3 else ""
    if is_edited(path):
        return [f"{path} was changed on purpose, and is taken as it stands{f': {changes}' if changes else ''}"]
    if changed:
        raise UserError(
            f"{path} is not as it was written, {changes}: put it back, or write `{EDITED}: true` into it to have "
            "it taken as it is"
        )
    return []


def _is_same(config: Config, proof: Config, key: str) -> bool:
    return key in config and (config[key] == proof[key] or repr(config[key]) == repr(proof[key]))  # nan is not nan


def check_records(folder: Path) -> list[str]:
    """Raises UserError where a record that decides what is predicted or printed is not as it was written -> a sentence
    for what was changed on purpose."""
    contents = _read_records(folder)
    for path, content in contents.items():
        _ = records.unsealed(path, content)
    edited = [path for path, content in contents.items() if content.get(EDITED)]
    return [f"{path} was changed on purpose, and is taken as it stands" for path in edited]


def unproved(folder: Path, proof: Config | None) -> list[str]:
    """Return a sentence on the files of a version that kept no hashes; `proof` is that of config.yaml."""
    names = ["config.yaml"] if proof is None else []
    marks = {records.HASH, EDITED}
    names += [path.name for path, content in _read_records(folder).items() if not content.keys() & marks]
    if not names:
        return []
    return [
        f"{folder} is of a version that kept no hashes: nothing proves that {', '.join(names)} are as it wrote them"
    ]


def _read_records(folder: Path) -> dict[Path, Config]:
    """Read the records that decide what is predicted or printed, as they stand in the folder."""
    names = (ENVIRONMENT, TASK, RESULTS, "unlike.json", "model.json")
    return {path: records.read_object(path) for name in names if (path := folder / name).exists()}


def is_edited(path: Path) -> bool:
    """Whether somebody says in it that it was changed on purpose."""
    if path.suffix == ".json":
        return bool(records.read_object(path).get(EDITED))
    return path.exists() and re.search(rb"^edited: *true\b", read_bytes(path), re.MULTILINE) is not None
