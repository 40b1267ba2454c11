"""The images of a task as vectors that a network with weights makes of them: a frozen network is a part of how an
example is prepared.

Each picture goes through the network once (backbones/feature_cache.py), and then every algorithm has vectors under a
linear head. Only the classes that are drawn are computed. The episodes are those of the pixels, and so are their
hashes: a run on them is compared with one that has learned from the pixels.

Shapes: T tasks, S support and Q query images of each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

import torch
from torch import Tensor

from metalearn_cli.backbones.feature_cache import Embedding, FeatureCache
from metalearn_cli.datasets.vector_writer import Vectors
from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import Rotations
from metalearn_cli.tasks.gather import gather_episodes
from metalearn_cli.tasks.images import SetTask
from metalearn_cli.tasks.shown import ShownTask


@dataclass(frozen=True)
class EmbeddedImages(ShownTask):
    task: SetTask  # of images
    embedding: Embedding

    def __post_init__(self) -> None:
        episodes, changes = self.task.episodes, list[tuple[str, str]]()
        if episodes.rotations is not Rotations.none:
            changes.append((f"task.rotations={episodes.rotations.name}", "task.rotations=none"))
        if episodes.augment:
            names = ",".join(change.name for change in episodes.augment)
            changes.append((f"task.augment=[{names}]", "task.augment=[]"))
        for key, without in changes:
            raise UserError(
                f"{key} changes pixels, and a frozen network sees each picture once: give {without}, or "
                "model.frozen=false, which trains through it"
            )

    @property
    def spec(self) -> Spec:
        return self.task.spec._replace(input_shape=(self.embedding.backbone.features,))

    @property
    def rule(self) -> str:
        return f"images of {' x '.join(map(str, self.task.spec.input_shape))} become {self.embedding}"

    def make_ready(self, split: Split) -> None:
        _ = self._cache.of(self._numbers(self.task.classes_of(split).start))

    def vectors(self, splits: tuple[Split, ...]) -> Vectors:
        """All features of these splits, as `set_vectors` has them."""

        def kept(places: Tensor) -> Tensor:
            return self._cache.of(self._numbers(places)).pixels[places].view(self.embedding.dtype)

        return set_vectors(self.task, splits, kept)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        places = torch.cat([draw[name].flatten() for name in draw if name.endswith("_image")])
        features = self._cache.of(self._numbers(places))
        return gather_episodes(draw, features.on(device), device, features.numbers)

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return self._cache.of(torch.tensor([])).may_wait_for_disk(device)

    def _numbers(self, places: Tensor) -> Tensor:
        """The classes of the images in these places of the packed set, each once."""
        numbers: Tensor = torch.unique(torch.searchsorted(self.task.images.start, places, right=True) - 1)
        return numbers

    @cached_property
    def _cache(self) -> FeatureCache:
        return FeatureCache(self.task.images, self.embedding)


def set_vectors(task: SetTask, splits: tuple[Split, ...], features: Callable[[Tensor], Tensor]) -> Vectors:
    """All vectors of these splits, class by class, with their groups, and the split of each of several; `features`
    makes them [n, F] of the images in these places [n] of the packed set."""
    listed: list[tuple[str, str, str, Tensor]] = []  # the class's name, group and split, and its rows [n]
    images = task.images
    for split in splits:
        classes = task.classes_of(split)
        groups = [""] * len(classes.start) if classes.group is None else [f"{n:06}" for n in classes.group.tolist()]
        for start, count, group in zip(classes.start.tolist(), classes.count.tolist(), groups, strict=True):
            name = images.names[int(torch.searchsorted(images.start, start, right=True)) - 1]
            listed.append((name, group, split, torch.arange(start, start + count)))
    names, group_of, split_of, rows = zip(*sorted(listed, key=itemgetter(0)), strict=True)
    x, counts = features(torch.cat(rows)).numpy(), tuple(map(len, rows))
    return Vectors(x, names, counts, group_of if any(group_of) else None, split_of if len(splits) > 1 else None)


def embedded_images(task: TaskDistribution, embedding: Embedding) -> EmbeddedImages:
    """Show a task's images to a frozen network. Raises UserError for a task whose images are in no set."""
    if not isinstance(task, SetTask):
        raise UserError(
            f"model=pretrained makes vectors of the pictures of a set, and {type(task).__name__} has no set: let it be "
            "an ImageTask (metalearn_cli.tasks.images), or give model.frozen=false"
        )
    return EmbeddedImages(task, embedding)


def pictured(task: TaskDistribution) -> TaskDistribution:
    """Return the same tasks with examples that a person can look at, where the network gets vectors of pictures."""
    return task.task if isinstance(task, EmbeddedImages) else task
