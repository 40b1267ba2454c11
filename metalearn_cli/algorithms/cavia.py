"""CAVIA: fast context adaptation.

Luisa Zintgraf, Kyriacos Shiarlis, Vitaly Kurin, Katja Hofmann, Shimon Whiteson: "Fast Context Adaptation via
Meta-Learning", ICML 2019, arXiv 1810.03642.

    c_0 = 0,  c_{k+1} = c_k - alpha grad_c L(theta, c_k, support)
    theta <- theta - beta grad_theta L(theta, c_K, query)

(equations 5 and 6). The context c is a vector of inputs that the network has beside an example: of an MLP more inputs
(`model.context`), of Conv4 what scales and shifts the images of its third block (nets/conv4.py). The inner loop changes
nothing else, so that all tasks share the weights theta. On the inputs of a first layer, a step on c is one on that
layer's bias, multiplied by W_c W_c'.

Differs from the paper in: the authors' code clips each task's gradient to 10, `optimizer.clip_value` that of the
meta-batch. The shift of the third block begins at 0, there at torch's start.
"""

from dataclasses import dataclass

import torch

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import Descent, DescentAlgorithm, check_remat
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import CONTEXT, Net
from metalearn_cli.nets.capabilities import require_context
from metalearn_cli.system.limits import Count, NonNegative


@dataclass(frozen=True)
class CAVIA(DescentAlgorithm):
    inner_lr: NonNegative = 1.0  # alpha
    inner_steps: Count = 1  # K in training
    test_steps: Count = 1  # K at validation and test
    first_order: bool = False
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.transductive
    memory_savers = ("remat", "first_order")

    def __post_init__(self) -> None:
        check_remat(self.remat, self.first_order)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        require_context(net, "algo=cavia")
        return Meta({name: value for name, value in net.init(rng).items() if name != CONTEXT}, net.init_stats())

    def require_way(self, trained: int, way: int) -> None:
        raise UserError(
            f"this run was trained with {trained} classes, the support has {way}, and algo=cavia never changes the "
            f"head: give {trained} classes, or a run of another algorithm"
        )

    def start(self, net: Net, meta: Meta, tasks: int) -> Descent:
        any_weight = next(iter(meta.params.values()))
        context = any_weight.new_zeros(tasks, require_context(net, "algo=cavia")).requires_grad_()
        return Descent(meta.params | {CONTEXT: context}, {CONTEXT: self.inner_lr})
