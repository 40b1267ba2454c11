"""Implicit MAML.

Aravind Rajeswaran, Chelsea Finn, Sham Kakade, Sergey Levine: "Meta-Learning with Implicit Gradients", NeurIPS 2019,
arXiv 1909.04630.

    phi* = argmin_phi L(phi, support) + lambda/2 ||phi - theta||^2
    theta <- theta - beta (I + H/lambda)^-1 grad L(phi*, query),    H = grad^2 L(phi*, support)

(equations 3 and 6). The inverse is multiplied by a fixed number of conjugate gradient steps, each of which takes one
product with H. So the meta-gradient depends on where the inner loop ends and not on its way: no step is kept, and the
memory is that of one, for any number. The steps are gradient descent, which is the gradient of (1) where it has
converged; with lambda -> infinity this is first-order MAML without a step. Where H has a slope below -lambda the system
is not positive, and so is not solved.

`variant=paper` descends on the whole inner objective, in training and at test. `variant=code` is the authors' program:
it descends on L alone and then pulls back once, phi <- phi - alpha lambda (phi - theta); it solves with
2 I + H/(lambda + 10) in place of I + H/lambda; and at test it does not pull back.

Differs from the paper in: the inner optimizer is gradient descent alone (the paper has a Hessian-free one too), and
conjugate gradients start at 0 and stop early only where a task is solved to rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.inner_loop import (
    AdaptedNet,
    final_of,
    from_vector,
    query_loss,
    support_gradient,
    to_vector,
)
from metalearn_cli.algorithms.losses import running_average
from metalearn_cli.algorithms.solvers import conjugate
from metalearn_cli.nets.base import Net, Params, per_task
from metalearn_cli.system.limits import Count, NonNegative, Positive
from metalearn_cli.tasks.base import Batch, Support


class Variant(Enum):
    paper = "paper"
    code = "code"  # the authors' program


@dataclass(frozen=True)
class IMAML(Algorithm):
    variant: Variant = Variant.paper
    inner_lr: NonNegative = 0.1  # alpha
    inner_steps: Count = 16  # in training
    test_steps: Count = 16  # at validation and test
    strength: Positive = 2.0  # lambda
    solver_steps: Count = 5  # of conjugate gradients

    batch_norm = BatchNorm.transductive

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        self.require_one_way(net.spec)
        return Meta(net.init(rng), net.init_stats())

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Predictor]:
        for step, phi in enumerate(self.inner_loop(net, meta, support, steps)):
            yield AdaptedNet(net, phi, meta.buffers, support, step)

    def inner_loop(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[Params]:
        """Yield phi [T, *shape] after 0, 1, ... `steps` steps."""
        theta = phi = per_task({name: value.detach() for name, value in meta.params.items()}, len(support.key))
        pull = self.strength if self.variant is Variant.paper else 0.0
        yield phi
        for step in range(steps):
            with torch.no_grad():
                slope = support_gradient(net, phi, support, phi, second_order=False, step=step).gradient
                phi = {n: phi[n] - self.inner_lr * (slope[n] + pull * (phi[n] - theta[n])) for n in phi}
            yield phi

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        phi = final_of(self.inner_loop(net, meta, batch.support, self.inner_steps))
        if self.variant is Variant.code:
            share = self.inner_lr * self.strength
            phi = {name: value.lerp(meta.params[name].detach(), share) for name, value in phi.items()}
        phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
        loss, stats = query_loss(net, phi, batch, self.inner_steps)
        target = to_vector(dict(zip(phi, torch.autograd.grad(loss.sum(), list(phi.values())), strict=True)))
        solution = self.solved(net, phi, batch.support, target)
        gradient = {name: value.mean(0) for name, value in from_vector(solution, net.shapes).items()}
        return Update(gradient, loss.detach(), running_average(meta.buffers, stats))

    def solved(self, net: Net, phi: Params, support: Support, target: Tensor) -> Tensor:
        """(I + H/lambda)^-1 target [T, P], or as the code has it, for networks phi [T, *shape] that require a
        gradient."""
        is_code = self.variant is Variant.code
        of_identity, of_hessian = (2.0, 1 / (self.strength + 10)) if is_code else (1.0, 1 / self.strength)
        slope = support_gradient(net, phi, support, phi, second_order=True, step=self.inner_steps).gradient

        def product(v: Tensor) -> Tensor:
            """v [T, P, 1] -> the same shape."""
            along = from_vector(v.squeeze(2), net.shapes)
            ends, directions = list(slope.values()), [along[name] for name in slope]
            curved = torch.autograd.grad(
                ends, list(phi.values()), directions, retain_graph=True, materialize_grads=True
            )
            return of_identity * v + of_hessian * to_vector(dict(zip(phi, curved, strict=True))).unsqueeze(2)

        rounding = torch.finfo(target.dtype).eps ** 2 * target.square().sum(1)[:, None, None]
        return conjugate(product, target.unsqueeze(2), rounding, self.solver_steps).squeeze(2)
