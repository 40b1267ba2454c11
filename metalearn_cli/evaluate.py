"""Scoring a learner on a fixed list of episodes.

Episode e of a split is row e % 64 of block e // 64, and a block is drawn from (episodes_seed, split, block) alone: the
first 600 of 1,000 episodes are the 600, whatever the algorithm, the training seed or the chunks. Where a split has a
number of tasks, episode e is its task e.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, task_metric
from metalearn_cli.learner import Learner, Scores
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Draw, Split, Support, TaskDistribution, draw_sha256, draw_slice, episode_hashes

BLOCK = 64  # episodes drawn from one generator


class Evaluation(NamedTuple):
    scores: dict[BatchNorm, Scores]  # [E, K + 1] each, on the CPU
    episodes_sha256: str
    hashes: Tensor  # [E] int64, that of each episode


def draw_block(task: TaskDistribution, split: Split, episodes_seed: int, block: int) -> Draw:
    """Episodes 64 * block to 64 * block + 63, or as many of them as there are tasks."""
    rng = generator(episodes_seed, split, block)
    if (number := task.number(split)) is None:
        return task.draw(BLOCK, split, rng)
    return task.draw_numbers(torch.arange(BLOCK * block, min(BLOCK * (block + 1), number)), split, rng)


def draw_episodes(task: TaskDistribution, split: Split, episodes: int, episodes_seed: int) -> Iterator[Draw]:
    """The first `episodes` episodes of `split`, block by block."""
    if (number := task.number(split)) is not None and episodes > number:
        raise ValueError(f"{episodes} episodes asked of {number} {split} tasks, each of which is scored once")
    for done in range(0, episodes, BLOCK):
        yield draw_slice(draw_block(task, split, episodes_seed, done // BLOCK), 0, episodes - done)


def evaluate(
    learner: Learner,
    task: TaskDistribution,
    split: Split,
    episodes: int,
    episodes_seed: int,
    modes: list[BatchNorm],
    report: Callable[[int], None],
) -> Evaluation:
    """Score the first `episodes` episodes of `split`, each rank its share of every block; `report` is told the number
    done, after each block."""
    draws: list[Draw] = []
    own: list[dict[BatchNorm, Scores]] = []  # of each block; the last one may have none for this rank
    for draw in draw_episodes(task, split, episodes, episodes_seed):
        draws.append(draw)
        share = draw_slice(draw, *learner.ranks.share(len(draw["key"])))
        own.append(_score(learner, task, share, modes) if len(share["key"]) else {})
        report(min(BLOCK * len(draws), episodes))
    own = [{mode: Scores(*(part.cpu() for part in scores)) for mode, scores in block.items()} for block in own]
    parts = [part for block in zip(*learner.ranks.gather(own), strict=True) for part in block if part]
    scores = {mode: _joined([part[mode] for part in parts]) for mode in modes}
    hashes = episode_hashes(draws, task.fingerprint)
    return Evaluation(scores, draw_sha256(draws, task.fingerprint), hashes)


def _score(learner: Learner, task: TaskDistribution, draw: Draw, modes: list[BatchNorm]) -> dict[BatchNorm, Scores]:
    """As many episodes as go through at once are gathered at once."""
    number = len(draw["key"])
    size = learner.tasks_per_chunk or number
    parts = [
        learner.evaluate(task.gather(draw_slice(draw, first, first + size), learner.device), modes)
        for first in range(0, number, size)
    ]
    return {mode: _joined([part[mode] for part in parts]) for mode in modes}


def _joined(parts: list[Scores]) -> Scores:
    return Scores(torch.cat([part.loss for part in parts]), torch.cat([part.metric for part in parts]))


def baselines(
    task: TaskDistribution, split: Split, episodes: int, episodes_seed: int, device: torch.device
) -> dict[str, Tensor]:
    """The squared errors, on the same episodes, of two that learn nothing, [E] float64 each on the CPU: "constant", the
    mean of each task's support targets, and "oracle", the task itself, where it is known. None for classes."""
    errors: dict[str, list[Tensor]] = {}
    if task.spec.kind == "classes":
        return {}
    for draw in draw_episodes(task, split, episodes, episodes_seed):
        batch = task.gather(draw, device).to(torch.float64)
        predicted = {"constant": mean_target(batch.support)}
        if (truth := task.oracle(draw, device)) is not None:
            predicted["oracle"] = truth.double()
        for name, out in predicted.items():
            error = task_metric(task.spec, out, batch.query_y, batch.query_mask)
            errors.setdefault(name, []).append(error.cpu())
    return {name: torch.cat(parts) for name, parts in errors.items()}


def mean_target(support: Support) -> Tensor:
    """The mean of each task's values, [T, 1, outputs]."""
    if support.mask is None:
        return support.y.mean(1, keepdim=True)
    real = support.mask.unsqueeze(-1)
    return support.y.where(real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True)
