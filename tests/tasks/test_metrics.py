"""A metric's direction, unit and range are told in one place."""

import math
import subprocess
import sys
from typing import get_args

import pytest

from metalearn_cli.errors import UserError
from metalearn_cli.learning.scores import in_unit, is_better, parse_expectation, text_of
from metalearn_cli.sweep.sweep_job import direction
from metalearn_cli.tasks.likelihood import Categorical, Gaussian, SquaredError
from metalearn_cli.tasks.metrics import METRICS, Headline

HIGHER = {"accuracy", "log_likelihood", "joint_log_likelihood", "coverage_50", "coverage_90", "coverage_95"}


@pytest.mark.parametrize("name", METRICS)
def test_all_that_asks_for_a_direction_gets_the_same(name: str) -> None:
    metric, is_higher = METRICS[name], name in HIGHER
    assert is_better(name, -0.5, -0.7) == is_higher == (metric.best([-0.7, -0.5]) == -0.5) == (metric.sign == 1)
    assert direction(name) == ("maximize" if is_higher else "minimize")
    assert metric.worst == (-math.inf if is_higher else math.inf)
    assert metric.lowest < metric.highest
    expectation = parse_expectation(metric.example, name, 0)
    assert expectation.met(expectation.bound + metric.sign * 0.01)
    assert not expectation.met(expectation.bound - metric.sign * 0.01)


def test_every_likelihood_names_metrics_that_there_are() -> None:
    assert {likelihood.metric for likelihood in (Categorical, SquaredError, Gaussian)} == {*get_args(Headline)}
    assert METRICS.keys() >= {*get_args(Headline)}


def test_a_log_likelihood_may_be_any_number_and_a_share_is_shown_in_percent() -> None:
    for bound in (-3.5, 0.0, 2.0):
        assert parse_expectation(f"log_likelihood_step1>={bound}", "log_likelihood", 1).bound == bound
    with pytest.raises(UserError, match=r"compare the test's log_likelihood .* e.g. expect='log_likelihood>=-0.5'"):
        parse_expectation("accuracy>=0.5", "log_likelihood", 1)
    assert (text_of(0.034, "ece"), in_unit("ece")) == ("3.40", "ece in %")
    assert (text_of(-0.034, "log_likelihood", sign=True), in_unit("log_likelihood")) == ("-0.034", "log_likelihood")


def test_the_table_needs_no_torch() -> None:
    code = "import sys, metalearn_cli.tasks.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
