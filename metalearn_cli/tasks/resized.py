"""The images of a task in the size and the channels that another network takes: evaluation across domains.

Colour becomes grey by the luminance of ITU-R BT.601, and grey becomes colour by repeating; the size changes by bilinear
interpolation, antialiased if it shrinks, without regard to proportions. Values stay as they are.

Shapes: T tasks, S examples of a task, C channels of an H x W image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.augment import grey
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.tasks.capabilities import (
    check_split,
    draw_numbers,
    identities,
    label_names,
    may_wait_for_disk,
    notes_of,
    task_count,
    thumbnails,
)


@dataclass(frozen=True)
class ResizedImages(TaskDistribution):
    task: TaskDistribution  # of images with 1 or 3 channels
    input_shape: tuple[int, ...]  # that they get

    def check_split(self, split: Split) -> None:
        check_split(self.task, split)

    @property
    def spec(self) -> Spec:
        return self.task.spec._replace(input_shape=self.input_shape)

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.task.splits

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    def identities(self, split: Split) -> frozenset[str]:
        return identities(self.task, split)

    def label_names(self, draw: Draw) -> tuple[str, ...]:
        return label_names(self.task, draw)

    def notes(self) -> list[str]:
        return [*notes_of(self.task), f"{self.rule}, as the run's network takes them"]

    @property
    def rule(self) -> str:
        (channels_before, *size_before), (channels, *size) = self.task.spec.input_shape, self.input_shape
        how = []
        if channels_before != channels:
            how.append("grey by luminance" if channels == 1 else "grey repeated in each channel")
        if size_before != size:
            how.append("bilinear, antialiased")
        before, after = (" x ".join(map(str, shape)) for shape in (self.task.spec.input_shape, self.input_shape))
        return f"images of {before} become {after} ({'; '.join(how)})"

    def task_count(self, split: Split) -> int | None:
        return task_count(self.task, split)

    def draw_numbers(self, numbers: Tensor, split: Split, rng: torch.Generator) -> Draw:
        return draw_numbers(self.task, numbers, split, rng)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.task.draw(tasks, split, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        batch = self.task.gather(draw, device)
        support_x, query_x = (_fitted(x, self.input_shape) for x in (batch.support_x, batch.query_x))
        return batch._replace(support_x=support_x, query_x=query_x)

    def thumbnails(self, draw: Draw, device: torch.device) -> Batch | None:
        return thumbnails(self.task, draw, device)

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return may_wait_for_disk(self.task, device)


def can_resize(spec: Spec, input_shape: tuple[int, ...]) -> bool:
    """Whether both are images, of 1 or 3 channels."""
    shapes = spec.input_shape, input_shape
    return spec.kind == "classes" and all(len(shape) == 3 and shape[0] in (1, 3) for shape in shapes)


def _fitted(x: Tensor, input_shape: tuple[int, ...]) -> Tensor:
    """[T, S, C, H, W] in 0..1 -> [T, S, *input_shape]."""
    channels, *size = input_shape
    if x.shape[2] > channels:
        x = grey(x)
    if list(x.shape[3:]) != size:
        shrunk = F.interpolate(x.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=True)
        x = shrunk.view(*x.shape[:3], *size)
    return x.repeat(1, 1, channels // x.shape[2], 1, 1) if x.shape[2] < channels else x
