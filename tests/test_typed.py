"""A program that uses metalearn is checked by mypy with the types of what it calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

CONSUMER = """\
from collections.abc import Iterator

import torch
from metalearn_cli import load
from metalearn_cli.errors import UserError
from metalearn_cli.tasks import from_list

model = load("outputs/run", batch_norm="running")
reveal_type(model.embed(["a.png"]))
reveal_type(model.state_dict())
reveal_type(model.module())
reveal_type(model.inner_curve().loss)
for episode in model.episodes("test"):
    reveal_type(episode.support_x)
    reveal_type(model.adapt(episode.support_x, episode.support_y)(episode.query_x))
    reveal_type(episode.names)
reveal_type(from_list)
model.embed()
model.episodes(5)
"""
TYPES = [
    "torch._tensor.Tensor",
    "dict[str, torch._tensor.Tensor]",
    "torch.nn.modules.module.Module",
    "torch._tensor.Tensor",
    "torch._tensor.Tensor",
    "torch._tensor.Tensor",
    "tuple[str, ...]",
]


def test_the_package_says_that_it_has_types() -> None:
    assert (ROOT / "metalearn_cli" / "py.typed").is_file()


@pytest.mark.nightly
def test_what_is_public_has_types_for_another_program(tmp_path: Path) -> None:
    """The checkout is on the path of the interpreter, as an installed package is."""
    pytest.importorskip("mypy")
    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "consumer.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found = [line.partition('Revealed type is "')[2][:-1] for line in done.stdout.splitlines() if "Revealed" in line]
    assert found[: len(TYPES)] == TYPES
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2
    assert "embed" in errors[0]
    assert "episodes" in errors[1]
