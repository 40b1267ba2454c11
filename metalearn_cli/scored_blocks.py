"""Blocks of a test that are scored, kept in the run's folder until the whole test is: one that was stopped goes on with
them, and ends with the same bits.

A block is a file unfinished-test/KEY/00000003-HASH.safetensors. KEY is a hash of all that its scores depend on, so that
those of another test are never taken, and HASH one of the content. What does not fit is scored again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metalearn_cli import __version__
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.evaluate import BLOCK, Block
from metalearn_cli.files import write_durably
from metalearn_cli.learner import Learner, Scores

FOLDER = "unfinished-test"
WORTH_KEEPING = 1.0  # seconds that a block took, from which on it is kept


def key_of(learner: Learner, about: Any) -> str:
    """Of what these weights score in this version; `about` is what else decides it, as plain values."""
    weights = hashlib.sha256()
    for name, value in sorted({**learner.meta.params, **learner.meta.buffers}.items()):
        weights.update(f"{name} {list(value.shape)}".encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    here = [__version__, torch.__version__, torch.backends.cpu.get_cpu_capability(), str(learner.device)]
    return hashlib.sha256(json.dumps([weights.hexdigest(), here, about], sort_keys=True).encode()).hexdigest()[:16]


def read(folder: Path, modes: list[BatchNorm], episodes: int) -> dict[int, Block]:
    """The blocks of so many episodes in the folder of a KEY, by their numbers; what is not whole is left out."""
    blocks: dict[int, Block] = {}
    for path in sorted(folder.glob("????????-????????????????.safetensors")):
        number, _, digest = path.stem.partition("-")
        if path.is_symlink() or not path.is_file() or not number.isdecimal():
            continue
        data = path.read_bytes()
        try:
            if hashlib.sha256(data).hexdigest()[:16] == digest:
                block = _block(safetensors.torch.load(data), modes)
                sizes = {part.shape[:1] for scores in block.values() for part in scores}
                if sizes == {(min(BLOCK, episodes - BLOCK * int(number)),)}:
                    blocks[int(number)] = block
        except (SafetensorError, KeyError):  # anybody can name a file so
            continue
    return blocks


def _block(parts: dict[str, Tensor], modes: list[BatchNorm]) -> Block:
    return {mode: Scores(parts[f"{mode.name}.loss"], parts[f"{mode.name}.metric"]) for mode in modes}


def write(folder: Path, number: int, block: Block) -> None:
    parts = {f"{mode.name}.loss": scores.loss for mode, scores in block.items()}
    parts |= {f"{mode.name}.metric": scores.metric for mode, scores in block.items()}
    data = safetensors.torch.save({name: part.contiguous() for name, part in parts.items()})
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{number:08d}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors", data)
