"""Joint training on all tasks, then fine-tuning: the baseline that meta-learning has to beat.

Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
ICML 2017, arXiv 1703.03400: "pretrained on all tasks" in section 5.1 and Table 2.

    theta <- theta - beta grad L(theta, all examples of all tasks),   at test  phi_{k+1} = phi_k - alpha grad L(phi_k)

There is no inner step in training: one network learns the mean of all tasks. At test it is fine-tuned like MAML's, with
a step size that has to be tuned (`algo.inner_lr`; a sweep finds it).

Differs from the paper in: nothing known; the paper does not print the step sizes that its tuning found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import AdaptedNet, Descent, gradient_descent, query_update
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.system.limits import Count, NonNegative
from metalearn_cli.tasks.base import Batch, Support


@dataclass(frozen=True)
class Pretrain(Algorithm):
    inner_lr: NonNegative = 0.02  # alpha, at validation and test
    test_steps: Count = 10

    batch_norm = BatchNorm.transductive

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        if net.spec.kind == "classes":
            raise UserError(
                "algo=pretrain trains one head on all tasks, and the classes of this task have other labels in each: "
                "take task=sinusoid, or algo=protonet"
            )
        return Meta(net.init(rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        start = Descent(meta.params, dict.fromkeys(meta.params, self.inner_lr))
        for phi in gradient_descent(net, start, support, steps, second_order=False):
            yield AdaptedNet(net, phi, meta.buffers, support)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
        mask = None
        if batch.support_mask is not None and batch.query_mask is not None:
            mask = torch.cat([batch.support_mask, batch.query_mask], 1)
        return query_update(net, meta, meta.params, batch._replace(query_x=x, query_y=y, query_mask=mask))
