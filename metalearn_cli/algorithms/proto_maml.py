"""Proto-MAML: MAML from a head that is made of prototypes.

Eleni Triantafillou, Tyler Zhu, Vincent Dumoulin, Pascal Lamblin, Utku Evci, Kelvin Xu, Ross Goroshin, Carles Gelada,
Kevin Swersky, Pierre-Antoine Manzagol, Hugo Larochelle: "Meta-Dataset: A Dataset of Datasets for Learning to Learn from
Few Examples", ICLR 2020, arXiv 1903.03096.

    phi_0 = (theta, w_k = 2 c_k, b_k = -||c_k||^2),  c_k = mean of f(x; theta) over the support examples of class k
    phi_{k+1} = phi_k - alpha grad L(phi_k, support),     theta <- theta - beta grad_theta L(phi_K, query)

(section 3). Without a step it is ProtoNet; no head is learned, so that the way can be any, in training another one. The
gradient runs through the prototypes too, in first order as well. The query set is normalised by batch-norm statistics
of the support set (under phi_K), in training and at test; batch norm's gamma and beta are not adapted.

Differs from the paper in: the outer loop goes on from drawn weights, where the paper's starts from a network that was
trained on all training classes (`init=`, or `stages=`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.embedding import init_body
from metalearn_cli.algorithms.inner_loop import Descent, adapted_nets, check_remat, descend, query_loss
from metalearn_cli.algorithms.losses import call_on, gradient_update
from metalearn_cli.algorithms.maml import AdaptedPart
from metalearn_cli.algorithms.protonet import nearest_mean_head, prototypes
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params, Pass, per_task
from metalearn_cli.nets.layers import LinearHead
from metalearn_cli.system.limits import Natural, NonNegative
from metalearn_cli.tasks.base import Batch, Spec, Support


@dataclass(frozen=True, eq=False)
class OfFeatures(LinearHead):
    """A linear head of any way on the features of a network, whatever head that has."""

    spec: Spec
    net: Net

    def init(self, rng: torch.Generator) -> Params:
        return self.net.init(rng)

    def init_stats(self) -> Params:
        return self.net.init_stats()

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        return self.net.features({n: v for n, v in params.items() if not n.startswith("head.")}, x, call)


@dataclass(frozen=True)
class ProtoMAML(Algorithm):
    inner_lr: NonNegative = 0.01  # alpha
    inner_steps: Natural = 5  # K in training
    test_steps: Natural = 5  # K at validation and test
    first_order: bool = False
    adapted: AdaptedPart = AdaptedPart.no_batch_norm
    remat: bool = False  # compute each inner step again in the backward pass: less memory, more time

    batch_norm = BatchNorm.inductive
    memory_savers = ("remat", "first_order")

    def __post_init__(self) -> None:
        check_remat(self.remat, self.first_order)

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return Meta(init_body("proto_maml", net, rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        net = OfFeatures(net.spec, net)
        start = self._start(net, meta, support, net.spec.outputs)
        return adapted_nets(net, meta, support, start, steps, not self.first_order)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        net, support, steps = OfFeatures(net.spec, net), batch.support, self.inner_steps
        start = self._start(net, meta, support, net.spec.train_outputs)
        phi = descend(net, start, support, steps, not self.first_order, self.remat)
        _, stats = net.features(phi, support.x, call_on(support, Pass.support, support.mask, steps))
        loss, _ = query_loss(net, phi, batch, steps, stats)
        return gradient_update(meta, loss, stats)

    def _start(self, net: Net, meta: Meta, support: Support, way: int) -> Descent:
        features, _ = net.features(meta.params, support.x, call_on(support, Pass.support, support.mask))
        head = nearest_mean_head(prototypes(features, support, way))
        phi = per_task(meta.params, len(support.key)) | head
        return Descent(phi, dict.fromkeys(self.adapted.names(net, phi), self.inner_lr))
