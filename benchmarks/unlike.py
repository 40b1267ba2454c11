"""How well a query of a class that is not in the support is told from the others, by which score.

    METALEARN_DATA=... python benchmarks/unlike.py outputs/RUN [5w1s 5w5s ...]

Of each test task with twice as many classes as asked for, the first half is the support's; the queries of the other
half are strangers. A row for each size and score: accuracy on the queries that are no strangers, and the AUROC of
strangers against them. Then, for the score that is used, the threshold of `metalearn predict` by validation tasks of
the same size: how many classes they have, the share of their queries above it, what is promised of new classes, and the
share of either kind of the test's queries that is flagged, with a 95% interval (a bootstrap over classes).
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.config.schema import ConfigSource
from metalearn_cli.config.task_for_net import build_task
from metalearn_cli.learning.draws import EpisodeRange, draw_episodes
from metalearn_cli.system.device import Precision
from metalearn_cli.tasks.base import Split, TaskDistribution, draw_slice
from metalearn_cli.trained.loading import build_model, read_stored
from metalearn_cli.trained.model import Model
from metalearn_cli.trained.novelty import calibrated, unlikeness

EPISODES, QUERIES = 100, 5  # tasks of each split, and queries of each class
RESAMPLES = 2000  # of the bootstrap
SCORES = {
    "largest output": lambda out: -out.amax(-1),
    "largest probability": lambda out: -out.softmax(-1).amax(-1),
    "energy": lambda out: -out.logsumexp(-1),
    "largest minus mean output": lambda out: out.mean(-1) - out.amax(-1),
}


class Outputs(NamedTuple):
    own: Tensor  # [N, way] of queries of the support's classes
    classes: list[str]  # of each
    right: Tensor  # [N], which of them are right
    strange: Tensor  # [M, way] of strangers


def outputs(model: Model, task: TaskDistribution, split: Split, way: int) -> Outputs:
    own, classes, right, strange = [], [], [], []
    for draw in draw_episodes(task, EpisodeRange(split, EPISODES, 0)):
        for number in range(len(draw["key"])):
            one = draw_slice(draw, number, number + 1)
            batch, names = task.gather(one, model.device), task.label_names(one)
            in_support, in_query = batch.support_y[0] < way, batch.query_y[0] < way
            predictor = model.adapt(batch.support_x[0][in_support], batch.support_y[0][in_support])
            out = predictor.outputs(batch.query_x[0])
            own.append(out[in_query])
            classes += [names[label] for label in batch.query_y[0][in_query].tolist()]
            right.append(own[-1].argmax(-1) == batch.query_y[0][in_query])
            strange.append(out[~in_query])
    return Outputs(torch.cat(own), classes, torch.cat(right), torch.cat(strange))


def auroc(high: Tensor, low: Tensor) -> float:
    """The probability that one of `high` is above one of `low`."""
    rank = torch.cat([low, high]).argsort().argsort().double() + 1
    return float((rank[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(high) * len(low)))


def share(flagged: Tensor, classes: list[str]) -> str:
    """Of the flagged [N], with its interval over the classes of each."""
    names = sorted(set(classes))
    members = torch.tensor([names.index(name) for name in classes])
    above, count = members.bincount(flagged.double(), len(names)), members.bincount(minlength=len(names))
    again = torch.randint(len(names), (RESAMPLES, len(names)), generator=torch.Generator().manual_seed(0))
    ends = (above[again].sum(1) / count[again].sum(1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    low, high = (100 * ends).tolist()
    return f"{100 * float(flagged.double().mean()):.1f}% ({low:.1f} to {high:.1f}) of {len(names)}"


def main(run: str, sizes: list[str]) -> None:
    torch.set_num_threads(1)
    folder = read_stored(Path(run), trust=False)
    model = build_model(folder, BatchNorm.inductive, "cpu", Precision.fp32, None, trust=False)
    print("| size | score | accuracy | AUROC |\n|---|---|---|---|")
    rows = []
    for size in sizes:
        way, shot = map(int, re.findall(r"\d+", size))
        keys = {"way": 2 * way, "shot": shot, "query": QUERIES, "train_way": None}
        task = build_task({**folder.config["task"], **keys}, ConfigSource())
        known, found = (outputs(model, task, split, way) for split in ("val", "test"))
        accuracy = f"{100 * float(found.right.float().mean()):.1f}"
        for name, score in SCORES.items():
            print(f"| {size} | {name} | {accuracy} | {auroc(score(found.strange), score(found.own)):.3f} |", flush=True)
        limit, above, promised = calibrated(unlikeness(known.own), known.classes)
        own, strange = unlikeness(found.own) > limit, unlikeness(found.strange) > limit
        about = f"{len(set(known.classes))} | {100 * above:.1f}% | {100 * promised:.1f}%"
        strangers = f"{100 * float(strange.float().mean()):.1f}%"
        rows.append(f"| {size} | {about} | {share(own, found.classes)} | {strangers} |")
    print("\n| size | validation classes | above | promised | flagged, of test classes | strangers flagged |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or ["5w1s", "5w5s"])
