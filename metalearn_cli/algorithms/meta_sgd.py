"""Meta-SGD.

Zhenguo Li, Fengwei Zhou, Fei Chen, Hang Li: "Meta-SGD: Learning to Learn Quickly for Few-Shot Learning", 2017,
arXiv 1707.09835.

    phi = theta - alpha o grad L(theta, support),   (theta, alpha) <- (theta, alpha) - beta grad L(phi, query)

o multiplies element by element, and the second gradient is that in theta and alpha. alpha has the shape of theta: a
learned rate, and direction, for every weight. One inner step in training and test.

Differs from the paper in: more inner steps are possible, with the same alpha in each. The paper's Omniglot network has
another layer of 32 values before its head, which ours does not have. A regulariser that it mentions for classification
is not specified there and left out.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import Descent, DescentAlgorithm, Head
from metalearn_cli.nets.base import Net, per_task
from metalearn_cli.system.limits import Count, Limit

RATE = "rate:"  # before a parameter's name: its alpha; no module of a user's has a colon in its name


RateRange = Annotated[
    tuple[float, ...],
    Limit(
        "two rates, 0 or above, the lower first, e.g. [0.005,0.1]; give the same value twice for a fixed start",
        lambda rates: len(rates) == 2 and 0 <= rates[0] <= rates[1] < math.inf,
    ),
]


@dataclass(frozen=True)
class MetaSGD(DescentAlgorithm):
    initial_lr: RateRange = (0.005, 0.1)  # every alpha starts at one value, drawn between the two
    inner_steps: Count = 1
    test_steps: Count = 1
    head: Head = Head.learned  # mean: the rates likewise
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.transductive
    memory_savers = ("remat",)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        self.head.check(net)
        theta = net.init(rng)
        low, high = self.initial_lr
        alpha = low + (high - low) * torch.rand((), generator=rng)
        rates = {RATE + name: alpha.expand_as(value).clone() for name, value in theta.items()}
        return Meta(theta | rates, net.init_stats())

    def start(self, net: Net, meta: Meta, tasks: int) -> Descent:
        theta = {name: value for name, value in meta.params.items() if not name.startswith(RATE)}
        alpha = {name: meta.params[RATE + name] for name in theta}
        return Descent(per_task(self.head.start(net, theta), tasks), self.head.start(net, alpha))

    def learned(self, meta: Meta) -> dict[str, float]:
        return figures_of_rates(meta)


def figures_of_rates(meta: Meta) -> dict[str, float]:
    """What a person would like to know of the learned rates."""
    rates = torch.cat([value.detach().flatten() for name, value in meta.params.items() if name.startswith(RATE)])
    figures = {"median_rate": rates.median(), "lowest_rate": rates.min(), "highest_rate": rates.max()}
    return {name: rate.item() for name, rate in figures.items()}
