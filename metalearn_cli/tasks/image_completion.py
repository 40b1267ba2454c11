"""Completion of images: each task is one image, of which some pixels are given, and others are asked for.

Conditional Neural Processes (Garnelo et al. 2018, arXiv 1807.01613), with the sizes of the code of Transformer Neural
Processes (Nguyen and Grover 2022, arXiv 2207.04179):

    x = (row, column) in [-1, 1]^2,   y = the pixel's channels in 0..1, minus 0.5

The sizes of the sets are drawn (drawn_sizes.py). Validation and test have images of classes that are not trained on:
the splits are those of the image set.

Shapes: T tasks, S support and Q query pixels, P pixels of an image, C channels.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from metalearn_cli.datasets.columns import ColumnNames, Range
from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Count, Side, check_limits
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys, on_device
from metalearn_cli.tasks.cifar_fs import CifarFS
from metalearn_cli.tasks.drawn_sizes import Total, draw_sizes
from metalearn_cli.tasks.images import ImageTask
from metalearn_cli.tasks.likelihood import OfValues, ValuesLikelihood
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.one_size import sort_keys
from metalearn_cli.tasks.resized import fitted


class Images(Enum):
    omniglot = 0
    cifar_fs = 1


@dataclass(frozen=True)
class ImageCompletion(TaskDistribution):
    images: Images = Images.omniglot
    size: Side | None = None  # the side of an image in pixels; None: the set's own
    max_points: Total = 200  # support and query are fewer together
    bucket: Count = 1  # sets are padded to a multiple of this: few shapes, for compile=true and cuda_graph=true
    root: str | None = None  # of the image set; None: its own folder in $METALEARN_DATA
    values: ValuesLikelihood = ValuesLikelihood(OfValues.gaussian, deviation_floor=0.05)

    def __post_init__(self) -> None:
        check_limits(self, "task.")
        own, (_, side, _) = self.image_set.preparation.size, self.image_shape
        if side > own:
            raise UserError(f"task.size={side} is more than the {own} pixels a side of {self.image_set.about.title}")
        if self.max_points > side**2:
            raise UserError(
                f"task.max_points={self.max_points} is more than the {side**2} pixels of an image: give {side**2} or "
                "less"
            )

    @cached_property
    def image_set(self) -> ImageTask:
        """The set whose images and classes these are."""
        return Omniglot(root=self.root) if self.images is Images.omniglot else CifarFS(root=self.root)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, height and width of an image as it is completed."""
        channels, *own = self.image_set.preparation.shape
        side = self.size or own[0]
        return channels, side, side

    @property
    def spec(self) -> Spec:
        likelihood = self.values.chosen
        outputs = likelihood.width * self.image_shape[0]
        return Spec((2,), outputs, outputs, likelihood, padded=True)

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.image_set.splits

    @property
    def columns(self) -> ColumnNames:
        channels = ("grey",) if self.image_shape[0] == 1 else ("red", "green", "blue")
        return ColumnNames(("row", "column"), channels, x_range=Range((-1.0, -1.0), (1.0, 1.0)))

    @property
    def fingerprint(self) -> str:
        size = f" in {self.size} x {self.size} pixels" if self.size else ""
        return f"image_completion of {self.image_set.fingerprint}{size}"

    def identities(self, split: Split) -> frozenset[str]:
        return self.image_set.identities(split)

    def may_wait_for_disk(self, device: torch.device) -> bool:
        return self.image_set.may_wait_for_disk(device)

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        sizes = draw_sizes(tasks, split, self.max_points, self.bucket, rng)
        classes = self.image_set.classes_of(split)
        chosen = torch.randint(len(classes.start), (tasks,), generator=rng)
        share = torch.rand(tasks, generator=rng, dtype=torch.float64)
        draw = {"image": classes.start[chosen] + (share * classes.count[chosen]).long()}
        _, height, width = self.image_shape
        order = sort_keys(tasks, height * width, rng=rng).argsort()
        first = torch.zeros_like(sizes.support)
        for name, start, room in zip(("support", "query"), (first, sizes.support), sizes.most, strict=True):
            # The real pixels follow those of the support set; the padding may begin again from the first.
            place = (start[:, None] + torch.arange(room)) % (height * width)
            draw[f"{name}_pixel"] = order.gather(1, place)
        return draw | sizes.masks | {"key": draw_keys(tasks, rng)}

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        at = on_device(draw, device)
        places, values = self._places(device), self._values(draw, device)
        support, query = at["support_pixel"], at["query_pixel"]
        support_y, query_y = (
            values.gather(1, pixel.unsqueeze(-1).expand(-1, -1, values.shape[-1])) for pixel in (support, query)
        )
        masks = at.get("support_mask"), at.get("query_mask")
        return Batch(places[support], support_y, places[query], query_y, at["key"], *masks)

    def whole_images(self, draw: Draw, device: torch.device) -> Batch:
        """Return the tasks with every pixel of their images as query set, row by row."""
        batch, values = self.gather(draw, device), self._values(draw, device)
        places = self._places(device).expand(len(values), -1, -1)
        return batch._replace(query_x=places, query_y=values, query_mask=None)

    def _values(self, draw: Draw, device: torch.device) -> Tensor:
        """The images as values, [T, P, C]."""
        pixels = self.image_set.images.on(device)
        chosen = draw["image"].to(pixels.device)
        x = fitted(pixels[chosen].unsqueeze(1) * (1 / 255), self.image_shape, "bilinear")  # [T, 1, C, H, W]
        return x.to(device).flatten(3).squeeze(1).mT - 0.5

    def _places(self, device: torch.device) -> Tensor:
        """The coordinates of the pixels, [P, 2]."""
        _, height, width = self.image_shape
        rows, columns = (torch.linspace(-1, 1, side, device=device) for side in (height, width))
        return torch.cartesian_prod(rows, columns)
