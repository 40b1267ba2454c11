"""Parameters of tests, and made images that several of them use."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from metalearn_cli.datasets.image_set import ImageSet, Source
from metalearn_cli.datasets.packed_set import packed


def nightly(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a test that the gate leaves out."""
    return [pytest.param(*case, marks=pytest.mark.nightly) for case in cases]


def load(source: Source) -> ImageSet:
    """An image set as its task loads it."""
    return packed(*source)


def p_value(counts: torch.Tensor, thinned: float = 1.0) -> float:
    """Chi-square test that all cells are equally likely; `thinned` is the variance's part left by drawing without
    replacement."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum() / thinned
    return float(torch.special.gammaincc(torch.tensor((counts.numel() - 1) / 2), statistic / 2))


def noise(classes: int, images: int = 4, shape: tuple[int, ...] = (3, 84, 84)) -> ImageSet:
    """So many images of each of so many classes, which are one another's neighbours in few random bytes."""
    size = math.prod(shape)
    line = torch.randint(256, (classes * images + size,), generator=torch.Generator().manual_seed(0))
    pixels = line.to(torch.uint8).unfold(0, size, 1)[: classes * images].view(-1, *shape)
    names, first = tuple(map(str, range(classes))), images * torch.arange(classes)
    return ImageSet(pixels, names, first, torch.full((classes,), images), "noise")
