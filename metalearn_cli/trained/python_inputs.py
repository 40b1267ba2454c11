"""What a model is given from Python, as tensors; or a sentence on what is wrong with it.

Shapes: n examples, S support examples.
"""

import math
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.columns import Scale
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


def numbers(values: Given) -> Tensor:
    """[n, ...] on the CPU: as float64, which holds every number that is given; uint8 and float32 as they are."""
    try:
        if isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
            values = torch.stack([value.detach().cpu() for value in values])
        tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(array_of(values))
    except (TypeError, ValueError, RuntimeError) as error:
        what = " ".join(repr(values).split())[:60]
        raise UserError(
            f"x and y must be numbers in arrays or lists of one shape, and {what} is not (points in a CSV are for "
            "`metalearn predict`)"
        ) from error
    return tensor if tensor.dtype in (torch.uint8, torch.float32) else tensor.double()


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
