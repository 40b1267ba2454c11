"""A prior of a user's own: the class of docs/own_classes.md, as a command finds it, and mistakes in one."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from commands import results, succeed
from places import ROOT
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.prior import Prior

SHORT = ["tasks_per_step=2", "steps=2", "eval_every=1", "eval_episodes=4", "test_episodes=20", "threads=1"]


@dataclass(frozen=True)
class Sawteeth(Prior):
    noise: float = 0.1

    def sample(self, tasks: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(tasks, points, self.inputs, generator=rng)
        slope = torch.randn(tasks, 1, 1, generator=rng)
        return x, (slope * x.sum(-1, keepdim=True)) % 1 + self.noise * torch.randn(tasks, points, 1, generator=rng)


def test_a_file_of_twenty_lines_is_a_task(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/own_classes.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "class Lines" in block]
    assert len(code.splitlines()) <= 20
    (tmp_path / "lines.py").write_text(code)
    task = ["task._target_=lines.Lines", "+task.slope=2", *SHORT]
    succeed(tmp_path, "train", "algo=cnp", "algo.width=8", *task, "name=one")
    bars = ["algo.width=8", "task.likelihood=bars", "task.bars=10", "task.max_points=12"]
    succeed(tmp_path, "train", "algo=pfn", *task, *bars, "name=two")
    assert all(results(tmp_path, name)["metric"] == "log_likelihood" for name in ("one", "two"))


def test_sizes_are_the_programs_and_splits_are_apart() -> None:
    task = Sawteeth(inputs=2, max_points=20)
    draw = task.draw(40, "test", generator(0))
    batch = task.gather(draw, torch.device("cpu"))
    assert batch.support_mask is not None
    assert batch.query_mask is not None
    sizes = batch.support_mask.sum(1) + batch.query_mask.sum(1)
    assert 6 <= sizes.min() <= sizes.max() < 20
    assert batch.support_x.shape[2] == 2
    assert batch.query_y.shape[1:] == (batch.query_x.shape[1], 1)
    train = task.gather(task.draw(4, "train", generator(1)), torch.device("cpu"))
    assert train.support_mask is None
    assert task.fingerprint == Sawteeth(inputs=2, max_points=20).fingerprint != Sawteeth(inputs=2, noise=1).fingerprint


def test_a_sample_of_another_shape_is_a_sentence() -> None:
    class Flat(Sawteeth):
        def sample(self, tasks: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            x = torch.rand(tasks, points, 1, generator=rng)
            return x, x[..., 0]

    class Endless(Sawteeth):
        def sample(self, tasks: int, points: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            x = torch.rand(tasks, points, 1, generator=rng)
            return x, x / 0

    for cls, shape in ((Flat, r"\[2, 8\]"), (Endless, r"\[2, 8, 1\]")):
        with pytest.raises(UserError, match=rf"{cls.__name__}.sample\(2, 8, rng\) made y of shape {shape}: finite num"):
            _ = cls().fingerprint
