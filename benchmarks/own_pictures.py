"""Measures what `metalearn predict` promises without a run, on classes of CIFAR-FS as a person's pictures.

    python benchmarks/own_pictures.py constants          what was measured once, on the validation classes
    python benchmarks/own_pictures.py strengths          how much the usual temperature should weigh, on the same
    python benchmarks/own_pictures.py promises           whether the promises hold, on the test classes
    python benchmarks/own_pictures.py folder FOLDER      FOLDER/labelled (5 x 20) and FOLDER/photos (50), to be timed

Wants METALEARN_DATA with cifar-fs/cifar100/, and the extras [pretrained] and [onnx]. own_pictures.md has the figures.
"""

import io
import shutil
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from metalearn_cli.backbones.encoder import Runtime, encoder_of
from metalearn_cli.backbones.named import open_backbone
from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.paths import data_root
from metalearn_cli.datasets.pictures import Preparation, Resize, read_rgb
from metalearn_cli.system.console import follow
from metalearn_cli.tasks import cifar_fs
from metalearn_cli.trained import temperature
from metalearn_cli.trained.by_pretrained import NEARLY, judged, usual_temperature
from metalearn_cli.trained.left_out import share_interval
from metalearn_cli.trained.temperature import temperature_of

IMAGES, DRAWS, QUERIES, STRANGE = 120, 100, 60, 20  # of each class; supports of each size; queries of each class
STRENGTHS = (1, 2, 4, 8, 16, 32)
SIZES = [(2, 1), (5, 1), (20, 1), (2, 2), (5, 2), (2, 5), (5, 5), (10, 5), (5, 10), (5, 20), (10, 20)]


def files(split: str) -> list[list[Path]]:
    """The first images of each class of a split."""
    folder = data_root() / "cifar-fs" / "cifar100" / "data"
    names = [listed.name for listed in cifar_fs.classes() if listed.split == split]
    return [sorted((folder / name).glob("*.png"))[:IMAGES] for name in names]


def features(pictures: list[Path] | list[Image.Image]) -> Tensor:
    """Of length 1, [n, F], as the command makes them."""
    backbone = open_backbone()
    preparation, encode = (
        Preparation(backbone.size, 3, Resize.crop, backbone.resample),
        encoder_of(backbone, Runtime.onnx),
    )
    starts = follow(range(0, len(pictures), 32), "features", (len(pictures) + 31) // 32)
    parts = [encode(torch.stack([preparation.read(one) for one in pictures[start : start + 32]])) for start in starts]
    return F.normalize(torch.cat(parts), dim=-1)


def of_split(split: str) -> Tensor:
    """[classes, images, F]"""
    listed = files(split)
    return features([path for paths in listed for path in paths]).view(len(listed), IMAGES, -1)


def draw(x: Tensor, way: int, shot: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A support and its labels, queries and theirs, and pictures of as many other classes as there are, at most 5."""
    classes = torch.randperm(len(x), generator=rng)
    order = torch.stack([torch.randperm(IMAGES, generator=rng)[: shot + QUERIES] for _ in range(way)])
    chosen = torch.stack([x[own, row] for own, row in zip(classes[:way].tolist(), order, strict=True)])
    label = torch.arange(way)
    return (
        *(chosen[:, :shot].flatten(0, 1), label.repeat_interleave(shot)),
        *(chosen[:, shot:].flatten(0, 1), label.repeat_interleave(QUERIES)),
        x[classes[way : way + 5], :STRANGE].flatten(0, 1),
    )


def constants() -> None:
    x = of_split("val")
    print("| size | best temperature of all draws together | 0.033 shot^0.3 |\n|---|---|---|")
    for way, shot in [(min(way, len(x)), shot) for way, shot in SIZES]:
        rng, outs, labels = torch.Generator().manual_seed(0), [], []
        for _ in range(DRAWS):
            support, label, query, right, _ = draw(x, way, shot, rng)
            told = judged(support, label, query, 2.0)
            outs.append(told.out)
            labels.append(right)
        best = temperature_of(torch.cat(outs), torch.cat(labels), usual_temperature(shot))
        print(f"| {way}-way {shot}-shot | {best:.3f} | {usual_temperature(shot):.3f} |", flush=True)
    print("\n| change of a picture | cosine: median, 5% quantile | above the bound |\n|---|---|---|")
    pictures = [path for paths in files("val") for path in paths[:12]]
    before = features(pictures)
    for name, change in CHANGES.items():
        cosine = (features([change(large(path)) for path in pictures]) * before).sum(1)
        low, middle = cosine.quantile(torch.tensor([0.05, 0.5])).tolist()
        print(f"| {name} | {middle:.3f}, {low:.3f} | {(cosine > NEARLY).float().mean():.0%} |", flush=True)
    for split, vectors in (("validation", x), ("test", of_split("test"))):
        cosine = vectors @ vectors.transpose(1, 2) - 2 * torch.eye(IMAGES)
        share = (cosine.amax(2) > NEARLY).float().mean()
        print(f"\nof {split} classes {share:.2%} of {len(vectors) * IMAGES} pictures have another one above {NEARLY}")


def strengths() -> None:
    x = of_split("val")
    print(f"| size | {' | '.join(map(str, STRENGTHS))} |\n|---{'|---' * len(STRENGTHS)}|")
    rows = []
    for way, shot in [(way, shot) for way, shot in SIZES if shot > 1]:  # with one nothing can be left out
        rows.append([loss_of_queries(x, way, shot, strength) for strength in STRENGTHS])
        print(f"| {way}-way {shot}-shot | {' | '.join(f'{loss:.4f}' for loss in rows[-1])} |", flush=True)
    print(f"| mean | {' | '.join(f'{loss:.4f}' for loss in torch.tensor(rows).mean(0).tolist())} |")


def loss_of_queries(x: Tensor, way: int, shot: int, strength: float) -> float:
    """The mean of -log p(y | x) over queries, where the usual temperature weighs so much."""
    temperature.STRENGTH = strength
    rng, losses = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        support, label, query, right, _ = draw(x, way, shot, rng)
        losses.append(F.nll_loss(judged(support, label, query, NEARLY).probabilities.log(), right))
    return float(torch.stack(losses).mean())


def large(path: Path) -> Image.Image:
    return read_rgb(path).resize((224, 224), Image.Resampling.BICUBIC)


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return open_picture(io.BytesIO(file.getvalue())).convert("RGB")


CHANGES = {
    "half the size": lambda picture: picture.resize((112, 112), Image.Resampling.LANCZOS),
    "JPEG of quality 90": lambda picture: as_jpeg(picture, 90),
    "JPEG of quality 50": lambda picture: as_jpeg(picture, 50),
    "a tenth brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "5% cut off": lambda picture: picture.crop((6, 6, 218, 218)),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def promises() -> None:
    x = of_split("test")
    columns = "size | left out | queries | in the interval | mean p | p without | known flagged | promised"
    print(f"| {columns} | strangers flagged | told |\n|---{columns.count('|') * '|---'}|---|---|")
    for way, shot in SIZES:
        rng, rows = torch.Generator().manual_seed(0), []
        for _ in range(DRAWS):
            support, label, query, right, strange = draw(x, way, shot, rng)
            told = judged(support, label, torch.cat([query, strange]), NEARLY)
            chances, out = told.probabilities[: len(query)], told.out[: len(query)]
            accuracy = float((chances.argmax(1) == right).double().mean())
            row = {"queries": accuracy, "mean p": float(chances.amax(1).mean())}
            row["p without"] = float((10 * out).softmax(1).amax(1).mean())  # by the scale that algo=ridge begins with
            if number := len(told.guess):
                hits = int((told.guess == label[told.counts]).sum())
                low, high = share_interval(hits, number)
                flags = told.unlike[: len(query)], told.unlike[len(query) :]
                row |= {"left out": hits / number, "in the interval": float(low <= accuracy <= high)}
                row |= {"known flagged": float(flags[0].double().mean()), "promised": told.promised}
                row |= {"told": told.found} | (
                    {"strangers flagged": float(flags[1].double().mean())} if len(strange) else {}
                )
            rows.append(row)
        names = [*columns.split(" | ")[1:], "strangers flagged", "told"]
        cells = []
        for name in names:
            values = torch.tensor([row[name] for row in rows if name in row], dtype=torch.float64)
            half = 1.96 * float(values.std()) / len(values) ** 0.5 if len(values) else 0.0
            plain = name in ("in the interval", "promised")
            cells.append(
                f"{100 * float(values.mean()):.1f}" + f" +- {100 * half:.1f}" * (not plain) if len(values) else ""
            )
        print(f"| {way}-way {shot}-shot | {' | '.join(cells)} |", flush=True)


def folder(out: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    listed = files("test")
    (out / "photos").mkdir(parents=True)
    for place, number in enumerate(torch.randperm(len(listed), generator=rng)[:10].tolist()):
        name = listed[number][0].parent.name
        chosen = [listed[number][at] for at in torch.randperm(IMAGES, generator=rng)[:25].tolist()]
        (out / "labelled" / name).mkdir(parents=True) if place < 5 else None
        for path in chosen[:20] if place < 5 else []:
            shutil.copy(path, out / "labelled" / name)
        for path in chosen[20:]:
            shutil.copy(path, out / "photos" / f"{name}_{path.name}")


if __name__ == "__main__":
    torch.manual_seed(0)
    actions = {"constants": constants, "strengths": strengths, "promises": promises}
    {**actions, "folder": lambda: folder(Path(sys.argv[2]))}[sys.argv[1]]()
