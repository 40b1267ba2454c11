"""Begin a run with parameters and batch-norm statistics of another run, or of a file: the key `init`.

They are taken by name where the shape is the same, and the optimizer starts afresh. A file is data that somebody else
may have made: its size, header, types and numbers are checked, and nothing in it is run.
"""

import dataclasses
import difflib
import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError

from metalearn_cli.algorithms.features import BASE_MEAN
from metalearn_cli.config.job import Job
from metalearn_cli.datasets.paths import expand
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.run_folder import checkpoint, runs
from metalearn_cli.run_folder.config_file import check_folder
from metalearn_cli.run_folder.environment import ENVIRONMENT, Origin, read_environment
from metalearn_cli.run_folder.proof import load_tested
from metalearn_cli.run_folder.records import write_record
from metalearn_cli.system.files import read_bytes
from metalearn_cli.system.limits import parse_rename
from metalearn_cli.training.session import Session

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHOWN = 4  # names in a sentence; environment.json has all


class Start(NamedTuple):
    """What a run begins with in place of drawn values."""

    tensors: Params  # params.*, buffers.*, as the learner names them
    origin: Origin
    notes: list[str]  # on what nothing proves


def has_begun(name: str | None) -> bool:
    """Whether the run of this name has a checkpoint. It holds everything: neither `init` nor a stage is read again."""
    return name is not None and bool(checkpoint.list_newest_first(runs.OUTPUTS / name / "checkpoints"))


def start_from(init: str, renames: tuple[str, ...], drawn: Params) -> Start:
    """Read what a run's folder, or a file, has for a learner that would begin with `drawn`. Raises UserError where it
    has nothing."""
    path, notes, step = expand(init), list[str](), None
    if path.is_dir():
        check_folder(path, "init")
        tested, notes = load_tested(path)
        tensors, sha256, step = tested.tensors, tested.sha256, tested.step
    else:
        tensors, sha256 = _read_file(path)
    taken, other_shape, left = match(f"init={init}", tensors, renames, drawn)
    names = [_bare(place) for place in drawn if place not in taken]
    origin = Origin(init, sha256, step, tuple(map(_bare, taken)), tuple(other_shape), tuple(left), tuple(names))
    return Start(taken, origin, notes)


def match(source: str, tensors: Params, renames: tuple[str, ...], drawn: Params) -> tuple[Params, list[str], list[str]]:
    """Give the tensors of `source` their places among `drawn` -> those, and the names of another shape and of no place.
    Raises UserError where none has a place."""
    taken: Params = {}
    left, other_shape = list[str](), list[str]()
    for name, value in sorted(tensors.items()):  # a file is read in any order
        place = _place(name, renames, drawn)
        if name.startswith("optimizer."):
            continue
        if place is None:
            left.append(_bare(name))
        elif value.dtype not in FLOATS:
            raise UserError(f"{name} of {source} is of {value.dtype}: write it as torch.float32")
        elif value.shape != drawn[place].shape:
            other_shape.append(f"{_bare(place)} {list(value.shape)}, here {list(drawn[place].shape)}")
        elif place in taken:
            raise UserError(f"init_names gives two names of {source} the name {_bare(place)}: give each its own")
        elif not value.to(drawn[place].dtype).isfinite().all():
            raise UserError(f"{name} of {source} is not finite, or too large: take another checkpoint or file")
        else:
            taken[place] = value
    if not taken:
        raise UserError(f"{source} has nothing for this model: {_why_nothing(left, other_shape, renames, drawn)}")
    return taken, other_shape, left


def require_base_mean(job: Job, drawn: Params, taken: Params) -> None:
    """Raises UserError where a run that trains nothing would subtract a mean feature that it has not got."""
    place = f"buffers.{BASE_MEAN}"
    if job.run.steps == 0 and place in drawn and place not in taken:
        raise UserError(
            "algo.centre=base subtracts the mean feature of the training classes, which a run of steps=0 does not "
            "measure and its start does not have: give steps=100, init= of a run with algo.centre=base, or "
            "algo.centre=none"
        )


def _read_file(path: Path) -> tuple[Params, str]:
    """The tensors in a file, and the hash of it. A link is followed: the command names it."""
    try:
        data = read_bytes(Path(os.path.realpath(path)), checkpoint.MOST_BYTES)
        return checkpoint.tensors_of(data), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise UserError(f"init={path} cannot be read ({error.strerror}): give a run's folder, or a file") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"init={path} is not a safetensors file ({error}): write one by safetensors.torch.save_file(tensors, path)"
        ) from error


def _place(name: str, renames: tuple[str, ...], drawn: Params) -> str | None:
    """Where a tensor of this name belongs: a file may tell parameters and statistics apart, or not."""
    name = _renamed(name, renames)
    return next((place for place in (name, f"params.{name}", f"buffers.{name}") if place in drawn), None)


def _renamed(name: str, renames: tuple[str, ...]) -> str:
    for theirs, ours in map(parse_rename, renames):
        name = name.replace(theirs, ours)
    return re.sub(r"\.running_(mean|var)$", r".\1", name)  # as torch names the statistics of a batch norm


def _bare(place: str) -> str:
    return place.removeprefix("params.").removeprefix("buffers.")


def _why_nothing(left: list[str], other_shape: list[str], renames: tuple[str, ...], drawn: Params) -> str:
    if other_shape:
        return f"{other_shape[0]}: take the model that it was trained with"
    if not left:
        return "there is nothing in it"
    name = _renamed(left[0], renames)
    (near,) = difflib.get_close_matches(name, map(_bare, drawn), n=1, cutoff=0)
    return f"{name} is not one of its names, the nearest is {near}: give init_names=[THEIRS:OURS,...]"


def take(start: Start, session: Session) -> None:
    """Give the learner what the run begins with, tell the user, and record it."""
    learner, _, folder, console, _ = session
    learner.load_state_dict(learner.state_dict() | start.tensors)
    origin, kept = start.origin, len(start.origin.taken)
    at = "" if origin.step is None else f", step {origin.step:,}"
    console.say(f"starting from {origin.init}{at}: {kept} of {kept + len(origin.drawn)} tensors are taken")
    parts = {"of another shape": origin.other_shape, "drawn": origin.drawn, "not needed": origin.left}
    if said := [f"{word}: {_few(names)}" for word, names in parts.items() if names]:
        console.say("; ".join(said))
    for note in start.notes:
        console.say(note)
    if learner.ranks.is_first:
        write_record(folder / ENVIRONMENT, dataclasses.replace(read_environment(folder), origin=origin))


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
