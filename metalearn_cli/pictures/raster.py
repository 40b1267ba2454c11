"""What a learner does with a few tasks, as a picture for TensorBoard: uint8 [H, W, 3].

The colours are Okabe and Ito's, which colour-blind readers can tell apart, and nothing is said by colour alone.
"""

import math
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, task_metric
from metalearn_cli.learning.learner import Learner
from metalearn_cli.tasks.base import Batch

ORANGE, SKY, BLUE, GREEN, RED = "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#D55E00"
GREY, LIGHT = "#6E6E6E", "#E4E4E4"
MAX_TASKS, WIDTH, PANEL_HEIGHT = 4, 1040, 310  # of `fits`
MAX_CLASSES, MAX_SUPPORT, MAX_QUERY = 20, 5, 15  # rows of `episode`, and images of each

Points = list[tuple[float, float]]
Range = tuple[float, float]


class _Canvas:
    """A white picture, measured in its final pixels but drawn at twice the size: Pillow does not smooth lines."""

    def __init__(self, width: float, height: float) -> None:
        self.image = Image.new("RGB", (2 * math.ceil(width), 2 * math.ceil(height)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, colour: str = "black", size: int = 13, anchor: str = "lm") -> float:
        """Write beside x (`anchor` is Pillow's) and around y -> where a text that starts at x ends."""
        font = ImageFont.load_default(2 * size)
        self._draw.text((2 * x, 2 * y), text, colour, font, anchor)
        return x + font.getlength(text) / 2

    def line(self, points: Points, colour: str, width: float, dashed: bool = False) -> None:
        parts = [xy := 2 * np.array(points).reshape(-1, 2)]
        if dashed and points:  # along the line, whatever its slope
            along = np.hypot(*np.diff(xy, axis=0, prepend=xy[:1]).T).cumsum()
            dashes = [np.linspace(start, start + 16, 9) for start in np.arange(0, along[-1], 26)]
            parts = [np.stack([np.interp(at, along, xy[:, 0]), np.interp(at, along, xy[:, 1])], 1) for at in dashes]
        for part in filter(len, parts):
            self._draw.line([(x, y) for x, y in part.tolist()], colour, round(2 * width), joint="curve")

    def dots(self, points: Points, colour: str, radius: float) -> None:
        for x, y in points:
            box = [2 * (x - radius), 2 * (y - radius), 2 * (x + radius), 2 * (y + radius)]
            self._draw.ellipse(box, colour, "white", 2 if radius > 2 else 0)  # large ones stay apart

    def frame(self, x: float, y: float, width: float, height: float, colour: str, line: int) -> None:
        """A frame of `line` pixels around the rectangle that starts at (x, y)."""
        corners = [2 * (x - line), 2 * (y - line), 2 * (x + width + line) - 1, 2 * (y + height + line) - 1]
        self._draw.rectangle(corners, outline=colour, width=2 * line)

    def cross(self, x: float, y: float, colour: str) -> None:
        for slope in (-4, 4):
            self.line([(x - 4, y - slope), (x + 4, y + slope)], colour, 2)

    def paste(self, image: Image.Image, x: float, y: float) -> None:
        self.image.paste(image, (round(2 * x), round(2 * y)))

    def tensor(self) -> Tensor:
        return torch.from_numpy(np.array(self.image.reduce(2)))


def fits(learner: Learner, batch: Batch, batch_norm: BatchNorm) -> Tensor:
    """One-dimensional regressions, the first four of the batch: the truth, and the network while it adapts.

    Where batch norm takes the query's own statistics, a line has those of its 200 points, and the error in the title
    those of the query points.
    """
    batch = batch.first(MAX_TASKS).to(learner.dtype)
    tasks, last = len(batch.key), learner.algorithm.test_steps
    alone = [batch.task(number) for number in range(tasks)]
    ends = [torch.cat([one.support_x, one.query_x], 1).aminmax(dim=1, keepdim=True) for one in alone]
    low, high = (torch.cat(end) for end in zip(*ends, strict=True))
    grid = low + (high - low) * torch.linspace(0, 1, 200, dtype=low.dtype, device=low.device).view(1, -1, 1)
    predictors = {steps: learner.adapt(batch.support, steps) for steps in sorted({0, min(1, last), last})}
    lines = {steps: _points(grid, predict(grid, batch_norm)) for steps, predict in predictors.items()}
    out = [predictors[steps](batch.query_x, batch_norm, batch.query_mask) for steps in sorted({0, last})]
    errors = [task_metric(learner.net.spec, values, batch.query_y, batch.query_mask).tolist() for values in out]
    truth = [points for one in alone for points in _points(one.query_x, one.query_y)]
    support = [points for one in alone for points in _points(one.support_x, one.support_y)]

    width = WIDTH // min(2, tasks)
    canvas = _Canvas(WIDTH, 60 + PANEL_HEIGHT * math.ceil(tasks / 2))
    canvas.text(16, 18, f"{_number(alone)} support points, {_conditions(learner, batch_norm)}", size=16)
    canvas.dots([(20, 46), (28, 46), (36, 46)], GREY, 2)
    end = canvas.text(46, 46, "truth (query points)")
    canvas.dots([(end + 36, 46)], "black", 5)
    end = canvas.text(end + 47, 46, "support points")
    styles = {0: (ORANGE, 2, False), 1: (SKY, 2.5, True), last: (BLUE, 2.5, False)}
    for steps in lines:
        canvas.line([(end + 30, 46), (end + 64, 46)], *styles[steps])
        name = f"after {steps} step{'s' * (steps > 1)}" if steps else "before adapting"
        end = canvas.text(end + 72, 46, name)

    # All panels have the same axes. Lines may widen them, but one that runs away must not flatten the truth.
    known = [point for points in truth + support for point in points]
    x_range, (low_y, high_y) = _padded([x for x, _ in known], 0.03), _padded([y for _, y in known], 0.1)
    drawn = [y for points in lines.values() for line in points for _, y in line if math.isfinite(y)]
    margin = (high_y - low_y) / 2
    y_range = max(min([*drawn, low_y]), low_y - margin), min(max([*drawn, high_y]), high_y + margin)
    panel_width, panel_height = width - 72, PANEL_HEIGHT - 70  # inside the axes
    place = partial(_place, x_range, y_range, panel_width, panel_height)
    for task in range(tasks):
        panel = _Canvas(panel_width, panel_height)  # of its own, to cut off what leaves the axes
        left, top = task % 2 * width + 56, task // 2 * PANEL_HEIGHT + 96
        for tick in _ticks(*x_range):
            ((x, _),) = place([(tick, y_range[0])])
            panel.line([(x, 0), (x, panel_height)], LIGHT, 1)
            canvas.text(left + x, top + panel_height + 14, f"{tick:g}", GREY, anchor="mm")
        for tick in _ticks(*y_range):
            ((_, y),) = place([(x_range[0], tick)])
            panel.line([(0, y), (panel_width, y)], LIGHT, 1)
            canvas.text(left - 8, top + y, f"{tick:g}", GREY, anchor="rm")
        panel.dots(place(truth[task]), GREY, 2)
        for steps, points in lines.items():
            panel.line(place(points[task]), *styles[steps])
        panel.dots(place(support[task]), "black", 5)
        canvas.paste(panel.image, left, top)
        canvas.frame(left, top, panel_width, panel_height, GREY, 1)
        change = " -> ".join(f"{error[task]:.3g}" for error in errors)
        canvas.text(left + panel_width / 2, top - 16, f"task {task + 1}:  MSE {change}", size=14, anchor="mm")
    return canvas.tensor()


def _number(tasks: list[Batch]) -> str:
    """How many support points these tasks have: 5, or 3 to 8."""
    numbers = sorted({one.support_x.shape[1] for one in tasks})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _points(x: Tensor, y: Tensor) -> list[Points]:
    """x and y [T, N, 1] -> the N points of each task."""
    return [[(a, b) for a, b in task] for task in torch.cat([x, y], -1).tolist()]


def _place(x_range: Range, y_range: Range, width: float, height: float, points: Points) -> Points:
    """Where points lie, in pixels; those far outside are pulled nearer, those that are not finite left out."""
    (left, right), (low, high) = x_range, y_range
    at = [((x - left) / (right - left) * width, (high - y) / (high - low) * height) for x, y in points]
    return [(x, min(max(y, -2 * height), 3 * height)) for x, y in at if math.isfinite(y)]


def _padded(values: list[float], share: float) -> Range:
    margin = share * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between the two."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(unit * factor for factor in (5, 2, 1) if unit * factor <= (high - low) / 3)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def episode(learner: Learner, batch: Batch, batch_norm: BatchNorm) -> Tensor:
    """The first classification task of the batch: a row for each class, its support left, its query images right."""
    batch = batch.to(learner.dtype).task(0)
    out = learner.adapt(batch.support)(batch.query_x, batch_norm)[0]  # [Q, way]
    out = out if batch.way is None else out[:, : int(batch.way)]
    predicted, probability = out.argmax(-1).tolist(), out.softmax(-1).amax(-1).tolist()
    right = (out.argmax(-1) == batch.query_y[0]).tolist()
    images = _thumbnails(torch.cat([batch.support_x[0], batch.query_x[0]]))
    classes, rows = out.shape[1], min(out.shape[1], MAX_CLASSES)
    width, height = images[0].width / 2, images[0].height / 2
    column, row, top = max(width, 56) + 10, height + 26, 92

    headline = f"{sum(right)} of {len(right)} query images right ({sum(right) / len(right):.1%}), "
    headline += _conditions(learner, batch_norm)
    middle = 84 + _block_width(batch.support_y, MAX_SUPPORT, column)
    end = middle + _block_width(batch.query_y, MAX_QUERY, column)
    bottom = top + rows * row
    wide = max(end + 8, ImageFont.load_default(16).getlength(headline) + 40, 480)
    canvas = _Canvas(wide, bottom + 24 * (classes > rows))
    canvas.text(16, 18, headline, size=16)
    canvas.frame(20, 40, 12, 12, GREEN, 3)
    canvas.text(42, 46, "right")
    canvas.frame(100, 40, 12, 12, RED, 3)
    canvas.cross(128, 46, RED)
    canvas.text(138, 46, "wrong, with the predicted class and its probability")
    for x, title in ((16, "class"), (64, "support"), (middle, "query, by true class")):
        canvas.text(x, 76, title, GREY)
    canvas.line([(middle - 16, 70), (middle - 16, bottom - 8)], LIGHT, 1)
    for label in range(rows):
        y = top + label * row
        canvas.text(40, y + height / 2, str(label), size=16, anchor="rm")
        support, query = (
            (labels[0] == label).nonzero().flatten().tolist() for labels in (batch.support_y, batch.query_y)
        )
        for x, i in zip(np.arange(MAX_SUPPORT) * column + 64, support, strict=False):
            canvas.paste(images[i], x, y)
        for x, i in zip(np.arange(MAX_QUERY) * column + middle, query, strict=False):
            canvas.paste(images[i - len(right)], x, y)  # the query images are the last ones
            canvas.frame(x, y, width, height, GREEN if right[i] else RED, 3)
            if not right[i]:
                canvas.cross(x + 3, y + height + 12, RED)
                canvas.text(x + 11, y + height + 12, f"{predicted[i]}: {probability[i]:.0%}", RED, 11)
        for x, members, most in ((64, support, MAX_SUPPORT), (middle, query, MAX_QUERY)):
            if len(members) > most:
                canvas.text(x + most * column, y + height / 2, f"+ {len(members) - most} more", GREY)
    if classes > rows:
        canvas.text(16, bottom + 8, f"+ {classes - rows} more classes", GREY)
    return canvas.tensor()


def _block_width(labels: Tensor, most: int, column: float) -> float:
    """Of the images of labels [1, B], and where a class has more than `most`, of a note that says so."""
    longest = int(labels.flatten().bincount().max())
    return min(longest, most) * column + 66 * (longest > most)


def _thumbnails(x: Tensor) -> list[Image.Image]:
    """Images [B, C, H, W] with 1 or 3 channels as pictures for a canvas: whole pixels, repeated or averaged."""
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 1.0)  # 0..1, unless the data are standardised
    levels = ((x - low) / (high - low) * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    side = max(x.shape[2:])
    grow, shrink = 2 * math.ceil(56 / side), max(1, side // 84)
    shrunk = [Image.fromarray(pixels).reduce(shrink) for pixels in levels.permute(0, 2, 3, 1).cpu().numpy()]
    return [image.resize((image.width * grow, image.height * grow), Image.Resampling.NEAREST) for image in shrunk]


def _conditions(learner: Learner, batch_norm: BatchNorm) -> str:
    steps = learner.algorithm.test_steps
    adapted = f"{steps or 'no'} inner step{'s' * (steps != 1)}"
    return f"{adapted}, batch norm {batch_norm.name}" if learner.net.init_stats() else adapted
