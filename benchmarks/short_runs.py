"""The learning curves of the short runs as a figure: python benchmarks/short_runs.py (needs the extra `report`).

Each benchmarks/short_runs/NAME.jsonl is the metrics.jsonl of the run that short_runs.md lists under that name.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

from metalearn_cli.run_folder.series import read_lines

FOLDER = Path(__file__).parent / "short_runs"
# Okabe and Ito's colours, which colour-blind readers can tell apart; the line style tells them apart without colour.
STYLES = [("#0072B2", "-"), ("#E69F00", "--"), ("#009E73", "-."), ("#D55E00", ":"), ("#56B4E9", "-"), ("#000000", "--")]


def main() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for path, (colour, style) in zip(sorted(FOLDER.glob("*.jsonl")), STYLES, strict=False):
        lines = read_lines(path)
        loss = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
        accuracy = [(line["step"], 100 * line["val/accuracy"]) for line in lines if "val/accuracy" in line]
        last = max(line["step"] for line in lines)
        steps = [step / last for step, _ in loss]
        mean = [sum(v for _, v in loss[max(0, i - 4) : i + 1]) / (i + 1 - max(0, i - 4)) for i in range(len(loss))]
        left.plot(steps, mean, color=colour, linestyle=style, label=f"{path.stem} ({last:,} steps)")
        if accuracy:
            right.plot(
                [step / last for step, _ in accuracy],
                [value for _, value in accuracy],
                color=colour,
                linestyle=style,
                marker="o",
                markersize=4,
                label=path.stem,
            )
    left.set(yscale="log", xlabel="share of the run", ylabel="query loss of a training task", ylim=(None, 2))
    left.set_title("training: mean of the last five lines of the log", fontsize=10)
    right.axhline(20, color="#6E6E6E", linewidth=1)
    right.text(0.5, 21.5, "chance", color="#6E6E6E")
    right.set(xlabel="share of the run", ylabel="accuracy in %", ylim=(15, 100))
    right.set_title("validation, where the split has validation characters", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle("Omniglot, 5-way 1-shot, short runs (protocols differ: no comparison of algorithms)", fontsize=11)
    figure.savefig(FOLDER / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
