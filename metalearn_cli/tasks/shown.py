"""What a network is shown in place of a task's own examples: its tasks stay what they are, and so do their draws."""

from abc import abstractmethod

import torch
from torch import Tensor

from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.tasks import capabilities
from metalearn_cli.tasks.base import Batch, Draw, Split, TaskDistribution


class ShownTask(TaskDistribution):
    """A final class is a frozen dataclass: the task, and what its examples become."""

    task: TaskDistribution

    @property
    @abstractmethod
    def rule(self) -> str:
        """What becomes of the examples."""

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.task.splits

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.task.draw(tasks, split, rng)

    def check_split(self, split: Split) -> None:
        capabilities.check_split(self.task, split)

    def identities(self, split: Split) -> frozenset[str]:
        return capabilities.identities(self.task, split)

    def class_names(self, split: Split) -> list[str]:
        return capabilities.class_names(self.task, split)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return capabilities.label_names(self.task, draw)

    def task_count(self, split: Split) -> int | None:
        return capabilities.task_count(self.task, split)

    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
        return capabilities.draw_numbers(self.task, numbers, split, rng)

    def draw_classes(self, tasks: int, images: int, rng: torch.Generator) -> Draw:
        return capabilities.draw_classes(self.task, tasks, images, rng)

    def thumbnails(self, draw: Draw, device: torch.device) -> Batch | None:
        return capabilities.thumbnails(self.task, draw, device)

    @property
    def preparation(self) -> Preparation | None:
        return capabilities.preparation_of(self.task)

    def notes(self) -> list[str]:
        return [*capabilities.notes_of(self.task), f"{self.rule}, as the run's network takes them"]
