"""Scoring a learner on a fixed list of episodes.

Episode e of a split is row e % 64 of block e // 64, and a block is drawn from (episodes_seed, split, block) alone: the
first 600 of 1,000 episodes are the 600, whatever the algorithm, the training seed or the chunks. Where a split has a
number of tasks, episode e is its task e.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, task_metric
from metalearn_cli.learning.draws import BLOCK, EpisodeRange, draw_episodes
from metalearn_cli.learning.learner import Learner, Scores
from metalearn_cli.tasks.base import Draw, Support, TaskDistribution, draw_sha256, draw_slice, episode_hashes

SMALL = 8  # episodes, from which on a part of a block is worth being kept
EpisodeScores = dict[BatchNorm, Scores]  # [E, K + 1] in the first mode, [E, 1] in the others, on the CPU


class Evaluation(NamedTuple):
    scores: dict[BatchNorm, Scores]  # [E, K + 1] each, on the CPU
    episodes_sha256: str
    hashes: Tensor  # [E] int64, that of each episode


def evaluate(
    learner: Learner,
    task: TaskDistribution,
    episodes: EpisodeRange,
    modes: list[BatchNorm],
    report: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Score these episodes; `report` is told the number done, after each few of them."""
    draws: list[Draw] = []
    scored: list[EpisodeScores] = []
    for draw in draw_episodes(task, episodes):
        scored.append(score_episodes(learner, task, draw, modes, BLOCK * len(draws), report))
        draws.append(draw)
    return evaluation(task, draws, scored)


def evaluation(task: TaskDistribution, draws: list[Draw], scored: list[EpisodeScores]) -> Evaluation:
    """Join the scores of the episodes of these draws, which are in the same order."""
    scores = {mode: _joined([part[mode] for part in scored]) for mode in scored[0]}
    return Evaluation(scores, draw_sha256(draws, task.fingerprint), episode_hashes(draws, task.fingerprint))


def part_size(learner: Learner) -> int:
    """Into how large parts a block may be cut without a change of what goes through at once, which are other bits."""
    if learner.ranks.size > 1 or not learner.tasks_per_chunk:
        return BLOCK
    return learner.tasks_per_chunk * -(-SMALL // learner.tasks_per_chunk)


def score_episodes(
    learner: Learner,
    task: TaskDistribution,
    draw: Draw,
    modes: list[BatchNorm],
    before: int,
    report: Callable[[int], None],
) -> EpisodeScores:
    """The scores of these episodes, of which each rank makes its share, in every rank.

    `report` is told the number done, by the measure of this rank, with the `before` that were done earlier.
    """
    ranks, number = learner.ranks, len(draw["key"])
    first, last = ranks.share(number)
    mine = _score(
        *(learner, task, draw_slice(draw, first, last), modes),
        lambda done: report(before + min(done * ranks.size, number)),
    )
    shares = [share for share in ranks.gather(mine) if share]  # of few episodes a rank may have none
    return {mode: _joined([share[mode] for share in shares]) for mode in modes}


def _score(
    learner: Learner, task: TaskDistribution, draw: Draw, modes: list[BatchNorm], report: Callable[[int], None]
) -> EpisodeScores:
    """Score the episodes of a draw; as many as may go through at once are gathered at once."""
    number = len(draw["key"])
    size = learner.tasks_per_chunk or number
    parts: list[EpisodeScores] = []
    for first in range(0, number, max(size, 1)):
        batch = task.gather(draw_slice(draw, first, first + size), learner.device)
        done = first
        for chunk in batch.chunks(learner.scored_at_once(batch)):
            parts.append(learner.evaluate(chunk, modes))
            done += len(chunk.key)
            report(done)
    joined = {mode: _joined([part[mode] for part in parts]) for mode in modes} if parts else {}
    return {mode: Scores(*(part.cpu() for part in scores)) for mode, scores in joined.items()}


def _joined(parts: list[Scores]) -> Scores:
    return Scores(torch.cat([part.loss for part in parts]), torch.cat([part.metric for part in parts]))


def baselines(task: TaskDistribution, episodes: EpisodeRange, device: torch.device) -> dict[str, Tensor]:
    """The squared errors, on the same episodes, of two that learn nothing, [E] float64 each on the CPU: "constant", the
    mean of each task's support targets, and "oracle", the task itself, where it is known. None for classes."""
    errors: dict[str, list[Tensor]] = {}
    if task.spec.kind == "classes":
        return {}
    for draw in draw_episodes(task, episodes):
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
