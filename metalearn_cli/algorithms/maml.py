"""Model-Agnostic Meta-Learning.

Chelsea Finn, Pieter Abbeel, Sergey Levine: "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
ICML 2017, arXiv 1703.03400.

    phi_0 = theta,  phi_{k+1} = phi_k - alpha grad L(phi_k, support),  theta <- theta - beta grad_theta L(phi_K, query)

The meta-gradient runs through the inner gradients (second order, equation 1 of the paper), or takes them for constants
(`first_order`, section 5.2). With `head=mean` phi_0 has the mean of theta's rows for every class: labels can
be permuted, and the way can be any (Ye and Chao 2022, arXiv 2106.16245, who learn that one row).

Differs from the paper in: the inner loss is the mean over the support set. The authors' code divides the summed
cross-entropy by the shots only, which is `way` times the mean: `inner_loss=way_times_mean`, or alpha multiplied by way
(their 0.4 at 5-way is 2.0 here). Batch norm adds 1e-5 to the variance, theirs 1e-3; its gamma and beta are adapted with
the other weights, where theirs has no gamma (`model.gamma=false`) and does not adapt beta (`adapted=no_batch_norm`).
Running statistics are kept beside it, for the batch-norm mode `running`; training does not use them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import torch

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import Descent, DescentAlgorithm, Head, check_remat
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params, per_task
from metalearn_cli.system.limits import Count, NonNegative


class InnerLoss(Enum):
    mean = "mean"  # over the support set
    way_times_mean = "way_times_mean"  # the sum divided by the shots, as in the authors' code


class AdaptedPart(Enum):
    """Which parameters the inner loop changes; all are meta-learned."""

    all = "all"
    no_batch_norm = "no_batch_norm"  # all but batch norm's gamma and beta, as in the authors' code
    head = "head"  # ANIL (Raghu et al. 2020, arXiv 1909.09157)
    body = "body"  # all but the head: BOIL (Oh et al. 2021, arXiv 2008.08882)

    def names(self, net: Net, params: Iterable[str]) -> list[str]:
        """Which of these parameters of the network it is."""
        norms = {name.rpartition(".")[0] for name in net.init_stats()}
        match self:
            case AdaptedPart.no_batch_norm:
                return [name for name in params if name.rpartition(".")[0] not in norms]
            case AdaptedPart.head:
                return [name for name in params if name.startswith("head.")]
            case AdaptedPart.body:
                return [name for name in params if not name.startswith("head.")]
        return list(params)


@dataclass(frozen=True)
class MAML(DescentAlgorithm):
    inner_lr: NonNegative = 0.01  # alpha
    inner_steps: Count = 1  # K in training
    test_steps: Count = 10  # K at validation and test
    first_order: bool = False
    inner_loss: InnerLoss = InnerLoss.mean
    adapted: AdaptedPart = AdaptedPart.all
    head: Head = Head.learned
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.transductive
    memory_savers = ("remat", "first_order")

    def __post_init__(self) -> None:
        check_remat(self.remat, self.first_order)
        if self.head is Head.mean and self.adapted is AdaptedPart.body:
            raise UserError(
                "algo.head=mean starts all classes alike, and with algo.adapted=body they would stay so: take "
                "algo.head=learned"
            )

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        self.head.check(net)
        params = net.init(rng)
        if not self._rates(net, params):
            raise UserError(
                f"algo.adapted={self.adapted.name} leaves nothing to adapt: this model's parameters are "
                f"{', '.join(params)}; take algo.adapted=all"
            )
        return Meta(params, net.init_stats())

    def require_way(self, trained: int, way: int) -> None:
        if self.adapted is AdaptedPart.body:
            raise UserError(
                f"this run was trained with {trained} classes, the support has {way}, and algo.adapted=body never "
                f"changes the head: give {trained} classes, or a run of another algorithm"
            )

    def start(self, net: Net, meta: Meta, tasks: int) -> Descent:
        params, rates = self.head.start(net, meta.params), self._rates(net, meta.params)
        moved = {name: params[name] for name in rates}
        return Descent(params | per_task(moved, tasks), rates)

    def _rates(self, net: Net, params: Params) -> dict[str, float]:
        """alpha, in the scale of the mean loss, for each parameter that is adapted."""
        rate = self.inner_lr * (net.spec.outputs if self.inner_loss is InnerLoss.way_times_mean else 1)
        return dict.fromkeys(self.adapted.names(net, params), rate)
