"""The learned optimizer against SGD, RMSprop, Adam and Nesterov momentum with tuned rates: a table and a figure.

    pip install -e '.[report]' && python benchmarks/learned_optimizer.py

meta-trains the presets of conf/experiment/learned_optimizer (in outputs/learned_optimizer/; a finished run is taken as
it stands, an interrupted one goes on), tunes each baseline's rate on training tasks of the very problem, and lets all
of them optimise the same test tasks from the same starts on the same minibatches. The table goes to stdout, the curves
to benchmarks/learned_optimizer.png. What is measured is f, the loss on the whole support set, which for the quadratics
is the query set. The transfer tests take the learned optimizer as it was trained, and tune the baselines anew.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer, UpdateRule
from metalearn_cli.config.assemble import new_learner
from metalearn_cli.config.job import Job, load_job
from metalearn_cli.learning.draws import EpisodeRange
from metalearn_cli.learning.evaluate import evaluate
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution
from metalearn_cli.pictures.raster import BLUE, GREEN, GREY, LIGHT, ORANGE, RED
from metalearn_cli.run_folder import checkpoint
from metalearn_cli.run_folder.runs import OUTPUTS
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution
from metalearn_cli.training.run import train_run

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CPU = torch.device("cpu")
RATES = tuple(10 ** (k / 6) for k in range(-24, 13))  # six a decade, from 1e-4 to 100
COLOURS = {"learned": BLUE, "sgd": "black", "rmsprop": GREEN, "adam": RED}
COLOURS["nesterov"] = ORANGE
NAMES = {"learned": "learned", "sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "nesterov": "Nesterov"}
DASHES = {"learned": "-", "sgd": ":", "rmsprop": "-.", "adam": "--", "nesterov": (0, (5, 1, 1, 1, 1, 1))}


class Problem(NamedTuple):
    title: str
    row: str  # the preset that the learned optimizer was trained by
    overrides: list[str]  # what differs from it
    steps: tuple[int, ...]  # after which the table tells f
    tasks: int  # test tasks
    tuning: int  # tasks that the rates are tuned on


QUADRATICS, MLP = (1024, 1024), (16, 8)
PROBLEMS = [
    Problem("quadratics, Gaussian", "quadratics", [], (100, 200), *QUADRATICS),
    Problem("quadratics, Gaussian, 20 dimensions", "quadratics", ["task.dimension=20"], (100,), *QUADRATICS),
    Problem("quadratics, uniform", "quadratics_uniform", [], (100, 200), *QUADRATICS),
    Problem("MLP on 10 Omniglot characters", "omniglot_mlp", [], (100, 200), *MLP),
    Problem("MLP with 40 hidden units", "omniglot_mlp", ["model.hidden=[40]"], (100,), *MLP),
    Problem("MLP with 2 hidden layers", "omniglot_mlp", ["model.hidden=[20,20]"], (100,), *MLP),
    Problem("MLP with ReLU", "omniglot_mlp", ["model.activation=relu"], (100,), *MLP),
]


@dataclasses.dataclass(frozen=True)
class OnSupport(TaskDistribution):
    """The same tasks, scored on the support set: what an optimizer is there to minimise."""

    task: TaskDistribution

    @property
    def spec(self) -> Spec:
        return self.task.spec

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.task.splits

    @property
    def fingerprint(self) -> str:
        return self.task.fingerprint

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        return self.task.draw(tasks, split, rng)

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        batch = self.task.gather(draw, device)
        return batch._replace(query_x=batch.support_x, query_y=batch.support_y)


def score(learner: Learner, job: Job, problem: Problem) -> tuple[Tensor, str]:
    """f on each test task after 0, 1, ... steps, [E, steps + 1], and the hash of the tasks."""
    task = OnSupport(job.task)
    found = evaluate(learner, task, EpisodeRange("test", problem.tasks, 0), [BatchNorm.transductive])
    return found.scores[BatchNorm.transductive].loss.double(), found.episodes_sha256


def trained(row: str) -> dict[str, Tensor]:
    """The learned optimizer's weights: those of the checkpoint that was best in validation."""
    overrides = [f"experiment=learned_optimizer/{row}", f"name=learned_optimizer/{row}", "device=cpu"]
    results = train_run(load_job(overrides), overrides)
    return checkpoint.load_step(OUTPUTS / "learned_optimizer" / row / "checkpoints", results["step"]).tensors


def tuned(job: Job, method: UpdateRule, tuning: int) -> tuple[Learner, float]:
    """A baseline with the best of RATES at the horizon over `tuning` training tasks, and that rate."""
    fields = {name: getattr(job.algo, name) for name in ("start_std", "batch_size", "horizon", "test_steps")}
    algorithm = HandOptimizer(method, RATES, **fields)
    learner = Learner(
        algorithm, job.net, job.optimizer, generator(0), Execution(tasks_per_chunk=job.run.tasks_per_chunk)
    )
    size = min(tuning, 32)
    for step in range(tuning // size):
        learner.step(job.task.gather(job.task.draw(size, "train", generator(job.run.seed, "tune", step)), CPU), step)
    rate = RATES[int(learner.meta.buffers["final_loss"].argmin())]
    assert min(RATES) < rate < max(RATES), f"{method.name}'s best rate {rate:g} lies at the end of the grid"
    return learner, rate


def compare(problem: Problem, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float], str]:
    """f over the steps for every optimizer, the tuned rates, and the hash of the test tasks."""
    overrides = [f"experiment=learned_optimizer/{problem.row}", "device=cpu", *problem.overrides]
    job = load_job([*overrides, f"algo.test_steps={max(problem.steps)}"])
    learner = new_learner(job)
    own = {name: value for name, value in weights.items() if not name.startswith("optimizer.")}
    learner.load_state_dict(own)
    curves, rates = {}, {}
    curves["learned"], sha = score(learner, job, problem)
    for method in UpdateRule:
        baseline, rates[method.name] = tuned(job, method, problem.tuning)
        curves[method.name], same = score(baseline, job, problem)
        assert same == sha
    return curves, rates, sha


def cell(loss: Tensor, rate: float | None) -> str:
    """Mean and 95% interval over the tasks, median, rate."""
    half = 1.96 * loss.std(correction=0) / math.sqrt(len(loss))
    text = f"{loss.mean():.3g} ± {half:.2g} ({loss.median():.2g})"
    return text if rate is None else f"{text}, {rate:.2g}"


def draw(panels: list[tuple[Problem, dict[str, Tensor]]], path: Path) -> None:
    """A panel for each problem: the mean of f over the steps, on a logarithmic axis."""
    columns = min(4, len(panels) + 1)
    rows = math.ceil((len(panels) + 1) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.5 * columns, 2.9 * rows), squeeze=False)
    places: list[Any] = list(grid.flat)
    for axes, (problem, curves) in zip(places, panels, strict=False):
        for name, loss in curves.items():
            axes.plot(
                loss.mean(0), color=COLOURS[name], linestyle=DASHES[name], linewidth=2 if name == "learned" else 1.3
            )
        low = min(loss.mean(0).min() for loss in curves.values())
        axes.set(yscale="log", ylim=(0.7 * low, 3 * curves["learned"][:, 0].mean()), xlim=(0, max(problem.steps)))
        axes.set_title(problem.title, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        if max(problem.steps) > 100:
            axes.axvline(100, color=GREY, linewidth=0.8)
            axes.text(102, axes.get_ylim()[1] * 0.85, "trained so far", fontsize=7, color=GREY, va="top")
        axes.grid(color=LIGHT)
        axes.tick_params(labelsize=8)
    for axes in places[len(panels) :]:
        axes.axis("off")
    labels = {key: f"{name}, rate tuned" for key, name in NAMES.items()} | {"learned": "learned optimizer (LSTM)"}
    lines = [plt.Line2D([], [], color=COLOURS[key], linestyle=DASHES[key], label=labels[key]) for key in NAMES]
    places[len(panels)].legend(handles=lines, loc="center", frameon=False, fontsize=10)
    figure.suptitle("f, the loss on the support set: mean over test tasks", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=["quadratics", "quadratics_uniform", "omniglot_mlp"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    weights = {row: trained(row) for row in chosen.rows}
    print("f: mean ± 95% interval over the test tasks (median), tuned rate\n")
    print(f"| problem | step | tasks | {' | '.join(NAMES.values())} |\n|{'---|' * (3 + len(NAMES))}")
    panels, hashes = [], []
    for problem in PROBLEMS:
        if problem.row not in weights:
            continue
        curves, rates, sha = compare(problem, weights[problem.row])
        panels.append((problem, curves))
        hashes.append(f"{problem.title}: {sha[:16]}")
        for step in problem.steps:
            cells = [cell(curves[name][:, step], rates.get(name)) for name in NAMES]
            print(f"| {problem.title} | {step} | {problem.tasks} | {' | '.join(cells)} |", flush=True)
    print("\nTest tasks (the first 16 digits of their hash): " + "; ".join(hashes))
    draw(panels, chosen.out)


if __name__ == "__main__":
    main()
