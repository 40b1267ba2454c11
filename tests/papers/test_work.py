"""What a row takes: its work is that of its steps and tests, and the machine is timed."""

import math
import sys

import pytest
from places import ROOT

from metalearn_cli.config.conf_folder import published_papers
from metalearn_cli.papers.work import Speed, Work, counted, measured_speed

sys.path.append(str(ROOT))
from benchmarks.papers.work import of_row


def test_what_was_counted_is_a_row() -> None:
    assert set(counted()) <= set(published_papers())


@pytest.mark.nightly
def test_every_row_was_counted() -> None:
    """A new row is counted by `python benchmarks/papers/work.py`."""
    assert list(counted()) == list(published_papers())


def expect_count(name: str) -> None:
    now, then = of_row(name), counted()[name]
    assert now[:2] == then[:2]
    assert now.teraflop == pytest.approx(then.teraflop, rel=0.01)
    assert now.calls == pytest.approx(then.calls, rel=0.2)  # of a version of torch


def test_the_work_of_a_row_is_that_of_its_steps_and_tests() -> None:
    expect_count("maml/sinusoid")
    # By hand: 2 products of 1 x 40 and one of 40 x 40 in a forward; a gradient has 2 more in all layers but the first.
    forward = 40 + 40 * 40 + 40
    gradient = forward + 2 * (forward - 40) + 40
    assert of_row("pretrain/sinusoid").teraflop > 2 * gradient * 5 * 70_000 * 25 / 1e12


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["protonet/omniglot_5w1s", "tim/mini_imagenet_5w1s", "rfs/cifar_fs_5w1s_conv4"])
def test_the_work_of_rows_with_images_stages_and_long_loops(name: str) -> None:
    expect_count(name)


def test_time_is_work_over_speed() -> None:
    assert Work("omniglot", 0, 3.0, 2.0, 1.0).seconds(Speed(1e12, 1e6, "")) == 5
    speed = measured_speed()
    assert all(math.isfinite(number) and number > 0 for number in speed[:2])
    assert speed.device.endswith("CPU thread(s)")
