"""What a variant offers, and what it is built with."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.speed.workloads import Array


class Setting(NamedTuple):
    double: bool  # float64, for a check; else float32
    device: str  # cpu | cuda
    option: str  # what follows the slash in a variant's name, e.g. tasks per chunk


class Runner(NamedTuple):
    """One outer step, the outer optimizer included."""

    step: Callable[[], None]  # may return before a device has finished
    wait: Callable[[], None]  # until it has
    gradient: Callable[[], list[Array]]  # the meta-gradient of the last step, in the order of workloads.parameters


class Unsupported(Exception):
    """The program cannot do this; the sentence says what."""
