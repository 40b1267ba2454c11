"""Checkpoints that exist whole and verified, or not at all.

One file per step, checkpoints/step-00001000-<16 hex of its sha256>.safetensors: the name verifies the content, no
pickle is involved, and any safetensors reader opens it. What is not a tensor stands in its metadata, as JSON under one
key (safetensors writes several keys in random order, and equal states must be equal files).
"""

import hashlib
import json
import re
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from metalearn_cli.config.conf_folder import Config
from metalearn_cli.errors import UserError
from metalearn_cli.system.files import read_bytes, refuse_link, write_durably

FORMAT = 1
MOST_BYTES, MOST_HEADER = 1 << 34, 1 << 22  # of a file, and of the names and shapes in it: some ten thousand tensors
_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.safetensors")


class Checkpoint(NamedTuple):
    step: int
    tensors: dict[str, Tensor]  # on the CPU
    record: Config  # what is not a tensor
    sha256: str  # of the file

    @property
    def proof(self) -> Config | None:
        """The keys of the configuration that decide, with their values; None: of an earlier version."""
        proof: Config | None = self.record.get("config")
        return proof

    def __str__(self) -> str:
        return f"the checkpoint of step {self.step}"


class Damaged(Exception):
    """A file whose content is not what its name says."""


def save(folder: Path, step: int, tensors: dict[str, Tensor], record: Config) -> Path:
    text = json.dumps({"format": FORMAT, "step": step, **record}, sort_keys=True)
    data = safetensors.torch.save({name: tensor.cpu() for name, tensor in tensors.items()}, {"metalearn": text})
    path = folder / f"step-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_durably(path, data)
    for other in folder.glob(f"step-{step:08d}-*.safetensors"):
        if other != path:  # saved when a signal came before the validation of this step
            other.unlink()
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint. Raises Damaged where its name does not fit its content, UserError for a newer format."""
    name = _NAME.fullmatch(path.name)
    try:
        data = read_bytes(path, MOST_BYTES)
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if name is None or sha256[:16] != name[2]:
        raise Damaged(f"{path}: its content does not match the hash in its name")
    try:
        header = data[8 : 8 + min(int.from_bytes(data[:8], "little"), MOST_HEADER)]  # JSON, behind its length
        record = json.loads(json.loads(header)["__metadata__"]["metalearn"])
        if (number := int(record["format"])) > FORMAT:
            raise UserError(
                f"{path} is of format {number}, and this version reads up to {FORMAT}: install a newer metalearn"
            )
        if record["best"] is not None:
            _ = float(record["best"]["value"]), int(record["best"]["step"])
        is_config = isinstance(record.get("config", {}), dict)
        if record["step"] != step_of(path) or not isinstance(record["to_validate"], bool) or not is_config:
            raise ValueError("another record than this program writes")
        return Checkpoint(record["step"], tensors_of(data), record, sha256)
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:  # anybody can name a file so
        raise Damaged(f"{path}: not a checkpoint of this program") from error


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """Read a safetensors file. Raises SafetensorError where it is none, ValueError where its header is too long."""
    if int.from_bytes(data[:8], "little") > MOST_HEADER:
        raise ValueError(f"its header has more than {MOST_HEADER:,} bytes")
    return safetensors.torch.load(data)


def list_newest_first(folder: Path) -> list[Path]:
    """List the files that are named like checkpoints, the highest step first."""
    refuse_link(folder)
    paths = [path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of, reverse=True)


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest checkpoint that is whole (None: there are none) -> it, and what was skipped before it. Raises
    UserError where none is whole: starting again from step 0 is the user's decision."""
    skipped: list[str] = []
    paths = list_newest_first(folder)
    for path in paths:
        try:
            return load_checkpoint(path), skipped
        except Damaged as damage:
            skipped.append(str(damage))
    if paths:
        raise UserError(
            f"none of the {len(paths)} checkpoints in {folder} is whole ({skipped[0]}): "
            "move them away to start again from step 0"
        )
    return None, skipped


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` and the best, and the second file of a step, which a killed process left."""
    paths = list_newest_first(folder)
    steps = [step_of(path) for path in paths]
    for number, path in enumerate(paths):
        if steps[number] in steps[:number] or (number >= keep and steps[number] != best_step):
            path.unlink()


def load_step(folder: Path, step: int) -> Checkpoint:
    """Load the checkpoint of this step. Raises UserError where it is not there or not whole."""
    damage = "it is not there"
    for path in (path for path in list_newest_first(folder) if step_of(path) == step):
        try:
            return load_checkpoint(path)
        except Damaged as error:
            damage = str(error)
    raise UserError(
        f"the checkpoint of step {step} in {folder} cannot be used ({damage}): put it back, or give the run's command "
        "once more with select=last, which tests its last one"
    )


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])
