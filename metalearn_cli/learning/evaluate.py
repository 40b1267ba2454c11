"""Scoring a learner on a fixed list of episodes.

Episode e of a split is row e % 64 of block e // 64, and a block is drawn from (episodes_seed, split, block) alone: the
first 600 of 1,000 episodes are the 600, whatever the algorithm, the training seed or the chunks. Where a split has a
finite number of tasks, episode e is its task e.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.learning.draws import BLOCK, EpisodeRange, draw_episodes
from metalearn_cli.learning.learner import Learner, Scores
from metalearn_cli.system.tensor_tree import take_tensors
from metalearn_cli.tasks.base import Draw, TaskDistribution, draw_sha256, draw_slice, episode_hashes

SMALLEST_PART = 8  # episodes: a test's parts are this large or larger
Report = Callable[[int], None]  # called with the number of episodes done so far, estimated from this rank's share
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
    report: Report = lambda done: None,
) -> Evaluation:
    """Score these episodes."""
    draws: list[Draw] = []
    scored: list[EpisodeScores] = []
    for draw in draw_episodes(task, episodes):
        scored.append(score_episodes(learner, task, draw, modes, BLOCK * len(draws), report))
        draws.append(draw)
    return join_scores(task, draws, scored)


def join_scores(task: TaskDistribution, draws: list[Draw], scored: list[EpisodeScores]) -> Evaluation:
    """Join the scores of the episodes of these draws, which are in the same order."""
    return Evaluation(_joined(scored), draw_sha256(draws, task.fingerprint), episode_hashes(draws, task.fingerprint))


def part_size(learner: Learner) -> int:
    """The size of the parts in which a test may score a block and keep what is done. It is a whole number of chunks:
    other tasks beside one another would change bits."""
    if learner.ranks.size > 1 or not learner.tasks_per_chunk:
        return BLOCK
    return learner.tasks_per_chunk * math.ceil(SMALLEST_PART / learner.tasks_per_chunk)


def score_episodes(
    learner: Learner, task: TaskDistribution, draw: Draw, modes: list[BatchNorm], before: int, report: Report
) -> EpisodeScores:
    """The scores of these episodes, in every rank; each computes its share of them. `before` were done earlier."""
    ranks, number = learner.ranks, len(draw["key"])
    first, last = ranks.share(number)
    share = draw_slice(draw, first, last)
    mine = _score(learner, task, share, modes, lambda done: report(before + min(done * ranks.size, number)))
    return _joined([scores for scores in ranks.gather(mine) if scores])  # of few episodes a rank may have none


def _score(
    learner: Learner, task: TaskDistribution, draw: Draw, modes: list[BatchNorm], report: Report
) -> EpisodeScores:
    """Score the episodes of a draw. A chunk of them is gathered at once, and scored in as many pieces as it needs."""
    number = len(draw["key"])
    size = learner.tasks_per_chunk or max(number, 1)  # there may be no episodes
    parts: list[EpisodeScores] = []
    for first in range(0, number, size):
        batch = task.gather(draw_slice(draw, first, first + size), learner.device)
        done = first
        for piece in batch.chunks(learner.scored_at_once(batch)):
            parts.append(learner.evaluate(piece, modes))
            done += len(piece.key)
            report(done)
    tensors, put = take_tensors(_joined(parts))
    on_cpu: EpisodeScores = put(tensor.cpu() for tensor in tensors)
    return on_cpu


def _joined(parts: list[EpisodeScores]) -> EpisodeScores:
    """Each tensor by its name: what a stopped test has kept comes in another order."""

    def of_mode(scores: list[Scores]) -> Scores:
        beside = {name: torch.cat([part.beside[name] for part in scores]) for name in scores[0].beside}
        return Scores(torch.cat([part.loss for part in scores]), torch.cat([part.metric for part in scores]), beside)

    return {mode: of_mode([part[mode] for part in parts]) for mode in parts[0]} if parts else {}
