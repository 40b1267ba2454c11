"""How a picture in a file becomes an example of an image task: what the task's own images have gone through.

The picture's mode and orientation become plain as datasets/pictures.py says, whatever the task.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.ink import SIDE, Ink, evened
from metalearn_cli.datasets.pictures import MAX_PIXELS, Resize, as_tensor, read_picture, square
from metalearn_cli.system.typed_json import to_json


@dataclass(frozen=True)
class Preparation:
    size: int  # pixels a side
    channels: int  # 3: colours, 1: grey
    resize: Resize
    resample: str = "lanczos"  # as Pillow names it
    by_way_of: int | None = None  # the side of the data set's own images: it becomes one of these first
    margin: int = 0  # pixels on each side that are cut off after the size is changed
    inverted: bool = False  # ink is bright
    whole: bool = False  # a large JPEG is decoded in its full size
    ink: Ink = Ink.as_is  # what becomes of paper and ink in a photograph
    note: str = ""  # what cannot be done to a picture of the user's

    KEYS: ClassVar[tuple[str, ...]] = (
        *("size", "channels", "resize", "resample", "by_way_of", "margin", "inverted", "whole", "ink"),
    )  # those of a task of the user's own images

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @property
    def word(self) -> str:
        """What tells pixels that were prepared so from others, as a part of a file's name."""
        plain = f"{self.size}x{self.size}x{self.channels}-{self.resize.name}"
        if self == Preparation(self.size, self.channels, self.resize):
            return plain
        return f"{plain}-{hashlib.sha256(repr(sorted(to_json(self).items())).encode()).hexdigest()[:8]}"

    def read(self, source: Path | Image.Image) -> Tensor:
        """[channels, size, size] uint8. Raises Broken."""
        first = self.by_way_of or (max(SIDE, self.size) if self.ink is Ink.evened else None)
        picture = read_picture(source, self.channels, MAX_PIXELS if self.whole else 3 * (first or self.size))
        if first:
            picture = square(picture, first, self.resize)
        if self.ink is Ink.evened:
            picture = evened(picture)
        large = self.size + 2 * self.margin
        picture = square(picture, large, self.resize, Image.Resampling[self.resample.upper()])
        if self.margin:
            picture = picture.crop((self.margin, self.margin, large - self.margin, large - self.margin))
        pixels = as_tensor(picture)
        return 255 - pixels if self.inverted else pixels

    def __str__(self) -> str:
        how = {
            Resize.crop: "the largest square in its middle is cut out",
            Resize.stretch: "it is stretched to a square",
            Resize.pad: "it is padded with white to a square",
        }[self.resize]
        large = self.size + 2 * self.margin
        first = f"to {self.by_way_of} x {self.by_way_of} pixels and then " if self.by_way_of else ""
        steps = [how, "turned grey" if self.channels == 1 else "turned into RGB"]
        steps += [f"scaled {first}to {large} x {large} pixels ({self.resample})"]
        steps += [f"cut to the inner {self.size} x {self.size}"] if self.margin else []
        if self.ink is Ink.evened:
            steps += ["evened out, so that paper in any light is white and faint ink black (ink=as_is leaves them)"]
        steps += ["inverted, so that dark ink is bright"] if self.inverted else []
        notes = [self.note] if self.note else []
        if self.inverted and self.ink is Ink.as_is:
            notes.append("grey paper, shadows and faint ink stay as they are (ink=evened evens them out)")
        note = "".join(f"; {note}" for note in notes)
        return f"each picture is prepared as in training: {', '.join(steps[:-1])} and {steps[-1]}{note}"
