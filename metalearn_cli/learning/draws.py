"""Which tasks a step of training, a validation and a test draw: functions of the seed and the number alone."""

from collections.abc import Iterator

import torch

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Draw, Split, TaskDistribution, draw_slice

BLOCK = 64  # episodes drawn from one generator


def draw_block(task: TaskDistribution, split: Split, episodes_seed: int, block: int) -> Draw:
    """Episodes 64 * block to 64 * block + 63, or as many of them as there are tasks."""
    rng = generator(episodes_seed, split, block)
    if (number := task.task_count(split)) is None:
        return task.draw(BLOCK, split, rng)
    return task.draw_numbers(torch.arange(BLOCK * block, min(BLOCK * (block + 1), number)), split, rng)


def draw_episodes(task: TaskDistribution, split: Split, episodes: int, episodes_seed: int) -> Iterator[Draw]:
    """The first `episodes` episodes of `split`, block by block."""
    if (number := task.task_count(split)) is not None and episodes > number:
        raise ValueError(f"{episodes} episodes asked of {number} {split} tasks, each of which is scored once")
    for done in range(0, episodes, BLOCK):
        yield draw_slice(draw_block(task, split, episodes_seed, done // BLOCK), 0, episodes - done)
