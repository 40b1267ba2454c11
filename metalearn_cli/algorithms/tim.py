"""TIM: class weights that make predictions of the queries sure, and of all classes alike.

Malik Boudiaf, Ziko Imtiaz Masud, Jérôme Rony, Jose Dolz, Pablo Piantanida, Ismail Ben Ayed: "Transductive Information
Maximization For Few-Shot Learning", NeurIPS 2020, arXiv 2008.11297.

    W = argmin  lambda CE(support) - H(mean of p over the query set) + alpha (mean of H(p) over the query set)
    p(y = k | x) = softmax_k( -tau / 2 ||f(x) - w_k||^2 )

(section 2; features divided by their length) from w_k = the class means, by a fixed number of steps of Adam
(`solver=adam`, TIM-GD), or in turns of two closed forms (`solver=adm`, TIM-ADM, proposition 1), for q near p:

    q_i[k] ~ p_i[k]^(1 + alpha) / (sum over queries j of p_j[k]^(1 + alpha))^(balance / (1 + balance))
    w_k = [ s sum_S (y_i f_i + p_i (w - f_i)) + r sum_Q (q_i f_i + p_i (w - f_i)) ] / [ s sum_S y_i + r sum_Q q_i ]

all of class k, with s = lambda / (1 + alpha) and r = |S| / |Q|. Without a step it is algo=protonet. All queries of a
task are predicted together. H(mean of p) says that classes have equally many queries: where they do not, predictions
are pushed towards classes that are rare. `balance` is its weight; at 0 nothing is assumed, and nothing keeps the
queries from falling into one class.

The paper trains f by algo=pretrain, and starts this one from that run with steps=0. Steps train f as algo=protonet
does, under the same p. Differs from the paper in: logarithms are exact, where the authors' code adds 1e-12.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor
from torch.optim import Adam

from metalearn_cli.algorithms.features import Centre, Normalise, members
from metalearn_cli.algorithms.losses import mean_of_real, without_absent_classes
from metalearn_cli.algorithms.protonet import OnProtoNet, ProtoNet, prototypes
from metalearn_cli.system.limits import Natural, NonNegative, Positive
from metalearn_cli.tasks.base import Support


class Solver(Enum):
    adam = "adam"  # steps down the slope
    adm = "adm"  # q and W in turns, each in closed form


@dataclass(frozen=True)
class TIM(OnProtoNet):
    solver: Solver = Solver.adam
    iterations: Natural = 1000
    lr: NonNegative = 1e-4  # of Adam
    temperature: Positive = 15.0  # tau
    support_weight: NonNegative = 0.1  # lambda
    sureness: NonNegative = 0.1  # alpha
    balance: NonNegative = 1.0  # of H(mean of p)
    normalise: Normalise = Normalise.l2
    centre: Centre = Centre.none

    algo = "tim"

    @cached_property
    def protonet(self) -> ProtoNet:
        return ProtoNet(normalise=self.normalise, centre=self.centre, temperature=2 / self.temperature)

    def joint_logits(self, support: Support, way: int, query: Tensor, mask: Tensor | None) -> Tensor:
        weight = prototypes(support.x, support, way)
        if self.solver is Solver.adm:
            for _ in range(self.iterations):
                weight = self.alternated(weight, support, query, mask)
            return self.logits(weight, query, support.way)
        weight = weight.detach().clone().requires_grad_()
        adam = Adam([weight], self.lr)
        for _ in range(self.iterations):
            with torch.enable_grad():
                total = self.loss(weight, support, query, mask).sum()  # the tasks' do not mix
            (weight.grad,) = torch.autograd.grad(total, [weight])
            adam.step()
        return self.logits(weight.detach(), query, support.way)

    def logits(self, weight: Tensor, x: Tensor, way: Tensor | None) -> Tensor:
        """-tau / 2 ||x - w||^2 but for ||x||^2, which classes share: weight [T, way, F], x [T, B, F] -> [T, B, way]."""
        out = self.temperature * (x @ weight.mT - weight.square().sum(-1).unsqueeze(1) / 2)
        return without_absent_classes(out, way)

    def loss(self, weight: Tensor, support: Support, query: Tensor, mask: Tensor | None) -> Tensor:
        """What W [T, way, F] minimises, [T]; support.x are features [T, S, F]."""
        log_p, sure = (self.logits(weight, x, support.way).log_softmax(-1) for x in (query, support.x))
        entropy = mean_of_real(-(log_p.exp() * log_p).sum(-1), mask)
        mean = mean_of_real(log_p.exp(), mask)
        of_mean = -(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum(-1)
        cross_entropy = mean_of_real(-sure.gather(-1, support.y.unsqueeze(-1)).squeeze(-1), support.mask)
        return self.support_weight * cross_entropy - self.balance * of_mean + self.sureness * entropy

    def alternated(self, weight: Tensor, support: Support, query: Tensor, mask: Tensor | None) -> Tensor:
        """The next W [T, way, F]; support.x are features [T, S, F]."""
        x, shots = torch.cat([support.x, query], 1), support.x.shape[1]
        log_p = self.logits(weight, x, support.way).log_softmax(-1)
        labelled, real = (
            x.new_ones(*part.shape[:2], 1) if is_real is None else is_real.unsqueeze(-1).to(x.dtype)
            for part, is_real in ((support.x, support.mask), (query, mask))
        )
        sharper = (1 + self.sureness) * log_p[:, shots:]
        of_class = sharper.masked_fill(real == 0, -torch.inf).logsumexp(1, keepdim=True)
        q = without_absent_classes(sharper - self.balance / (1 + self.balance) * of_class, support.way).softmax(-1)
        share = labelled.sum(1, keepdim=True) / real.sum(1, keepdim=True)
        price = torch.cat([self.support_weight / (1 + self.sureness) * labelled, share * real], 1)
        y, p = price * torch.cat([members(support, weight.shape[1]), q], 1), price * log_p.exp()
        total = (y - p).mT @ x + weight * p.sum(1).unsqueeze(-1)
        return total / y.sum(1).unsqueeze(-1).clamp(min=torch.finfo(y.dtype).tiny)
