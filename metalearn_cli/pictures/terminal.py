"""A run's first task in characters, for a terminal and a log."""

import numpy as np

from metalearn_cli.pictures.arrays import Array, Arrays

Curves = dict[str, tuple[Array, Array]]


def first_curve(arrays: Arrays) -> str:
    """The first one-dimensional regression: the truth, and the network before and after adapting."""
    line, last = arrays["line_x"][0], int(arrays["steps"][-1])
    points = {
        mark: (arrays[f"{name}_x"][0], arrays[f"{name}_y"][0]) for mark, name in ((".", "query"), ("o", "support"))
    }
    curves = {
        ".": points["."],
        "-": (line, arrays["line_y"][0, 0]),
        "+": (line, arrays["line_y"][-1, 0]),
        "o": points["o"],
    }
    after = f"after {last} step{'s' * (last > 1)}"
    return f"the first test task: . truth, o support, - before adapting, + {after}\n{plot(curves)}"


def plot(curves: Curves, width: int = 70, height: int = 17) -> str:
    """Curves and points by their mark, x and y [n] each; later ones are drawn over earlier ones. Lines of text,
    ten columns wider than `width`."""
    marked = []
    for mark, (x, y) in curves.items():
        seen = np.isfinite(x) & np.isfinite(y) & (np.abs(y) < 1e30)  # the rest has no place on any axis
        marked.append((mark, x[seen].astype(np.float64), y[seen].astype(np.float64)))
    low_x, high_x = _range(np.concatenate([x for _, x, _ in marked]))
    low_y, high_y = _range(np.concatenate([y for _, _, y in marked]))
    canvas = [[" "] * width for _ in range(height)]
    for mark, xs, ys in marked:
        columns = np.rint((xs - low_x) / (high_x - low_x) * (width - 1)).astype(int)
        rows = np.rint((high_y - ys) / (high_y - low_y) * (height - 1)).astype(int)
        for column, row in zip(columns, rows, strict=True):
            canvas[row][column] = mark
    labels = [f"{high_y:8.2f} "] + [" " * 9] * (height - 2) + [f"{low_y:8.2f} "]
    lines = [f"{label}|{''.join(row).rstrip()}" for label, row in zip(labels, canvas, strict=True)]
    return "\n".join([*lines, " " * 10 + f"{low_x:<{width - 8}.2f}{high_x:>8.2f}"])


def _range(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 1, low + 1)
