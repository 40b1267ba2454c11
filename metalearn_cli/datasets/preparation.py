"""How a picture in a file becomes an example of an image task: what the task's own images have gone through.

The picture's mode and orientation become plain as datasets/decode.py says, whatever the task.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from metalearn_cli.datasets.decode import MAX_PIXELS, Resize, as_tensor, read_picture, square


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
    note: str = ""  # what cannot be done to a picture of the user's

    def read(self, source: Path | Image.Image) -> Tensor:
        """[channels, size, size] uint8. Raises Broken."""
        first = self.by_way_of or self.size
        picture = read_picture(source, self.channels, MAX_PIXELS if self.whole else 3 * first)
        if self.by_way_of:
            picture = square(picture, self.by_way_of, self.resize)
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
        steps += ["inverted, so that dark ink is bright"] if self.inverted else []
        note = f"; {self.note}" if self.note else ""
        return f"each picture is prepared as in training: {', '.join(steps[:-1])} and {steps[-1]}{note}"
