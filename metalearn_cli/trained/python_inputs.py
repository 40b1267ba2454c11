"""What a model is given from Python, as tensors; or a sentence on what is wrong with it.

Shapes: n examples, S support examples.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.columns import Scale
from metalearn_cli.datasets.formats import Broken
from metalearn_cli.datasets.listing import some
from metalearn_cli.datasets.pictures import Preparation
from metalearn_cli.datasets.point_set import array_of
from metalearn_cli.errors import UserError

Picture = str | Path | Image.Image
Given = Any  # numbers or labels in a tensor, an array or a list; or pictures
Label = Any  # a text or a number, of the user's own


def pictures(x: Given) -> list[Picture] | None:
    """Files and PIL images, or one of them, as a list; None for anything else."""
    if isinstance(x, Picture):
        return [x]
    items = x.tolist() if isinstance(x, np.ndarray) and x.dtype.kind in "OU" else x
    if not isinstance(items, list | tuple) or not any(isinstance(item, Picture) for item in items):
        return None
    for number, item in enumerate(items, 1):
        if not isinstance(item, Picture):
            kind = type(item).__name__
            raise UserError(f"x has files or pictures, and number {number} of type {kind}: give all of one kind")
    return list(items)


def read_pictures(pictures: Sequence[Picture], preparation: Preparation) -> Tensor:
    """Read files or PIL images as pixels, [n, C, H, W] uint8. Raises UserError for broken ones."""
    pixels = torch.empty(len(pictures), *preparation.shape, dtype=torch.uint8)
    broken = []
    for number, picture in enumerate(pictures):
        try:
            pixels[number] = preparation.read(Path(picture) if isinstance(picture, str) else picture)
        except Broken as error:
            broken.append(f"{picture if isinstance(picture, str | Path) else f'number {number + 1}'} {error}")
    refuse_broken(broken, len(pictures))
    return pixels


def refuse_broken(broken: list[str], number: int) -> None:
    """Raise UserError with these sentences on some of so many pictures."""
    if broken:
        what = f"{len(broken)} of {number} pictures cannot be used"
        raise UserError(f"{what}: {some(broken, '; ')}: mend or remove them")


def numbers(values: Given) -> Tensor:
    """[n, ...] on the CPU: as float64, which holds every number that is given; uint8 and float32 as they are."""
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
            values = torch.stack([value.detach().cpu() for value in values])
        tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(array_of(values))
        if tensor.is_complex() or tensor.layout is not torch.strided:
            raise TypeError("neither has a number for each place")
    except (TypeError, ValueError, RuntimeError) as error:
        what = " ".join(repr(values).split())[:60]
        raise UserError(
            f"x and y must be numbers in arrays or lists of one shape, and {what} is not (points in a CSV are for "
            "`metalearn predict`)"
        ) from error
    return tensor if tensor.dtype in (torch.uint8, torch.float32) else tensor.double()


def pixels_of(values: Tensor) -> Tensor:
    """Return pixels that are uint8, or in 0..1."""
    if values.dtype != torch.uint8 and (values.min() < -0.01 or values.max() > 1.01):
        range_of = f"{values.min().item():.4g} to {values.max().item():.4g}"
        raise UserError(f"x holds pixels from {range_of}: give numbers in 0..1, or uint8 in 0..255")
    return values


def of_shape(name: str, values: Tensor, shape: tuple[int, ...], number: int | None = None) -> Tensor:
    """Return finite numbers [number, *shape]; a single one for each example needs no dimension of its own."""
    values = values[:, None] if shape == (1,) and values.dim() == 1 else values
    if values.shape[1:] != shape or number not in (None, len(values)):
        expected = ", ".join(map(str, (number or "n", *shape)))
        raise UserError(f"{name} is of shape {list(values.shape)}, and [{expected}] is expected")
    if not values.isfinite().all():
        raise UserError(f"{name} holds numbers that are not finite: give every example all of its numbers")
    return values


def labels_of(y: Given, number: int) -> list[Label]:
    """A label for each of so many examples."""
    items = y.tolist() if isinstance(y, Tensor | np.ndarray) else y
    if isinstance(items, str | bytes) or not isinstance(items, Iterable):
        raise UserError(f"y is {y!r}, and a list with a label for each of {number} examples is expected")
    labels = [label.item() if isinstance(label, Tensor) and label.numel() == 1 else label for label in items]
    if len(labels) != number or any(isinstance(label, list | Tensor | np.ndarray) for label in labels):
        raise UserError(f"y has {len(labels)} labels for {number} examples: one for each is expected")
    for place, label in enumerate(labels, 1):
        if label is None or (isinstance(label, float) and math.isnan(label)):
            raise UserError(f"y has {label} for example {place}: give every example of the support a label")
    return labels


def classes_of(labels: list[Label]) -> list[Label]:
    """The different ones of these labels, sorted."""
    if len(kinds := dict.fromkeys(map(_kind, labels))) > 1:
        raise UserError(f"y has labels of the types {' and '.join(kinds)}: give all of one type, such as texts")
    try:
        classes = sorted(set(labels))
    except TypeError as error:
        raise UserError(f"y has labels that cannot be sorted ({error}): give texts or whole numbers") from error
    if len(classes) < 2:
        raise UserError(f"the support has one class only, {classes[0]}: at least two are needed")
    return classes


def _kind(label: Label) -> str:
    """The type of a label; all numbers are of one type, but not a bool: True and 1 would be one class."""
    if isinstance(label, bool | np.bool_):
        return "bool"
    return "number" if isinstance(label, Real) else type(label).__name__


def scaled(values: Tensor, scale: Scale | None) -> Tensor:
    if scale is None:
        return values
    return (values.double() - torch.tensor(scale.mean).double()) / torch.tensor(scale.deviation).double()


def unscaled(values: Tensor, scale: Scale | None) -> Tensor:
    if scale is None:
        return values
    return values.double() * torch.tensor(scale.deviation).double() + torch.tensor(scale.mean).double()
