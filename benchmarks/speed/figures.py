"""The sweeps as one picture: steps per second against tasks, inner steps, classes and width."""

import sys
from pathlib import Path

from benchmarks.speed.plan import SWEEPS
from benchmarks.speed.record import Record, entries

# Okabe and Ito's colours, which colour-blind readers can tell apart; dashes tell them apart without colour.
STYLES = {
    "ours": ("#0072B2", "-", "o"),
    "ours/8": ("#56B4E9", "-", "o"),
    "ours/compile": ("#000000", "-", "o"),
    "learn2learn": ("#E69F00", "--", "s"),
    "torchopt": ("#D55E00", ":", "^"),
    "parallel-metalearn": ("#009E73", "-.", "v"),
    "jax": ("#CC79A7", "--", "D"),
}


def draw(found: Record, path: Path) -> bool:
    """Whether it could be drawn: it wants the extra `report`."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("benchmarks.speed: no plot, since matplotlib is not installed (the extra report)", file=sys.stderr)
        return False
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 3, figsize=(14, 8), layout="constrained")
    for axes, (name, of) in zip(grid.flat, SWEEPS.items(), strict=True):
        points = found["sweeps"].get(name, {})
        for variant in of.variants:
            curve = [
                (x, 1 / entry.step)
                for x in of.points
                for entry in entries(points.get(str(x), {"entries": []}))
                if entry.variant == variant and entry.step
            ]
            if curve:
                colour, dashes, marker = STYLES[variant]
                xs, speeds = zip(*curve, strict=True)
                axes.plot(xs, speeds, color=colour, linestyle=dashes, marker=marker, markersize=5, label=variant)
        axes.set(xscale="log", yscale="log", xlabel=of.axis, ylabel="outer steps per second", title=of.title)
        axes.set_xticks(list(of.points), labels=[str(x) for x in of.points])
        axes.xaxis.minorticks_off()
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return True
