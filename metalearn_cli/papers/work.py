"""How long a row takes here: its work, counted once for any machine, over what this machine does in a second."""

import csv
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.system.device import resolve_device
from metalearn_cli.system.measure import timed

WORK = Path(__file__).with_name("work.csv")  # made by benchmarks/papers/work.py
COLUMNS = ("row", "task", "stages", "teraflop", "million calls", "gigabytes")
_SIDE, _CHANNELS, _IMAGES = 21, 64, 25  # of the convolution that is timed: those of the second block of Conv4
_CALLS, _TIMES = 9, 300  # of torch in a product of two small matrices with its gradient, and how often it is timed


class Work(NamedTuple):
    """What training, validations and tests of a row take, those of its stages among them."""

    task: str  # the choice
    stages: int  # before the run itself
    teraflop: float  # operations of products and convolutions, 1e12 of them
    calls: float  # of torch's operations, 1e6 of them
    gigabytes: float  # held at once by a step or test of a single task

    def seconds(self, speed: "Speed") -> float:
        return self.teraflop * 1e12 / speed.operations + self.calls * 1e6 / speed.calls


class Speed(NamedTuple):
    """What a device does in a second."""

    operations: float
    calls: float
    device: str


def counted() -> dict[str, Work]:
    """The work of each row that was counted."""
    with WORK.open(newline="") as file:
        rows = csv.DictReader(file)
        return {
            row["row"]: Work(row["task"], int(row["stages"]), *(float(row[name]) for name in COLUMNS[3:]))
            for row in rows
        }


def measured_speed() -> Speed:
    """Time a convolution with its gradients, and small operations: for about a second."""
    device = resolve_device("auto")
    x = torch.rand(_IMAGES, _CHANNELS, _SIDE, _SIDE, device=device, requires_grad=True)
    weight = torch.rand(_CHANNELS, _CHANNELS, 3, 3, device=device, requires_grad=True)
    small = torch.ones(8, 8, device=device, requires_grad=True)

    def convolve(_: int) -> tuple[Tensor, ...]:
        out = F.conv2d(x.contiguous(memory_format=torch.channels_last), weight, padding=1)
        return torch.autograd.grad(out.sum(), [x, weight])

    timed(device, 2, convolve)
    _, once = timed(device, 10, convolve)
    _, calls = timed(device, _TIMES, lambda _: torch.autograd.grad((small @ small).sum(), [small]))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
    return Speed(3 * 2 * 9 * x.numel() * _CHANNELS / once, _CALLS / calls, where)
