"""What the labels of a task stand for: its classes by name.

Shapes, as in tasks/episodes.py: S support images of a task.
"""

import torch

from metalearn_cli.datasets.image_set import ImageSet
from metalearn_cli.tasks.base import Draw


def label_names(draw: Draw, images: ImageSet, inside: int = 0) -> tuple[str, ...]:
    """The class of each label 0, 1, ... of the draw's first task, by the name that the set has for it without the first
    `inside` folders, and how far its images are turned."""
    image, label = draw["support_image"][0], draw["support_y"][0]  # [S] each
    is_real = draw["support_mask"][0] if "support_mask" in draw else torch.ones_like(label, dtype=torch.bool)
    names = []
    for number in range(int(label[is_real].max()) + 1):
        first = int(torch.nonzero(is_real & (label == number))[0])
        position = int(torch.searchsorted(images.start, image[first], right=True)) - 1
        turn = int(draw["support_turn"][0, first]) if "support_turn" in draw else 0
        name = "/".join(images.names[position].split("/")[inside:])
        names.append(f"{name}, turned by {90 * turn}°" if turn else name)
    return tuple(names)
