"""Draws a folder of road-sign-like pictures: few classes, each of which is easily told from the others.

    python benchmarks/signs.py FOLDER [CLASSES]

A class is a shape, two colours and a mark; a picture of it is shifted, turned, scaled, blurred and lit at random, on a
background of noise. FOLDER/CLASS/NUMBER.png, 40 pictures of 40 x 40 pixels for each class; the same ones each time.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PICTURES, SIDE = 40, 40
LARGE = 160  # the side on which a sign is drawn
SHAPES = {"disc": 0, "triangle": 3, "square": 4, "octagon": 8}  # corners
COLOURS = {"red": (190, 30, 40), "blue": (30, 70, 170), "yellow": (235, 190, 30), "white": (235, 235, 230)}
MARKS = "!?P30X"


def sign(shape: str, colour: str, mark: str) -> Image.Image:
    """The sign of a class, [LARGE, LARGE] RGBA."""
    picture = Image.new("RGBA", (LARGE, LARGE))
    draw = ImageDraw.Draw(picture)
    middle = LARGE / 2, LARGE / 2
    for radius, fill in ((70, (20, 20, 20) if colour == "white" else (245, 245, 245)), (60, COLOURS[colour])):
        if corners := SHAPES[shape]:
            draw.regular_polygon((middle, radius), corners, rotation=22 if corners == 8 else 0, fill=fill)
        else:
            draw.ellipse([LARGE / 2 - radius, LARGE / 2 - radius, LARGE / 2 + radius, LARGE / 2 + radius], fill=fill)
    ink = (20, 20, 20) if colour in ("yellow", "white") else (250, 250, 250)
    draw.text(middle, mark, ink, ImageFont.load_default(64), anchor="mm")
    return picture


def seen(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A sign somewhere in a picture, [SIDE, SIDE] RGB."""
    turned = drawn.rotate(float(rng.normal(0, 9)), Image.Resampling.BICUBIC)
    side = int(SIDE * rng.uniform(0.6, 1.0))
    small = turned.resize((side, side), Image.Resampling.LANCZOS)
    coarse = rng.integers(30, 200, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    left, top = (int(rng.integers(0, SIDE - side + 1)) for _ in range(2))
    picture.paste(small, (left, top), small)
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    pixels = np.asarray(picture) * rng.uniform(0.4, 1.15) + rng.normal(0, 8, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def main(folder: Path, classes: int) -> None:
    kinds = list(itertools.product(SHAPES, COLOURS, MARKS))
    chosen = np.random.default_rng(0).permutation(len(kinds))[:classes]
    for number, kind in enumerate(chosen.tolist()):
        shape, colour, mark = kinds[kind]
        home = folder / f"{shape}-{colour}-{ord(mark)}"
        home.mkdir(parents=True)
        rng = np.random.default_rng(number)
        for picture in range(PICTURES):
            seen(sign(shape, colour, mark), rng).save(home / f"{picture:02}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("classes", type=int, nargs="?", default=40)
    main(**vars(parser.parse_args()))
