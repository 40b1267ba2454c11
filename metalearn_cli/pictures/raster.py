"""A run's first tasks as a picture: for TensorBoard, test.png and the report, from the arrays of examples.npz.

The colours are Okabe and Ito's, which colour-blind readers can tell apart, and nothing is said by colour alone.
"""

import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from metalearn_cli.pictures.arrays import Array, Arrays
from metalearn_cli.pictures.axis import axis_of, tick_label

ORANGE, SKY, BLUE, GREEN, RED = "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#D55E00"
GREY, LIGHT = "#6E6E6E", "#E4E4E4"
WIDTH, PANEL_HEIGHT = 1040, 310  # of curves

Polyline = list[tuple[float, float]]


class _Canvas:
    """A white picture, measured in its final pixels but drawn at twice the size: Pillow does not smooth lines."""

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (2 * math.ceil(width), 2 * math.ceil(height)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, colour: str = "black", size: int = 13, anchor: str = "lm") -> float:
        """Write beside x (`anchor` is Pillow's) and around y -> where a text that starts at x ends."""
        self._draw.text((2 * x, 2 * y), text, colour, ImageFont.load_default(2 * size), anchor)
        return x + _length(text, size)

    def line(self, points: Polyline, colour: str, width: float, dashed: bool = False) -> None:
        parts = [xy := 2 * np.array(points).reshape(-1, 2)]
        if dashed and points:  # along the line, whatever its slope
            along = np.hypot(*np.diff(xy, axis=0, prepend=xy[:1]).T).cumsum()
            dashes = [np.linspace(start, start + 16, 9) for start in np.arange(0, along[-1], 26)]
            parts = [np.stack([np.interp(at, along, xy[:, 0]), np.interp(at, along, xy[:, 1])], 1) for at in dashes]
        for part in filter(len, parts):
            self._draw.line([(x, y) for x, y in part.tolist()], colour, round(2 * width), joint="curve")

    def dots(self, points: Polyline, colour: str, radius: float) -> None:
        for x, y in points:
            box = [2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)]
            self._draw.ellipse(box, colour, "white", 2 if radius > 2 else 0)  # large ones stay apart

    def paste(self, image: Image.Image, x: float, y: float, frame: int, colour: str) -> None:
        """Put an image at (x, y), with a frame of so many drawn pixels around it."""
        self.image.paste(ImageOps.expand(image, frame, colour), (round(2 * x) - frame, round(2 * y) - frame))


def picture(arrays: Arrays) -> Image.Image:
    """Draw the first tasks, with what they were tested with above them."""
    drawn = _classes if "predicted" in arrays else _completions if "completed" in arrays else _curves
    return drawn(arrays).image.reduce(2)


def heading(arrays: Arrays) -> str:
    """Say what is drawn, and what the learner was tested with."""
    conditions = f", {arrays['conditions']}" if "conditions" in arrays else ""
    if "predicted" not in arrays:
        counts = arrays["given"] if "given" in arrays else np.isfinite(arrays["support_x"]).sum(1)
        most = f" to {counts.max()}" if counts.max() > counts.min() else ""
        return f"{counts.min()}{most} support {'pixels' if 'given' in arrays else 'points'}{conditions}"
    right, queries = int(arrays["right"]), int(arrays["queries"])
    few = f" ({len(arrays['query_y'])} are shown)" if queries > len(arrays["query_y"]) else ""
    return f"{right} of {queries} query images right ({right / queries:.1%}){few}{conditions}"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _curves(arrays: Arrays) -> _Canvas:
    """Draw one-dimensional regressions: the truth, and the network while it adapts."""
    steps, tasks = arrays["steps"].tolist(), len(arrays["line_x"])
    truth, support = (_points(arrays[f"{name}_x"], arrays[f"{name}_y"]) for name in ("query", "support"))
    canvas = _Canvas(WIDTH, 60 + PANEL_HEIGHT * math.ceil(tasks / 2))
    canvas.text(16, 18, heading(arrays), size=16)
    canvas.dots([(20, 46), (28, 46), (36, 46)], GREY, 2)
    end = canvas.text(46, 46, "truth (query points)")
    canvas.dots([(end + 36, 46)], "black", 5)
    end = canvas.text(end + 47, 46, "support points")
    styles = {0: (ORANGE, 2, False), 1: (SKY, 2.5, True), steps[-1]: (BLUE, 2.5, False)}
    for step in steps:
        canvas.line([(end + 30, 46), (end + 64, 46)], *styles[step])
        before = "before adapting" if len(steps) > 1 else "prediction"
        end = canvas.text(end + 72, 46, f"after {step} step{'s' * (step > 1)}" if step else before)
    if "deviation" in arrays:
        canvas.line([(end + 30, 46), (end + 64, 46)], BLUE, 1.5)
        end = canvas.text(end + 72, 46, "two deviations")
    if "early" in arrays:
        canvas.line([(end + 30, 46), (end + 64, 46)], ORANGE, 2.5)
        canvas.dots([(end + 47, 46)], ORANGE, 5)
        canvas.text(end + 72, 46, f"after the first {arrays['early']} of the support points")

    # All panels have the same axes. Lines may widen them, but one that runs away must not flatten the truth.
    known = [point for points in truth + support for point in points]
    width, height = WIDTH // min(2, tasks) - 72, PANEL_HEIGHT - 70  # inside the axes
    x_axis = axis_of([x for x, _ in known], 0, width, margin=0.03)
    y_axis = axis_of([y for _, y in known], height, 0, margin=0.1)
    drawn, margin = arrays["line_y"][np.isfinite(arrays["line_y"])], (y_axis.high - y_axis.low) / 2
    low, high = drawn.min(initial=y_axis.low), drawn.max(initial=y_axis.high)
    y_axis = y_axis._replace(low=max(low, y_axis.low - margin), high=min(high, y_axis.high + margin))

    def places(points: Polyline) -> Polyline:
        return [(x_axis.at(x), y_axis.at(y)) for x, y in points]

    for task in range(tasks):
        panel = _Canvas(width, height)  # of its own, to cut off what leaves the axes
        left, top = task % 2 * (width + 72) + 56, task // 2 * PANEL_HEIGHT + 96
        for x, label in ((x_axis.at(tick), tick_label(tick)) for tick in x_axis.ticks()):
            panel.line([(x, 0), (x, height)], LIGHT, 1)
            canvas.text(left + x, top + height + 14, label, GREY, anchor="mm")
        for y, label in ((y_axis.at(tick), tick_label(tick)) for tick in y_axis.ticks()):
            panel.line([(0, y), (width, y)], LIGHT, 1)
            canvas.text(left - 8, top + y, label, GREY, anchor="rm")
        panel.dots(places(truth[task]), GREY, 2)
        if "early" in arrays:
            panel.line(places(_points(arrays["line_x"][task], arrays["early_y"][[task]])[0]), ORANGE, 2.5)
        for name, middle, colour in (("early_deviation", "early_y", ORANGE), ("deviation", "line_y", BLUE)):
            if name in arrays:
                y, deviation = arrays[middle].reshape(-1, *arrays[name].shape)[-1, task], arrays[name][task]
                for edge in _points(arrays["line_x"][task], np.stack([y - 2 * deviation, y + 2 * deviation])):
                    panel.line(places(edge), colour, 1.5)
        for step, line in zip(steps, _points(arrays["line_x"][task], arrays["line_y"][:, task]), strict=True):
            panel.line(places(line), *styles[step])
        panel.dots(places(support[task]), "black", 5)
        if "early" in arrays:
            panel.dots(places(support[task][: int(arrays["early"])]), ORANGE, 5)
        canvas.paste(panel.image, left, top, 1, GREY)
        errors: list[float] = arrays["errors"][[0, -1][: len(steps)], task].tolist() if "errors" in arrays else []
        change = f":  MSE {' -> '.join(f'{error:.3g}' for error in errors)}" if errors else ""
        canvas.text(left + width / 2, top - 16, f"task {task + 1}{change}", size=14, anchor="mm")
    return canvas


def _points(x: Array, y: Array) -> list[Polyline]:
    """The points of each row of y [T, P], at x [T, P] or [P]; without the padding, and without what is not finite."""
    rows = [np.stack(row, 1) for row in zip(np.broadcast_to(x, y.shape), y, strict=True)]
    return [[(a, b) for a, b in row[np.isfinite(row).all(1)].tolist()] for row in rows]


def _classes(arrays: Arrays) -> _Canvas:
    """Draw a classification task: a row for each class, its support left, its query images right."""
    labels = np.unique(arrays["support_y"]).tolist()
    names = arrays["names"].tolist() if "names" in arrays else []
    titles = [f"{label}  {names[label]}" if names else f"{label}" for label in labels]
    titles = [title if len(title) <= 44 else f"{title[:43]}…" for title in titles]
    support, query = (_thumbnails(arrays[f"{part}_x"]) for part in ("support", "query"))
    width, height = query[0].width // 2, query[0].height // 2
    column, row, top = max(width, 56) + 10, height + 26, 92
    left = 40 + math.ceil(max(_length(title, 13) for title in titles))
    most_support, most_query = (int(np.bincount(arrays[f"{part}_y"]).max()) for part in ("support", "query"))
    middle = left + most_support * column + 20
    bottom = top + len(labels) * row
    canvas = _Canvas(max(middle + most_query * column + 8, _length(heading(arrays), 16) + 40, 480), bottom)
    canvas.text(16, 18, heading(arrays), size=16)
    for x, colour, meaning in ((20, GREEN, "right"), (100, RED, "wrong, with the predicted class")):
        canvas.line([(x, 46), (x + 14, 46)], colour, 14)
        canvas.text(x + 22, 46, meaning)
    for x, title in ((16, "class"), (left, "support"), (middle, "query, by true class")):
        canvas.text(x, 76, title, GREY)
    canvas.line([(middle - 16, 70), (middle - 16, bottom - 8)], LIGHT, 1)
    for number, (label, title) in enumerate(zip(labels, titles, strict=True)):
        y = top + number * row
        canvas.text(16, y + height / 2, title)
        for place, i in enumerate(np.flatnonzero(arrays["support_y"] == label)):
            canvas.paste(support[i], left + place * column, y, 0, GREY)
        for place, i in enumerate(np.flatnonzero(arrays["query_y"] == label)):
            start, predicted = middle + place * column, int(arrays["predicted"][i])
            canvas.paste(query[i], start, y, 6, GREEN if predicted == label else RED)
            if predicted != label:
                canvas.text(start, y + height + 12, f"{predicted}: {arrays['probability'][i]:.0%}", RED, 11)
    return canvas


def _completions(arrays: Arrays) -> _Canvas:
    """Draw completed images, a row for each: what is given, what is predicted, and the truth."""
    completed = arrays["completed"]
    titles = ["given", "mean", "deviation, to 0.5", "truth"] if completed.shape[1] == 4 else ["given", "mean", "truth"]
    images = [_thumbnails(row, 112) for row in completed]
    step, left, top = images[0][0].width // 2 + 12, 104, 62
    width = max(left + len(titles) * step + 4, _length(heading(arrays), 16) + 40)
    canvas = _Canvas(width, top + len(images) * step)
    canvas.text(16, 18, heading(arrays), size=16)
    for place, title in enumerate(titles):
        canvas.text(left + place * step, 46, title, GREY)
    for number, row in enumerate(images):
        canvas.text(16, top + number * step + 20, f"{arrays['given'][number]} of {completed[0, 0, ..., 0].size}")
        canvas.text(16, top + number * step + 38, "pixels", GREY)
        for place, image in enumerate(row):
            canvas.paste(image, left + place * step, top + number * step, 1, GREY)
    return canvas


def _length(text: str, size: int) -> float:
    return ImageFont.load_default(2 * size).getlength(text) / 2


def _thumbnails(x: Array, side: int = 56) -> list[Image.Image]:
    """Images [N, H, W, 1 or 3] uint8 as pictures of `side` or more for a canvas: whole pixels, repeated."""
    grow = 2 * math.ceil(side / max(x.shape[1:3]))
    images = [Image.fromarray(pixels) for pixels in np.broadcast_to(x, (*x.shape[:3], 3))]
    return [image.resize((image.width * grow, image.height * grow), Image.Resampling.NEAREST) for image in images]
