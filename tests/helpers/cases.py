"""Parameters of tests, and made images that several of them use."""

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from problems import image_task
from torch import Tensor

from metalearn_cli.cli import main
from metalearn_cli.datasets.image_set import ImageSet, ListedClass, Source, Unpacked
from metalearn_cli.datasets.packed_set import packed
from metalearn_cli.datasets.paths import cache_root
from metalearn_cli.errors import UserError
from metalearn_cli.tasks import cifar_fs
from metalearn_cli.tasks.cub import CUB
from metalearn_cli.tasks.image_folder import ImageFolder


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


def refusal(source: Callable[..., Source], root: Path, *keys: Any) -> str:
    """The sentence that refuses this folder, before anything is packed."""
    with pytest.raises(UserError) as caught:
        load(source(str(root), *keys))
    assert not list(cache_root().glob("*")), "something was packed"
    return str(caught.value)


def folder_task(root: Path, **keys: Any) -> ImageFolder:
    """A task on a folder of one's own with few, small images."""
    task: ImageFolder = image_task(ImageFolder, root=str(root), **{"query": 1, "size": 16} | keys)
    return task


def main_data(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """`metalearn data ARGUMENTS` in this process: its exit code, what is on stdout, and on stderr."""
    capsys.readouterr()
    code = main(["data", *arguments])
    return code, *capsys.readouterr()


def write_cifar_100(root: Path, monkeypatch: pytest.MonkeyPatch, images: int) -> Path:
    """CIFAR-100 in its official layout with so many images in each of two classes, and the list of them."""
    listed = []
    for number, name in enumerate(("apple", "bear")):
        folder = root / "cifar100" / "data" / name
        folder.mkdir(parents=True)
        pictures = [picture(images * number + i, (32, 32)) for i in range(images)]
        for i, image in enumerate(pictures):
            image.save(folder / f"{name}_s_{i:06}.png")
        sha256 = hashlib.sha256(b"".join(image.tobytes() for image in pictures)).hexdigest()
        listed.append(ListedClass(name, "train", sha256=sha256[:16]))
    monkeypatch.setattr(cifar_fs, "classes", lambda: tuple(listed))
    monkeypatch.setattr(cifar_fs, "IMAGES", images)
    return root


BIRDS = {"001.Albatross": 3, "002.Auk": 2, "003.Bunting": 2, "004.Wren": 4}
BOXES = ["10.5 20.0 30.0 25.0", "-1.0 0.0 102.0 60.5"]  # left, top, width, height; the second is a little too large


def write_birds(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CUB-200-2011 in its published layout with 2 to 4 images in each of four classes."""
    folder = root / "CUB_200_2011"
    images, boxes = [], []
    for name, count in BIRDS.items():
        (folder / "images" / name).mkdir(parents=True)
        for i in range(count):
            image = picture(len(images), (100, 60))
            (image.convert("L") if i == 1 else image).save(folder / "images" / name / f"Bird_{9 - i}.jpg")
            images.append(f"{len(images) + 1} {name}/Bird_{9 - i}.jpg")
            boxes.append(f"{len(boxes) + 1} {BOXES[len(boxes) % 2]}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "bounding_boxes.txt").write_text("\n".join(boxes) + "\n")
    monkeypatch.setattr(CUB, "about", CUB.about._replace(classes=4, images=11, fewest=2))
    return root


def picture(seed: int, size: tuple[int, int] = (20, 20)) -> Image.Image:
    """25 random colours, made larger."""
    few = torch.randint(256, (75,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.frombytes("RGB", (5, 5), bytes(few.tolist())).resize(size)


def unpacked(pixels: Tensor, names: tuple[str, ...], each: int) -> Unpacked:
    """A set as it comes from its source, with `each` images of each class."""
    return Unpacked(names, [each] * len(names), tuple(pixels.shape[1:]), [pixels])


def image_set(pixels: Tensor, *counts: int) -> ImageSet:
    """A set with so many images of each class."""
    count = torch.tensor(counts)
    return ImageSet(pixels, tuple(map(str, range(len(counts)))), count.cumsum(0) - count, count, "made")


def noise(classes: int, images: int = 4, shape: tuple[int, ...] = (3, 84, 84)) -> ImageSet:
    """So many images of each of so many classes, which are one another's neighbours in few random bytes."""
    size = math.prod(shape)
    line = torch.randint(256, (classes * images + size,), generator=torch.Generator().manual_seed(0))
    pixels = line.to(torch.uint8).unfold(0, size, 1)[: classes * images].view(-1, *shape)
    return image_set(pixels, *[images] * classes)


def vectors(number: int, classes: int, numbers: int) -> tuple[Tensor, list[str]]:
    """So many vectors [N, F] of classes c0, c1, ..., one class after another again and again, far from one another."""
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(number) % classes
    middle = torch.nn.functional.normalize(torch.randn(classes, numbers, generator=rng), dim=1)
    x = 10 * middle[label] + 0.1 * torch.randn(number, numbers, generator=rng)
    return x, [f"c{place:0{len(str(classes - 1))}}" for place in label.tolist()]
