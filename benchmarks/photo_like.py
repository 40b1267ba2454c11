"""Photo-like versions of Omniglot's held-out characters, and how a run predicts them from files.

    METALEARN_DATA=... python benchmarks/photo_like.py outputs/RUN [FOLDER]

They are no photographs: a scan's strokes are drawn as dark ink on a paper with texture and uneven light (or, "chalk",
as light strokes on a dark board), seen in perspective, blurred, with noise, and saved as JPEG of 300 x 400 pixels. Each
task has 5 test characters with one picture in the support and 3 queries, by other people; all go through the
files. With FOLDER the pictures of the first task stay there, as support/ and query/, with an overview.
"""

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from metalearn_cli import stored
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config import Precision
from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.omniglot import characters
from metalearn_cli.tasks.omniglot import Omniglot

TASKS, WAY, QUERIES = 60, 5, 3
WIDTH, HEIGHT = 300, 400
KINDS = {"scans": ("scan", "scan"), "photo-like": ("ink", "ink"), "scans, queries photo-like": ("scan", "ink")}
KINDS |= {"photo-like, queries chalk": ("ink", "chalk")}


def photo_like(scan: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """A scan of 105 x 105 as ink on paper, or as chalk on a board."""
    ink = 1 - np.asarray(scan.convert("L").resize((WIDTH, WIDTH), Image.Resampling.BICUBIC)) / 255
    page = np.zeros((HEIGHT, WIDTH))
    page[(HEIGHT - WIDTH) // 2 :][:WIDTH] = ink.clip(0, 1)
    sheet = Image.fromarray((255 * page).astype(np.uint8))
    width, height = sheet.size
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    seen = corners + rng.uniform(-0.06, 0.06, (4, 2)) * (width, height)
    rows = [row for (x, y), (u, v) in zip(corners, seen, strict=True) for row in _equations(x, y, u, v)]
    tilt = np.linalg.solve(np.array(rows), seen.flatten())
    page = np.asarray(sheet.transform(sheet.size, Image.Transform.PERSPECTIVE, tilt, Image.Resampling.BICUBIC)) / 255
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    slope = rng.uniform(-0.15, 0.15, 2)
    light = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    coarse = Image.fromarray(rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8), dtype=np.uint8))
    fibres = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 255 - 0.5
    paper, stroke = (225, 50) if kind == "ink" else (45, 215)
    colour = np.array([1.0, 0.98, 0.92])
    grey = (paper + 14 * fibres) * (1 - page) + stroke * page
    picture = (grey * light)[..., None] * colour + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.2))


def _equations(x: float, y: float, u: float, v: float) -> list[list[float]]:
    """Of the eight coefficients of a perspective that sees (u, v) at (x, y)."""
    return [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]


def scans(root: Path) -> dict[str, list[Image.Image]]:
    """The 20 scans of each character."""
    found: dict[str, list[Image.Image]] = {}
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{name}.zip") as archive:
            for member in sorted(archive.namelist()):
                if member.startswith(name) and member.endswith(".png"):
                    scan = open_picture(io.BytesIO(archive.read(member)))
                    found.setdefault(member.rpartition("/")[0], []).append(scan.copy())
    return found


def write(scan: Image.Image, kind: str, path: Path, rng: np.random.Generator) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "scan":
        path = path.with_suffix(".png")
        scan.save(path)
    else:
        photo_like(scan, kind, rng).save(path, quality=75)
    return path


def main(run: str, keep: str | None) -> None:
    torch.set_num_threads(1)
    folder = stored.read(Path(run), trust=False)
    model = stored.make(folder, BatchNorm.inductive, "cpu", Precision.fp32, None, trust=False)
    task = stored.task_of(folder.config, False)
    assert isinstance(task, Omniglot), "a run on Omniglot is wanted"
    test = [characters()[place].name for place in task._characters["test"].tolist()]
    images = scans(Path(os.environ["METALEARN_DATA"]) / "omniglot")
    print(f"| support and queries | accuracy over {TASKS} tasks | +- 95% |\n|---|---|---|")
    for number, (name, (support_kind, query_kind)) in enumerate(KINDS.items()):
        shares = []
        for place in range(TASKS):
            rng = np.random.default_rng(place)
            chosen = rng.choice(test, WAY, replace=False)
            drawers = [rng.choice(20, 1 + QUERIES, replace=False) for _ in chosen]
            with tempfile.TemporaryDirectory() as temporary:
                is_shown = keep is not None and number == 1 and place == 0
                home = Path(keep) if is_shown and keep else Path(temporary)
                support = [
                    write(images[character][people[0]], support_kind, home / "support" / f"{label}/1.jpg", rng)
                    for label, character, people in zip("ABCDE", chosen, drawers, strict=True)
                ]
                query = [
                    write(images[character][person], query_kind, home / "query" / f"{label}{row}.jpg", rng)
                    for label, character, people in zip("ABCDE", chosen, drawers, strict=True)
                    for row, person in enumerate(people[1:], 1)
                ]
                predictor = model.adapt(model.read(support), list("ABCDE"))
                found = [predictor.classes[at] for at in predictor(model.read(query)).argmax(-1).tolist()]
                shares.append(np.mean([label == path.name[0] for label, path in zip(found, query, strict=True)]))
                if is_shown:
                    overview(support, query, found).save(home / "overview.jpg", quality=80)
        ci95 = 1.96 * np.std(shares) / len(shares) ** 0.5
        print(f"| {name} | {100 * np.mean(shares):.1f} | {100 * ci95:.1f} |", flush=True)


def overview(support: list[Path], query: list[Path], found: list[str]) -> Image.Image:
    """A row for each class: its support picture, and its queries with what they were taken for."""
    wide, high, gap = 105, 140, 22
    sheet = Image.new("RGB", ((1 + QUERIES) * (wide + 8) + 16, WAY * (high + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, path in enumerate(support):
        label = "ABCDE"[row]
        cells = [(path, f"support {label}")]
        cells += [(at, f"taken for {to}") for at, to in zip(query, found, strict=True) if at.name[0] == label]
        for column, (file, text) in enumerate(cells):
            left, top = column * (wide + 8) + (16 if column else 0), row * (high + gap)
            sheet.paste(open_picture(file).resize((wide, high), Image.Resampling.LANCZOS), (left, top + gap - 4))
            draw.text((left + 2, top + 4), text, fill="black" if text[-1] == label else "red")
    return sheet


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
