"""Parameters of tests, and made images that several of them use."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from metalearn_cli.datasets.image_set import ImageSet


def nightly(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a test that the gate leaves out."""
    return [pytest.param(*case, marks=pytest.mark.nightly) for case in cases]


def noise(classes: int, images: int = 4) -> ImageSet:
    """Images of 84 x 84 in each of so many classes, which are one another's neighbours in few random bytes."""
    line = torch.randint(256, (classes * images + 3 * 84 * 84,), generator=torch.Generator().manual_seed(0))
    pixels = line.to(torch.uint8).unfold(0, 3 * 84 * 84, 1)[: classes * images].view(-1, 3, 84, 84)
    names, first = tuple(map(str, range(classes))), images * torch.arange(classes)
    return ImageSet(pixels, names, first, torch.full((classes,), images), "noise")
