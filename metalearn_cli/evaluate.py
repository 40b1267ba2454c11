"""Scoring a learner on a fixed list of episodes.

Episode e of a split is row e % 64 of block e // 64, and a block is drawn from (episodes_seed, split, block) alone: the
first 600 of 1,000 episodes are the 600, whatever the algorithm, the training seed or the chunks.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.learner import Learner, Scores
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Draw, Split, TaskDistribution, draw_sha256, draw_slice

BLOCK = 64  # episodes drawn from one generator


class Evaluation(NamedTuple):
    scores: dict[BatchNorm, Scores]  # [E, K + 1] each, on the CPU
    episodes_sha256: str


def draw_block(task: TaskDistribution, split: Split, episodes_seed: int, block: int) -> Draw:
    """Episodes 64 * block to 64 * block + 63."""
    return task.draw(BLOCK, split, generator(episodes_seed, split, block))


def evaluate(
    learner: Learner,
    task: TaskDistribution,
    split: Split,
    episodes: int,
    episodes_seed: int,
    modes: list[BatchNorm],
    report: Callable[[int], None],
) -> Evaluation:
    """Score the first `episodes` episodes of `split`; `report` is told the number done, after each block."""
    draws: list[Draw] = []
    parts: list[dict[BatchNorm, Scores]] = []
    for done in range(0, episodes, BLOCK):
        draw = draw_slice(draw_block(task, split, episodes_seed, done // BLOCK), 0, episodes - done)
        draws.append(draw)
        parts.append(learner.evaluate(task.gather(draw, learner.device), modes))
        report(min(done + BLOCK, episodes))
    scores = {
        mode: Scores(
            torch.cat([part[mode].loss for part in parts]).cpu(), torch.cat([part[mode].metric for part in parts]).cpu()
        )
        for mode in modes
    }
    return Evaluation(scores, draw_sha256(draws, task.fingerprint))
