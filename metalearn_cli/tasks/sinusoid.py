"""Sinusoid regression, the family of Finn et al. 2017 (MAML, arXiv 1703.03400, section 5.1).

y = A sin(x - phi), A ~ U(0.1, 5), phi ~ U(0, pi), x ~ U(-5, 5), no noise. The three splits are three independent
streams of tasks from the same family. The error of the best constant predictor is about 3.05.
"""

import math
from dataclasses import dataclass

import torch

from metalearn_cli.errors import UserError
from metalearn_cli.tasks.base import Batch, Draw, Spec, Split, TaskDistribution, draw_keys


@dataclass(frozen=True)
class Sinusoid(TaskDistribution):
    shot: int = 10  # support points of a validation or test task
    query: int = 100  # query points of a validation or test task: they measure, so more of them cost only time
    train_shot: int | None = None  # of a training task; null: the same as `shot`
    train_query: int | None = 10  # of a training task; null: the same as `query`

    def __post_init__(self) -> None:
        for name in ("shot", "query", "train_shot", "train_query"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"task.{name}={value} must be at least 1 point")

    @property
    def spec(self) -> Spec:
        return Spec(input_shape=(1,), outputs=1, train_outputs=1, kind="values")

    @property
    def splits(self) -> tuple[Split, ...]:
        return ("train", "val", "test")

    @property
    def fingerprint(self) -> str:
        return "sinusoid: y = A sin(x - phi), A in [0.1, 5], phi in [0, pi], x in [-5, 5]"

    def draw(self, tasks: int, split: Split, rng: torch.Generator) -> Draw:
        shot, query = self.shot, self.query
        if split == "train":
            shot = self.train_shot or shot
            query = self.train_query or query
        return {
            "amplitude": 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=rng),
            "phase": math.pi * torch.rand(tasks, 1, 1, generator=rng),
            "support_x": 10 * torch.rand(tasks, shot, 1, generator=rng) - 5,
            "query_x": 10 * torch.rand(tasks, query, 1, generator=rng) - 5,
            "key": draw_keys(tasks, rng),
        }

    def gather(self, draw: Draw, device: torch.device) -> Batch:
        amplitude, phase, support_x, query_x, key = (tensor.to(device) for tensor in draw.values())
        return Batch(
            support_x, amplitude * torch.sin(support_x - phase), query_x, amplitude * torch.sin(query_x - phase), key
        )
