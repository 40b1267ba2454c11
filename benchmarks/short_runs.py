"""Learning curves as figures: python benchmarks/short_runs.py (needs the extra `report`).

Each benchmarks/short_runs/NAME.jsonl is the metrics.jsonl of the run that short_runs.md lists under that name, and each
benchmarks/papers/curves/NAME.jsonl has the validations of a run of benchmarks/papers.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

from metalearn_cli.run_folder.series import read_lines

HERE = Path(__file__).parent
# Okabe and Ito's colours, which colour-blind readers can tell apart; the line style tells them apart without colour.
STYLES = [("#0072B2", "-"), ("#E69F00", "--"), ("#009E73", "-."), ("#D55E00", ":"), ("#56B4E9", "-"), ("#000000", "--")]
NO_COMPARISON = "protocols differ: no comparison of algorithms"


def short_runs() -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for path, (colour, style) in zip(sorted((HERE / "short_runs").glob("*.jsonl")), STYLES, strict=False):
        lines = list(read_lines(path))
        loss = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
        accuracy = [(line["step"], 100 * line["val/accuracy"]) for line in lines if "val/accuracy" in line]
        last = max(line["step"] for line in lines)
        steps = [step / last for step, _ in loss]
        mean = [sum(v for _, v in loss[max(0, i - 4) : i + 1]) / (i + 1 - max(0, i - 4)) for i in range(len(loss))]
        left.plot(steps, mean, color=colour, linestyle=style, label=f"{path.stem} ({last:,} steps)")
        shares, values = [step / last for step, _ in accuracy], [value for _, value in accuracy]
        right.plot(shares, values, color=colour, linestyle=style, marker="o", markersize=4, label=path.stem)
    left.set(yscale="log", xlabel="share of the run", ylabel="query loss of a training task", ylim=(None, 2))
    left.set_title("training: mean of the last five lines of the log", fontsize=10)
    right.axhline(20, color="#6E6E6E", linewidth=1)
    right.text(0.5, 21.5, "chance", color="#6E6E6E")
    right.set(xlabel="share of the run", ylabel="accuracy in %", ylim=(15, 100))
    right.set_title("validation, where the split has validation characters", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"Omniglot, 5-way 1-shot, short runs ({NO_COMPARISON})", fontsize=11)
    figure.savefig(HERE / "short_runs" / "curves.png", dpi=110)


def papers() -> None:
    """Validation accuracy over meta-iterations: a panel for each data set, a curve for each seed."""
    figure, panels = plt.subplots(1, 2, figsize=(12, 7.5), layout="constrained")
    for panel, (task, title) in zip(panels, {"omniglot": "Omniglot", "cifar_fs": "CIFAR-FS"}.items(), strict=True):
        paths = [path for path in sorted((HERE / "papers" / "curves").glob("*.jsonl")) if task in path.stem]
        rows = list(dict.fromkeys(path.stem.partition("-seed=")[0] for path in paths))
        for path in paths:
            row, _, seed = path.stem.partition("-seed=")
            colour, style = STYLES[(number := rows.index(row)) % len(STYLES)]
            marker = "os^"[number // len(STYLES)]
            steps, accuracy = zip(
                *((line["step"], 100 * line["val/accuracy"]) for line in read_lines(path)), strict=True
            )
            name = f"{row} ({steps[-1]:,} steps)" if seed == "0" else None
            panel.plot(steps, accuracy, color=colour, linestyle=style, marker=marker, markersize=4, label=name)
        panel.set(xlabel="meta-iterations", ylabel="validation accuracy in %, 5-way 1-shot", xscale="log", title=title)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.suptitle(NO_COMPARISON.capitalize(), fontsize=11)
    figure.savefig(HERE / "papers" / "curves.png", dpi=110)


if __name__ == "__main__":
    short_runs()
    papers()
