"""A run's first task in characters, for a terminal and a log."""

import numpy as np

from metalearn_cli.pictures.arrays import Array, Arrays


def first_curve(arrays: Arrays) -> str:
    """Draw the first one-dimensional regression: the truth, and the network before and after adapting."""
    line, last = arrays["line_x"][0], int(arrays["steps"][-1])
    curves = {
        ".": (arrays["query_x"][0], arrays["query_y"][0]),
        "-": (line, arrays["line_y"][0, 0]),
        "+": (line, arrays["line_y"][-1, 0]),
        "o": (arrays["support_x"][0], arrays["support_y"][0]),
    }
    after = f"- before adapting, + after {last} step{'s' * (last > 1)}" if last else "+ prediction"
    if "early" in arrays:
        curves["-"] = line, arrays["early_y"][0]
        after = f"- after the first {arrays['early']} of these, + after all"
    return f"the first test task: . truth, o support, {after}\n{plot(curves)}"


def plot(curves: dict[str, tuple[Array, Array]], width: int = 70, height: int = 17) -> str:
    """Draw curves and points by their mark, x and y [n] each, later ones over earlier ones; the lines of text are ten
    columns wider than `width`."""
    marked = {}
    for mark, points in curves.items():
        x, y = (values.astype(np.float64) for values in points)
        seen = np.isfinite(x) & np.isfinite(y) & (np.abs(y) < 1e30)  # the rest has no place on any axis
        marked[mark] = x[seen], y[seen]
    (low_x, high_x), (low_y, high_y) = (_range(np.concatenate(values)) for values in zip(*marked.values(), strict=True))
    canvas = np.full((height, width), " ")
    for mark, (x, y) in marked.items():
        columns = np.rint((x - low_x) / (high_x - low_x) * (width - 1)).astype(int)
        canvas[np.rint((high_y - y) / (high_y - low_y) * (height - 1)).astype(int), columns] = mark
    labels = [f"{high_y:8.2f} ", *[" " * 9] * (height - 2), f"{low_y:8.2f} "]
    lines = [f"{label}|{''.join(row).rstrip()}" for label, row in zip(labels, canvas.tolist(), strict=True)]
    return "\n".join([*lines, " " * 10 + f"{low_x:<{width - 8}.2f}{high_x:>8.2f}"])


def _range(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 1, low + 1)
