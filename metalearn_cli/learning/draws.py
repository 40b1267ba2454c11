"""Which tasks a step of training, a validation and a test draw: functions of the seed and the number alone."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Draw, Split, TaskDistribution, draw_slice
from metalearn_cli.tasks.capabilities import draw_numbers, task_count

BLOCK = 64  # episodes drawn from one generator


class EpisodeRange(NamedTuple):
    """The first `number` episodes of a split, which `seed` fixes."""

    split: Split
    number: int
    seed: int


def draw_block(task: TaskDistribution, split: Split, episodes_seed: int, block: int) -> Draw:
    """Episodes 64 * block to 64 * block + 63, or as many of them as there are tasks."""
    rng = generator(episodes_seed, split, block)
    if (number := task_count(task, split)) is None:
        return task.draw(BLOCK, split, rng)
    return draw_numbers(task, torch.arange(BLOCK * block, min(BLOCK * (block + 1), number)), split, rng)


def draw_episodes(task: TaskDistribution, episodes: EpisodeRange) -> Iterator[Draw]:
    """These episodes, block by block."""
    split, number, seed = episodes
    if (tasks := task_count(task, split)) is not None and number > tasks:
        raise ValueError(f"{number} episodes asked of {tasks} {split} tasks, each of which is scored once")
    for done in range(0, number, BLOCK):
        yield draw_slice(draw_block(task, split, seed, done // BLOCK), 0, number - done)
