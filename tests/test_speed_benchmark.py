"""The benchmark's own pieces, without the programs that it compares with."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

sys.path.append(str(ROOT))
from benchmarks.speed import nets, record, report
from benchmarks.speed.race import Entry
from benchmarks.speed.reference import DOUBLE, meta_gradient
from benchmarks.speed.standings import Standing
from benchmarks.speed.variants import ours, plain, torch_func
from benchmarks.speed.workloads import SGEMM, WORKLOADS, Workload, work

BY_NAME = {w.name: w.small() for w in WORKLOADS}


def error(module: object, w: Workload, option: str = "") -> float:
    runner = module.build(w, DOUBLE._replace(option=option))  # type: ignore[attr-defined]
    runner.step()
    pairs = zip(runner.gradient(), meta_gradient(w), strict=True)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


@pytest.fixture(autouse=True)
def _deterministic() -> object:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("name", BY_NAME)
def test_our_step_is_the_reference(name: str) -> None:
    assert error(ours, BY_NAME[name]) < 1e-10
    assert error(ours, BY_NAME[name], "2") < 1e-10
    if name == "W3":
        assert error(ours, BY_NAME[name], "1+remat") < 1e-10


@pytest.mark.parametrize("name", ["W4", "W5-R", "W5-L", "W6-R", "W7-A", "W7-M", "W7-P"])
def test_the_loop_over_modules_is_the_reference(name: str) -> None:
    assert error(plain, BY_NAME[name]) < 1e-10


def test_a_wrong_gradient_is_seen() -> None:
    """vmap over nn.BatchNorm2d: should torch mend it, this fails, and the README's sentence on it can go."""
    assert error(torch_func, BY_NAME["W2"]) < 1e-10
    assert error(torch_func, BY_NAME["W2"], "BatchNorm2d") > 1e-8


def test_work_of_a_step() -> None:
    """By hand: one image of one channel through Conv4 of width 1 has 9 products a pixel in each block, and the head."""
    w = Workload("tiny", "", tasks=1, way=1, shot=1, query=1, size=16, width=1)
    first, rest = 9 * 256, 9 * (64 + 16 + 4) + 1
    assert work(w) == 2 * ((4 * first + 9 * rest) + (2 * first + 3 * rest))
    assert nets.network(w, DOUBLE)(torch.rand(2, 1, 16, 16).double()).shape == (2, 1)


def test_ratios_and_tables(tmp_path: Path) -> None:
    entries = [
        Entry("ours/4", "tuned", 1.0, 1.0, [1.0, 2.0, 1.0], 5_000_000_000),
        Entry("ours/1", "tuned", 1.0, 1.5, [1.5, 1.5, 1.5], 1_000_000_000),
        Entry("learn2learn", "tuned", 2.0, 2.0, [2.0, 6.0, 2.0], 2_000_000_000),
        Entry("learn2learn", "default", 2.0, 2.0, [4.0, 4.0, 4.0], 2_000_000_000),
        Entry("torch.func", "tuned", 9.0, 0.5, why="too slow to race: one step"),
        Entry("sgemm", "tuned", 1.0, 1.0, [1.0, 1.0, 1.0]),
    ]
    place = Standing("W2", entries)
    fastest = place.fastest("tuned", "torch")
    assert fastest is not None
    assert fastest.variant == "learn2learn"  # who raced comes before who was timed once
    ratio = place.ratio("tuned", "tuned")
    assert ratio is not None
    assert (ratio.median, ratio.rounds) == (2.0, 3)  # of 2, 3, 2, round by round
    assert place.sgemm_share == work(WORKLOADS[1]) / 1.0 / SGEMM
    figures = {
        "conditions": {"device": "cpu", "threads": 1, "cpu": "a machine", "versions": {"torch": "2"}},
        "checks": {"learn2learn": {"W2": {"error": 1e-15}}, "torch.func": {"W2": {"error": 1e-2}}},
        "races": {"W2": record.measured(entries)},
        "sweeps": {},
    }
    out = tmp_path / "some.json"
    record.save(figures, out)
    [path] = report.write(json.loads(out.read_text()), out)
    text = path.read_text()
    assert "| 1.00 (ours/4) | 0.500 (learn2learn) | 2.00 [2.00, 2.50] | - | 4.00 [3.00, 4.00] |" in text
    assert "torch 2.1: short; sgemm 88%" in text
    assert "**1e-02 wrong**" in text
    assert "torch.func: too slow to race" in text
