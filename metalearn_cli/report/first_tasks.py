"""The first test tasks of a run, from its examples.npz: images with what was predicted, or curves before and after."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from metalearn_cli.errors import UserError
from metalearn_cli.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    axes,
    breakable,
    clipped,
    path,
    picture,
    scale,
)
from metalearn_cli.report.figures import Figures
from metalearn_cli.run_folder.read import RunFolder
from metalearn_cli.run_folder.records import arrays_of
from metalearn_cli.run_folder.results import read_episodes
from metalearn_cli.system.files import read_bytes

MOST_PIXELS = 30_000_000  # of test.png


def first_task(run: RunFolder) -> str:
    """HTML; a sentence where there is nothing to show."""
    file = run.folder / "examples.npz"
    if run.results is None:
        return "<p>Not finished: nothing was tested yet.</p>"
    if not file.exists():
        return f"<p>{_fallback(run.folder / 'test.png')}</p>"
    shown = arrays_of(file)
    metric = read_episodes(run.folder, run.results)["metric"]
    try:
        figures = fits(shown, metric) if "predicted" not in shown else []
        if not figures:
            return images(shown)
    except Exception as error:  # whatever numpy and Pillow raise where arrays are not there, or do not fit together
        what = " ".join(str(error).split())
        raise UserError(
            f"{file} does not hold a run's test tasks ({type(error).__name__}: {what}): remove it"
        ) from error
    return "".join(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for caption, svg in figures)


def _fallback(png: Path) -> str:
    """Of a run of before there was examples.npz."""
    if not png.exists():
        return "This kind of task has no picture: neither images nor curves of one variable."
    try:
        with Image.open(io.BytesIO(read_bytes(png)), formats=["PNG"]) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels")
            drawn = opened.convert("RGB")
    except Exception as error:  # whatever the system and Pillow raise where that is no PNG
        what = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{png} is no picture of a run's test tasks ({what}): remove it") from error
    file = io.BytesIO()
    drawn.save(file, "PNG")  # anew: of a file that may be anybody's the pixels alone
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img class="test" src="data:image/png;base64,{data}" alt="the first test tasks and what was predicted">'


def images(shown: dict[str, Any]) -> str:
    """A row for each class: its support images, and its query images with what they were taken for."""
    right, queries = int(shown["right"]), int(shown["queries"])
    labels = np.unique(shown["support_y"]).tolist()
    known = shown["names"].tolist() if "names" in shown else []  # a run of before, or data without names, has none
    names = {label: f"{label}  {known[label]}" if known else f"class {label}" for label in labels}
    rows = []
    for label in labels:
        support = [
            _image(pixels, f"support image of {names[label]}")
            for pixels in shown["support_x"][shown["support_y"] == label]
        ]
        at = np.flatnonzero(shown["query_y"] == label)
        query = [
            _query(shown["query_x"][i], label, int(shown["predicted"][i]), float(shown["probability"][i]), names)
            for i in at
        ]
        rows.append(
            f'<div class="class"><span class="name">{breakable(names[label])}</span>'
            f'<div class="support">{"".join(support)}</div><div class="query">{"".join(query)}</div></div>'
        )
    said = (
        f"{right} of {queries} query images of the first test episode are right ({right / queries:.1%}). First the "
        "support, then the query images by true class; a crossed one was taken for the class whose number stands under "
        "it."
    )
    return f'<p>{said}</p><div class="episode">{"".join(rows)}</div>'


def _query(pixels: Any, label: int, predicted: int, probability: float, names: dict[int, str]) -> str:
    if predicted == label:
        return f'<span class="right">{_image(pixels, f"query image of {names[label]}, right")}</span>'
    taken = names.get(predicted, f"class {predicted}")  # beyond the classes that are shown
    about = f"query image of {names[label]}, taken for {taken} with probability {probability:.0%}"
    return (
        f'<span class="wrong" title="{escape(about)}">{_image(pixels, about)}'
        f"<small>✗ {predicted}<br>{probability:.0%}</small></span>"
    )


def _image(pixels: Any, about: str) -> str:
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    is_grey = pixels.shape[-1] == 1
    picture.save(file, "PNG", optimize=True) if is_grey else picture.save(file, "JPEG", quality=88)
    kind = "png" if is_grey else "jpeg"
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/{kind};base64,{data}" alt="{escape(about)}">'


def fits(shown: dict[str, Any], metric: Any) -> Figures:
    """A chart for each task, all with the same axes: the truth and the support, the network before adapting and after;
    metric [E, K + 1].

    What runs away must not flatten the truth: it is cut off.
    """
    found: Figures = []
    steps = shown["steps"].tolist()
    styles = {0: "before", **dict.fromkeys(steps[1:-1], "first"), steps[-1]: "after"}
    points = {
        name: [_pairs(*both) for both in zip(shown[f"{name}_x"], shown[f"{name}_y"], strict=True)]
        for name in ("query", "support")
    }
    every = [point for tasks in points.values() for task in tasks for point in task]
    known = [y for _, y in every]
    low, high = min(known), max(known)
    margin = (high - low) / 2
    heights = [float(y) for y in shown["line_y"].ravel() if np.isfinite(y)]
    ends = [max(min([*heights, low]), low - margin), min(max([*heights, high]), high + margin)]
    x = scale([px for px, _ in every], LEFT, WIDTH - RIGHT, margin=0.02)
    y = scale(ends, HEIGHT - BOTTOM, TOP + 6)
    for task, (query, support) in enumerate(zip(*points.values(), strict=True)):
        parts = [axes(x, y, "x", "y", HEIGHT - BOTTOM)]
        parts += [f'<circle class="truth" cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="2"/>' for px, py in query]
        lines = [
            [(x.at(px), y.at(py)) for px, py in _pairs(shown["line_x"][task], shown["line_y"][i, task])]
            for i in range(len(steps))
        ]
        drawn = [
            f'<path class="line {styles[step]}" d="{path(line)}"/>' for step, line in zip(steps, lines, strict=True)
        ]
        parts.append(clipped("".join(drawn)))
        parts += [f'<circle class="point" cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="4"/>' for px, py in support]
        between = ", dashes after 1" if len(steps) > 2 else ""
        caption = (
            f"Test task {task + 1}: error {metric[task, 0]:.3g} → {metric[task, -1]:.3g}. Grey: the truth; dots: "
            f"the support; dotted before adapting{between}, solid after {steps[-1]} steps"
        )
        found.append((caption, picture("".join(parts), caption, f"{len(support)} support points")))
    return found


def _pairs(x: Any, y: Any) -> list[tuple[float, float]]:
    """Without the padding, and without what is not finite."""
    both = np.stack([x, y], 1)
    return [(float(a), float(b)) for a, b in both[np.isfinite(both).all(1)]]
