"""Keep the scored parts of a test until it is whole: a test that was stopped goes on, and ends with the same bits.

A part is a file unfinished-test/KEY/FIRST-NUMBER-HASH.safetensors: its first episode and how many there are. KEY is a
hash of all that the scores depend on, and HASH one of the content. A part that does not fit is scored again.
"""

import hashlib
import json
import re
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.learning.evaluate import EpisodeScores
from metalearn_cli.learning.learner import Learner, Scores
from metalearn_cli.system.files import read_bytes, refuse_link, write_durably
from metalearn_cli.version import __version__

FOLDER = "unfinished-test"
WORTH_KEEPING = 1.0  # seconds that a part took, from which on it is kept
_NAME = re.compile(r"(\d{8})-(\d{1,8})-([0-9a-f]{16})\.safetensors")


def part_key(learner: Learner, about: object) -> str:
    """Name what these weights score in this version; `about` is what else decides it, as plain values."""
    weights = hashlib.sha256()
    for name, value in sorted({**learner.meta.params, **learner.meta.buffers}.items()):
        weights.update(f"{name} {list(value.shape)}".encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    machine = [__version__, torch.__version__, torch.backends.cpu.get_cpu_capability(), str(learner.device)]
    return hashlib.sha256(json.dumps([weights.hexdigest(), machine, about], sort_keys=True).encode()).hexdigest()[:16]


def read_parts(folder: Path, modes: list[BatchNorm]) -> dict[tuple[int, int], EpisodeScores]:
    """Read the whole parts in the folder of a KEY, by their first episode and their number."""
    parts: dict[tuple[int, int], EpisodeScores] = {}
    if folder.is_symlink() or folder.parent.is_symlink():
        return parts
    for path in sorted(folder.glob("*.safetensors")):
        if (name := _NAME.fullmatch(path.name)) is None:
            continue
        try:
            data = read_bytes(path)
            if hashlib.sha256(data).hexdigest()[:16] == name[3]:
                tensors = safetensors.torch.load(data)
                if all(len(values) == int(name[2]) for values in tensors.values()):
                    parts[int(name[1]), int(name[2])] = {mode: _scores_of(tensors, f"{mode.name}.") for mode in modes}
        except (OSError, SafetensorError, KeyError, TypeError):  # anybody can name a file so
            continue
    return parts


def _scores_of(tensors: dict[str, Tensor], prefix: str) -> Scores:
    """The scores of the mode whose tensors' names begin so."""
    scores = {name.removeprefix(prefix): values for name, values in tensors.items() if name.startswith(prefix)}
    return Scores(scores.pop("loss"), scores.pop("metric"), scores)


def write_part(folder: Path, place: tuple[int, int], part: EpisodeScores) -> None:
    tensors = {
        f"{mode.name}.{name}": values.contiguous()
        for mode, (loss, metric, beside) in part.items()
        for name, values in {"loss": loss, "metric": metric, **beside}.items()
    }
    data = safetensors.torch.save(tensors)
    for inside in (folder.parent, folder):
        refuse_link(inside)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{place[0]:08d}-{place[1]}-{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    write_durably(folder / name, data)
