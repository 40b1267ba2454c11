"""A plot in characters, for a terminal and a log."""

import torch
from torch import Tensor


def plot(curves: dict[str, tuple[Tensor, Tensor]], width: int = 70, height: int = 17) -> str:
    """Curves and points by their mark, x and y [n] each; later ones are drawn over earlier ones. Lines of text,
    ten columns wider than `width`."""
    marked = []
    for mark, (x, y) in curves.items():
        seen = x.isfinite() & y.isfinite() & (y.abs() < 1e30)  # the rest has no place on any axis
        marked.append((mark, x[seen].double(), y[seen].double()))
    low_x, high_x = _range(torch.cat([x for _, x, _ in marked]))
    low_y, high_y = _range(torch.cat([y for _, _, y in marked]))
    canvas = [[" "] * width for _ in range(height)]
    for mark, xs, ys in marked:
        columns = ((xs - low_x) / (high_x - low_x) * (width - 1)).round().long().tolist()
        rows = ((high_y - ys) / (high_y - low_y) * (height - 1)).round().long().tolist()
        for column, row in zip(columns, rows, strict=True):
            canvas[row][column] = mark
    labels = [f"{high_y:8.2f} "] + [" " * 9] * (height - 2) + [f"{low_y:8.2f} "]
    lines = [f"{label}|{''.join(row).rstrip()}" for label, row in zip(labels, canvas, strict=True)]
    return "\n".join([*lines, " " * 10 + f"{low_x:<{width - 8}.2f}{high_x:>8.2f}"])


def _range(values: Tensor) -> tuple[float, float]:
    low, high = values.min().item(), values.max().item()
    return (low, high) if high > low else (low - 1, low + 1)
