"""Few-shot classification on miniImageNet (Vinyals et al. 2016, arXiv 1606.04080; Ravi and Larochelle 2017).

100 classes of ImageNet with 600 colour images each, 84 x 84 pixels, in Ravi and Larochelle's split of 64 / 16 / 20
classes as the folder of the data has it. Pixels are in 0..1 and not standardised.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets import mini_imagenet
from metalearn_cli.datasets.base import ImageSet
from metalearn_cli.datasets.mini_imagenet import Resample
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.episodes import check_size, draw_images, episode_size, gather_episodes, pool_classes


@dataclass(frozen=True)
class MiniImageNet(TaskDistribution):
    way: int = 5  # classes of a validation or test task
    shot: int = 1  # support images of each
    query: int = 15  # query images of each
    train_way: int | None = None  # of a training task; null: the same as `way`
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = None  # of a training task; null: the same as `query`
    train_splits: tuple[str, ...] = ("train",)  # whose classes are trained on; those of test never
    resample: Resample = Resample.lanczos  # how images of another size become 84 x 84
    root: str | None = None  # the folder of the data set; null: $METALEARN_DATA/mini-imagenet

    def __post_init__(self) -> None:
        self.check_split("test")
        self.check_split("train")

    def check_split(self, split: Split) -> None:
        check_size(self, split, self.train_splits, len(self._classes[split]), mini_imagenet.IMAGES)

    @property
    def spec(self) -> Spec:
        return Spec((3, mini_imagenet.SIZE, mini_imagenet.SIZE), self.way, self.train_way or self.way, kind="classes")

    @property
    def splits(self) -> tuple[Split, ...]:
        return tuple(self._classes)

    @property
    def fingerprint(self) -> str:
        return self._images.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return draw_images(tasks, episode_size(self, split), self._classes[split], self._images, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        return gather_episodes(draw, self._images.on(device))

    @cached_property
    def _classes(self) -> dict[Split, Tensor]:
        """The classes of each split, as positions in the packed set, [classes]."""
        return pool_classes(mini_imagenet.split_classes(), self.train_splits)

    @cached_property
    def _images(self) -> ImageSet:
        return mini_imagenet.load(self.resample, self.root)
