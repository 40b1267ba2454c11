"""The pictures of a run's set as vectors that its own network makes, for `metalearn embed run=...`.

Shapes: n pictures, F features.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.conf_folder import Config
from metalearn_cli.config.schema import ConfigSource, checked_fields
from metalearn_cli.config.task_for_net import as_wanted, build_task
from metalearn_cli.datasets.vector_writer import Vectors
from metalearn_cli.errors import UserError
from metalearn_cli.run_folder import runs
from metalearn_cli.system.allocator import Allocator
from metalearn_cli.system.console import Console, Progress, tell_each
from metalearn_cli.system.device import Precision, set_process
from metalearn_cli.system.limits import Device, Threads
from metalearn_cli.tasks.embedded import set_vectors
from metalearn_cli.tasks.images import SetTask
from metalearn_cli.trained.loading import build_model, read_stored
from metalearn_cli.trained.model import AT_ONCE


@dataclass(frozen=True)
class EmbedRun:
    """The keys of the command with run=."""

    run: str
    out: str
    split: str = "all"
    device: Device | None = None  # None: the run's
    threads: Threads | None = None
    trust: bool = False


def run_vectors(values: Config) -> Vectors:
    """The features of a split of the run's set, or of all, under the running averages of batch norm. Raises UserError
    for an export, for a task without a set, for a split that it does not have, and for other data than the run's."""
    keys = EmbedRun(**checked_fields(EmbedRun, OmegaConf.create(values), ""))
    stored = read_stored(Path(keys.run), keys.trust)
    tell_each(stored.notes)
    device, precision = keys.device or stored.config["device"], Precision[stored.config["precision"]]
    set_process(precision, keys.threads, Allocator.tuned, denormals_are_zero=stored.denormals_are_zero)
    model = build_model(stored, BatchNorm.inductive, device, precision, None, keys.trust)
    run, split = model.scored_run(), keys.split
    task = as_wanted(build_task(run.config["task"], ConfigSource(trust=run.trust)), run.net)
    if not isinstance(task, SetTask):
        raise UserError(
            f"{run.folder} has no set of pictures that it learns from: embed takes a run on images, or "
            "model=pretrained with task= in place of run="
        )
    splits = task.splits if split == "all" else tuple(name for name in task.splits if name == split)
    if not splits:
        raise UserError(f"split={split}: the task of {run.folder} has {', '.join(task.splits)} only")
    runs.check_same_data(run.folder, task.fingerprint)
    images = task.images

    def features(places: Tensor) -> Tensor:
        places = places if images.rows is None else images.rows[places]
        parts: list[Tensor] = []
        with Progress(Console(), "embedding", len(places)) as progress:
            for part in torch.split(places, AT_ONCE):
                pixels = images.pixels[part]
                parts.append(model.embed(pixels if images.numbers is None else pixels.view(images.numbers)))
                progress.advance(sum(map(len, parts)), "pictures")
        return torch.cat(parts)

    return set_vectors(task, splits, features)
