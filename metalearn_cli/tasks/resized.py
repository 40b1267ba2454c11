"""The images of a task in the size and the channels that a network takes: in evaluation across domains, and where a
network with weights is trained further.

Colour becomes grey by the luminance of ITU-R BT.601, and grey becomes colour by repeating; the size changes by
interpolation, bilinear or as a network with weights wants it, antialiased if it shrinks, without regard to proportions.
Values stay as they are.

Shapes: T tasks, S examples of a task, C channels of an H x W image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.tasks.augment import grey
from metalearn_cli.tasks.base import Batch, Draw, Spec, TaskDistribution
from metalearn_cli.tasks.capabilities import may_wait_for_disk
from metalearn_cli.tasks.shown import ShownTask


@dataclass(frozen=True)
class ResizedImages(ShownTask):
    task: TaskDistribution  # of images with 1 or 3 channels
    input_shape: tuple[int, ...]  # that they get
    resample: str = "bilinear"  # or bicubic

    @property
    def spec(self) -> Spec:
        return self.task.spec._replace(input_shape=self.input_shape)

    @property
    def rule(self) -> str:
        (channels_before, *size_before), (channels, *size) = self.task.spec.input_shape, self.input_shape
        how = []
        if channels_before != channels:
            how.append("grey by luminance" if channels == 1 else "grey repeated in each channel")
        if size_before != size:
            how.append(f"{self.resample}, antialiased")
        before, after = (" x ".join(map(str, shape)) for shape in (self.task.spec.input_shape, self.input_shape))
        return f"images of {before} become {after} ({'; '.join(how)})"

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        batch = self.task.gather(draw, device)
        images = {name: x for name, x in batch.tensors().items() if name.endswith("_x")}
        return batch._replace(**{name: fitted(x, self.input_shape, self.resample) for name, x in images.items()})

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return may_wait_for_disk(self.task, device)


def can_resize(spec: Spec, input_shape: tuple[int, ...]) -> bool:
    """Whether both are images, of 1 or 3 channels."""
    shapes = spec.input_shape, input_shape
    return spec.kind == "classes" and all(len(shape) == 3 and shape[0] in (1, 3) for shape in shapes)


def fitted(x: Tensor, input_shape: tuple[int, ...], resample: str) -> Tensor:
    """[T, S, C, H, W] in 0..1 -> [T, S, *input_shape]."""
    channels, *size = input_shape
    if x.shape[2] > channels:
        x = grey(x)
    if list(x.shape[3:]) != size:
        other = F.interpolate(x.flatten(0, 1), size, mode=resample, align_corners=False, antialias=True)
        other = other.clamp(0, 1) if resample == "bicubic" else other  # it overshoots
        x = other.view(*x.shape[:3], *size)
    return x.repeat(1, 1, channels // x.shape[2], 1, 1) if x.shape[2] < channels else x
