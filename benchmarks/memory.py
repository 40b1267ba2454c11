"""Peak memory of one outer step over the number of inner steps, beside other programs.

    SPEED_VENV/bin/python -m benchmarks.memory      # benchmarks/speed/install.sh SPEED_VENV makes it, with the peers

MAML and Reptile on one task, a sinusoid, with an MLP of 66,561 weights. Each point has a process of its own; the second
of two steps is measured, by the peak of the resident set, less what the process holds between the two (what it has
imported, weights and the optimizer's slots). All have the C library's own allocator. Figures stand in memory.json after
each point: the same command goes on, and draws at the end.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.speed import record
from benchmarks.speed.remote import Host, Remote
from benchmarks.speed.workloads import Workload

HERE = Path(__file__).parent
STEPS = (1, 3, 10, 30, 100, 300, 1000)
THREADS, PATIENCE = 1, 600.0
SECOND = Workload("memory", "sinusoid, MLP 1-256-256-1, 10-shot, one task", 1, 1, 10, 10, 1, 0.001, width=256)
FIRST = replace(SECOND, first_order=True)
REPTILE = replace(SECOND, algorithm="reptile")  # minibatches of 10 points: all of them


class Curve(NamedTuple):
    label: str
    variant: str
    workload: Workload
    colour: str  # Okabe and Ito's; dashes tell the programs apart without it
    dashes: str
    marker: str


CURVES = [
    Curve("second order", "ours", SECOND, "#0072B2", "-", "o"),
    Curve("second order, algo.remat=true", "ours/remat", SECOND, "#000000", "-", "s"),
    Curve("first order", "ours", FIRST, "#009E73", "-", "^"),
    Curve("Reptile", "ours", REPTILE, "#CC79A7", "-", "D"),
    Curve("learn2learn, second order", "learn2learn", SECOND, "#0072B2", "--", "o"),
    Curve("higher, second order", "higher", SECOND, "#D55E00", ":", "o"),
    Curve("TorchOpt, second order", "torchopt", SECOND, "#E69F00", "-.", "o"),
    Curve("learn2learn, first order", "learn2learn", FIRST, "#009E73", "--", "^"),
    Curve("higher, first order", "higher", FIRST, "#D55E00", ":", "^"),
    Curve("loop over nn.Module, Reptile", "nn.Module", REPTILE, "#CC79A7", "--", "D"),
]


def measure(curve: Curve, steps: int, log: Path) -> dict[str, Any]:
    """{"peak": bytes, "seconds": ...} of an outer step, or {"why": ...}."""
    with log.open("a") as file:
        remote = Remote(curve.variant, "default", Host("cpu", THREADS, PATIENCE, file))
        try:
            built = remote.started
            if "why" not in built:
                built = remote.build(replace(curve.workload, steps=steps))
            answer = built if "why" in built else remote.slice(1)
        finally:
            remote.close()
    if "why" in answer:
        return {"why": answer["why"]}
    return {"peak": answer["peak"] - built["held"], "seconds": answer["seconds"], "held": built["held"]}


def table(found: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(map(str, STEPS)) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for curve in CURVES:
        cells = []
        for steps in STEPS:
            point = found["curves"][curve.label][str(steps)]
            cells.append(f"{point['peak'] / 1e6:.1f}" if "peak" in point else "-")
        lines.append(f"| {curve.label} | " + " | ".join(cells) + " |")
    whys = {
        f"{curve.label}, {steps} steps: {point['why']}"
        for curve in CURVES
        for steps in STEPS
        if "why" in (point := found["curves"][curve.label][str(steps)])
    }
    return "\n".join(lines) + "".join(f"\n\n{why}" for why in sorted(whys))


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for curve in CURVES:
        points = [(steps, found["curves"][curve.label][str(steps)].get("peak")) for steps in STEPS]
        xs, peaks = zip(*[(steps, peak / 1e6) for steps, peak in points if peak], strict=True)
        style = {"color": curve.colour, "linestyle": curve.dashes, "marker": curve.marker}
        axes.plot(xs, peaks, label=curve.label, markersize=5, **style)
    axes.set(xscale="log", yscale="log", xlabel="inner steps", ylabel="MB at the peak of an outer step")
    axes.set_title(SECOND.title)
    axes.set_xticks(STEPS, labels=list(map(str, STEPS)))
    axes.xaxis.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)


def main() -> None:
    file = HERE / "memory.json"
    conditions = {"threads": THREADS, "cpu": record.cpu(), "versions": record.versions()}
    found: dict[str, Any] = {"conditions": conditions, "date": time.strftime("%Y-%m-%d"), "curves": {}}
    if file.exists():
        found = json.loads(file.read_text())
        if found["conditions"] != conditions:
            sys.exit(f"{file} was measured with {found['conditions']}: delete it to measure anew")
    for curve in CURVES:
        points = found["curves"].setdefault(curve.label, {})
        for steps in STEPS:
            if str(steps) not in points:
                points[str(steps)] = measure(curve, steps, Path(tempfile.gettempdir()) / "memory-benchmark.log")
                print(curve.label, steps, points[str(steps)], flush=True)
                file.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, HERE / "memory.png")
    print(table(found))


if __name__ == "__main__":
    main()
