"""How well a query of a class that is not in the support is told from the others, by which score.

    METALEARN_DATA=... python benchmarks/unlike.py outputs/RUN [5w1s 5w5s ...]

Of each test task with twice as many classes as asked for, the first half is the support's; the queries of the other
half are strangers. Thresholds are quantiles of validation tasks of the same size, those of `metalearn predict`. A row
for each size and score: accuracy on the queries that are no strangers, the AUROC of strangers against them, and the
share of either that is flagged. Then, for the score that is used, the same shares with other quantiles.
"""

import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from metalearn_cli import stored
from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config import Precision
from metalearn_cli.evaluate import draw_episodes
from metalearn_cli.model import Model
from metalearn_cli.tasks.base import Split, TaskDistribution, draw_slice
from metalearn_cli.unlike import quantile, unlikeness

EPISODES, QUERIES = 100, 5  # tasks of each split, and queries of each class
SHARES = (0.05, 0.04, 0.03, 0.02, 0.01)  # of the validation queries that are above the threshold
SCORES = {
    "largest output": lambda out: -out.amax(-1),
    "largest probability": lambda out: -out.softmax(-1).amax(-1),
    "energy": lambda out: -out.logsumexp(-1),
    "largest minus mean output": lambda out: out.mean(-1) - out.amax(-1),
}


def outputs(model: Model, task: TaskDistribution, split: Split, way: int) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs of queries of the support's classes [N, way], which of them are right [N], and of strangers [M, way]."""
    own, right, strange = [], [], []
    for draw in draw_episodes(task, split, EPISODES, 0):
        for number in range(len(draw["key"])):
            batch = task.gather(draw_slice(draw, number, number + 1), model.device)
            in_support, in_query = batch.support_y[0] < way, batch.query_y[0] < way
            predictor = model.adapt(batch.support_x[0][in_support], batch.support_y[0][in_support])
            out = predictor.outputs(batch.query_x[0])
            own.append(out[in_query])
            right.append(own[-1].argmax(-1) == batch.query_y[0][in_query])
            strange.append(out[~in_query])
    return torch.cat(own), torch.cat(right), torch.cat(strange)


def auroc(high: Tensor, low: Tensor) -> float:
    """The probability that one of `high` is above one of `low`."""
    rank = torch.cat([low, high]).argsort().argsort().double() + 1
    return float((rank[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def flagged(limit: float, own: Tensor, strange: Tensor) -> list[str]:
    """The share of either whose score is above the threshold."""
    return [f"{100 * float((score > limit).float().mean()):.1f}%" for score in (own, strange)]


def main(run: str, sizes: list[str]) -> None:
    torch.set_num_threads(1)
    folder = stored.read(Path(run), trust=False)
    model = stored.make(folder, BatchNorm.inductive, "cpu", Precision.fp32, None, trust=False)
    print("| size | score | accuracy | AUROC | flagged | strangers flagged |\n|---|---|---|---|---|---|")
    by_quantile = []
    for size in sizes:
        way, shot = map(int, re.findall(r"\d+", size))
        keys = {"way": 2 * way, "shot": shot, "query": QUERIES, "train_way": None}
        task = stored.task_of(folder.config, False, **keys)
        calibration, _, _ = outputs(model, task, "val", way)
        own, right, strange = outputs(model, task, "test", way)
        for name, score in SCORES.items():
            known, found, others = score(calibration), score(own), score(strange)
            shares = flagged(quantile(known), found, others)
            accuracy = f"{100 * float(right.float().mean()):.1f}"
            print(f"| {size} | {name} | {accuracy} | {auroc(others, found):.3f} | {' | '.join(shares)} |", flush=True)
        known, found, others = (unlikeness(out) for out in (calibration, own, strange))
        cells = [" / ".join(flagged(quantile(known, share), found, others)) for share in SHARES]
        by_quantile.append(f"| {size} | {' | '.join(cells)} |")
    print(f"\n| flagged / strangers flagged | {' | '.join(f'{1 - share:.0%}' for share in SHARES)} |")
    print("|---|" + "---|" * len(SHARES))
    print("\n".join(by_quantile))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["5w1s", "5w5s"])
