"""Photo-like versions of Omniglot's held-out characters, and how a run predicts them from files.

    METALEARN_DATA=... python benchmarks/photo_like.py outputs/RUN [FOLDER]

They are no photographs: a scan's strokes are drawn as dark ink on a paper with texture and uneven light (or, "chalk",
as light strokes on a dark board), seen in perspective, blurred, with noise, and saved as JPEG of 300 x 400 pixels. Each
scene changes one thing: the paper's grey, a shadow, the light, lines, the ink's colour, blur; or all of them. Each task
has 5 test characters with one picture in the support, or five, and 3 queries, by other people; all go through files.
Each kind is predicted with ink as it is and evened out. With FOLDER the pictures of the first task stay there, as
support/ and query/, with an overview.
"""

import io
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import build_task
from metalearn_cli.datasets.formats import open_picture
from metalearn_cli.datasets.ink import Ink
from metalearn_cli.system.device import Precision
from metalearn_cli.tasks.example_format import with_ink
from metalearn_cli.tasks.omniglot import Omniglot, characters
from metalearn_cli.trained.loading import build_model, read_stored

TASKS, WAY, SHOTS, QUERIES = 12, 5, (1, 5), 3
WIDTH, HEIGHT = 300, 400
INKS = ((40, 70, 180), (190, 50, 50), (40, 120, 60), (110, 60, 140))  # ballpoints: blue, red, green, violet


class Scene(NamedTuple):
    """How a page is photographed."""

    paper: float = 225  # its grey
    stroke: tuple[float, float, float] | None = (50, 50, 50)  # RGB; None: one of INKS
    slope: float = 0.15  # of the light, from one side of the picture to the other, at most
    corners: float = 0  # by how much the corners are darker than the middle
    shadow: float = 0  # by how much the page is darker on one side of a line
    ruled: bool = False  # lines of a writing pad
    blur: float = 1.2


SCENES = {
    "ink": Scene(),
    "chalk": Scene(paper=45, stroke=(215, 215, 215)),
    "grey paper": Scene(paper=130, stroke=(70, 70, 70)),
    "shadow": Scene(shadow=0.5),
    "uneven light": Scene(slope=0.7, corners=0.5),
    "ruled paper": Scene(ruled=True),
    "coloured ink": Scene(stroke=None),
    "blur": Scene(blur=5),
    "all at once": Scene(170, None, 0.4, 0.3, 0.35, True, 2.5),
}
KINDS = {"scans": ("scan", "scan")} | {name: (name, name) for name in SCENES}
KINDS |= {"scans, queries ink": ("scan", "ink"), "scans, queries in shadow": ("scan", "shadow")}
KINDS |= {"ink, queries chalk": ("ink", "chalk")}


def photo_like(scan: Image.Image, scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A scan, of 105 x 105 or more, as ink on paper, or as chalk on a board."""
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
    slope = rng.uniform(-scene.slope, scene.slope, 2)
    light = 1 + slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    coarse = Image.fromarray(rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8), dtype=np.uint8))
    fibres = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 255 - 0.5
    noise = rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    if scene.corners:
        light = light * (1 - scene.corners * (2 * (x - 0.5) ** 2 + 2 * (y - 0.5) ** 2))
    if scene.shadow:  # its edge is some centimetres wide, and goes through the middle third
        angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.15, 0.15)
        across = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) - place
        light = light * (1 - scene.shadow / (1 + np.exp(-across / 0.03)))
    paper = np.repeat((scene.paper + 14 * fibres)[..., None], 3, axis=2)
    if scene.ruled:
        lines = np.mod(y * HEIGHT + rng.uniform(0, 34) + rng.uniform(-12, 12) * x, 34) < 2
        paper = np.where(lines[..., None], 0.72 * paper * (0.9, 1.0, 1.15), paper)
    stroke = INKS[int(rng.integers(len(INKS)))] if scene.stroke is None else scene.stroke
    colour = paper * (1 - page[..., None]) + np.array(stroke) * page[..., None]
    picture = colour * light[..., None] * (1.0, 0.98, 0.92) + noise
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(scene.blur))


def _equations(x: float, y: float, u: float, v: float) -> list[list[float]]:
    """Of the eight coefficients of a perspective that sees (u, v) at (x, y)."""
    return [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]


def scans(root: Path) -> dict[str, list[bytes]]:
    """The 20 scans of each character, as they lie in the archives."""
    found: dict[str, list[bytes]] = {}
    for name in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{name}.zip") as archive:
            for member in sorted(archive.namelist()):
                if member.startswith(name) and member.endswith(".png"):
                    found.setdefault(member.rpartition("/")[0], []).append(archive.read(member))
    return found


def write(file: bytes, kind: str, path: Path, rng: np.random.Generator) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "scan":
        path = path.with_suffix(".png")
        path.write_bytes(file)
    else:
        photo_like(open_picture(io.BytesIO(file)), SCENES[kind], rng).save(path, quality=75)
    return path


def main(run: str, keep: str | None) -> None:
    torch.set_num_threads(1)
    folder = read_stored(Path(run), trust=False)
    models = {
        ink: build_model(
            folder._replace(examples=with_ink(folder.examples, ink)),
            *(BatchNorm.inductive, "cpu", Precision.fp32, None, False),
        )
        for ink in Ink
    }
    task = build_task(folder.config["task"], ConfigSource())
    assert isinstance(task, Omniglot), "a run on Omniglot is wanted"
    test = [characters()[place].name for place in task._characters["test"].tolist()]
    images = scans(Path(os.environ["METALEARN_DATA"]) / "omniglot")
    cells = [(shot, ink) for shot in SHOTS for ink in Ink]
    print(f"| support and queries | {' | '.join(f'{shot}-shot, {ink.name}' for shot, ink in cells)} |")
    print("|---" * (1 + len(cells)) + "|")
    for number, (name, (support_kind, query_kind)) in enumerate(KINDS.items()):
        shares: dict[tuple[int, Ink], list[float]] = {cell: [] for cell in cells}
        for place in range(TASKS):
            rng = np.random.default_rng(place)
            chosen = rng.choice(test, WAY, replace=False)
            drawers = [rng.choice(20, max(SHOTS) + QUERIES, replace=False) for _ in chosen]
            with tempfile.TemporaryDirectory() as temporary:
                is_shown = keep is not None and number == 1 and place == 0
                home = Path(keep) if is_shown and keep else Path(temporary)
                support = [
                    write(images[character][person], support_kind, home / "support" / f"{label}/{row}.jpg", rng)
                    for row in range(max(SHOTS))
                    for label, character, people in zip("ABCDE", chosen, drawers, strict=True)
                    for person in people[row : row + 1]
                ]
                query = [
                    write(images[character][person], query_kind, home / "query" / f"{label}{row}.jpg", rng)
                    for label, character, people in zip("ABCDE", chosen, drawers, strict=True)
                    for row, person in enumerate(people[max(SHOTS) :], 1)
                ]
                pixels = {ink: (models[ink].read(support), models[ink].read(query)) for ink in Ink}
                for shot, ink in cells:
                    first, (x, q) = support[: WAY * shot], pixels[ink]
                    predictor = models[ink].adapt(x[: len(first)], [path.parent.name for path in first])
                    found = [predictor.classes[at] for at in predictor(q).argmax(-1).tolist()]
                    right = [label == path.name[0] for label, path in zip(found, query, strict=True)]
                    shares[shot, ink].append(float(np.mean(right)))
                    if is_shown and (shot, ink) == (1, Ink.evened):
                        overview(first, query, found).save(home / "overview.jpg", quality=80)
        figures = [f"{100 * np.mean(one):.1f} +- {196 * np.std(one) / len(one) ** 0.5:.1f}" for one in shares.values()]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


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
