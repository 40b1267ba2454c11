"""The common part of algorithms with an inner loop: steps on the support set of all tasks at once, then predictions.

Shapes: T tasks, S support examples, Q query examples, B examples of a minibatch, P coordinates (weights) of a network.
A parameter is shared by all tasks, [*shape], or one per task, [T, *shape].
"""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, Carry, Meta, Predictor, Update
from metalearn_cli.algorithms.losses import call_on, gradient_update, task_loss
from metalearn_cli.algorithms.rematerialise import unroll
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params, Pass
from metalearn_cli.nets.layers import LinearHead
from metalearn_cli.nets.linear import Linear
from metalearn_cli.seeding import uniform
from metalearn_cli.tasks.base import Batch, Support

Item = TypeVar("Item")


class Head(Enum):
    """Where the inner loop starts the rows of the last layer, one for each class."""

    learned = "learned"  # each at its own meta-learned one
    mean = "mean"  # all at the mean of them, so that labels can be permuted, and the way be any

    def check(self, net: Net) -> None:
        """Raises UserError for `mean` where there are no classes, or no row for each."""
        if self is Head.mean and net.spec.kind != "classes":
            raise UserError("algo.head=mean is for classes, and this task has values: take algo.head=learned")
        if self is Head.mean and not net.class_rows:  # asked here, before a step is recorded
            raise UserError("algo.head=mean needs a last layer with a row for each class: take algo.head=learned")

    def start(self, net: Net, params: Params) -> Params:
        """Where the inner loop starts each parameter-shaped tensor (weights, rates, slots), [*shape]."""
        if self is Head.learned:
            return params
        return {
            name: value.mean(0, keepdim=True).expand_as(value) if name in net.class_rows else value
            for name, value in params.items()
        }


class SupportGradient(NamedTuple):
    """The loss of each task on its support set, and its gradient in that task's own parameters."""

    loss: Tensor  # [T]
    gradient: Params  # [T, *shape]
    stats: Params  # the batch-norm statistics that were used


def support_gradient(
    net: Net, params: Params, support: Support, names: Iterable[str], second_order: bool, step: int
) -> SupportGradient:
    """The gradient of the mean loss on the support set in the parameters `names` [T, *shape], after `step` inner steps.

    It can be differentiated once more where `second_order` is asked for; under no_grad it never can.
    """
    recording, names = torch.is_grad_enabled(), list(names)
    with torch.enable_grad():
        if not recording:  # then they have no graph to be differentiated in
            params = {name: value.detach().requires_grad_() for name, value in params.items()}
        out, stats = net(params, support.x, call_on(support, Pass.support, support.mask, step))
        loss = task_loss(net.spec, out, support.y, support.mask, support.way)
        total = loss.sum()  # the tasks' gradients do not mix
    gradient = torch.autograd.grad(total, [params[name] for name in names], create_graph=recording and second_order)
    return SupportGradient(loss.detach(), dict(zip(names, gradient, strict=True)), stats)


# What multiplies a gradient: a number, a number for each weight [*shape], or matrices along its last dimensions.
Rate = float | Tensor | tuple[Tensor, ...]


def scaled(rate: Rate, gradient: Tensor) -> Tensor:
    """The gradient [T, *shape] times its rate. All dimensions of a kernel [T, out, in, height, width] are one to a
    matrix."""
    if not isinstance(rate, tuple):
        return rate * gradient
    product = gradient.flatten(3) if gradient.dim() > 4 else gradient
    for place, matrix in enumerate(reversed(rate), 1):
        product = (product.transpose(-place, -1) @ matrix.mT).transpose(-place, -1)
    return product.reshape(gradient.shape)


class Descent(NamedTuple):
    """Where gradient descent stands, and how far it steps."""

    phi: Params  # [T, *shape]; what does not move may be shared, [*shape]
    alpha: Mapping[str, Rate]  # of each parameter that moves; the others stay
    step: int = 0  # k


def gradient_step(net: Net, support: Support, second_order: bool, at: Descent) -> Descent:
    """phi_{k+1} = phi_k - alpha grad L(phi_k, support), for each task."""
    phi, alpha, step = at
    gradient = support_gradient(net, phi, support, alpha, second_order, step).gradient
    return Descent(phi | {name: phi[name] - scaled(alpha[name], gradient[name]) for name in alpha}, alpha, step + 1)


class Inner(NamedTuple):
    """What the steps of a descent go through."""

    net: Net
    support: Support
    stats: Params | None  # batch norm's on the support set, if no step changes them


def inner_of(net: Net, start: Descent, support: Support, second_order: bool) -> Inner:
    """Return all of the network; or where a linear head alone moves, that head, on features that are computed once (and
    so have the same units dropped in every step)."""
    if not isinstance(net, LinearHead) or not all(name.startswith("head.") for name in start.alpha):
        return Inner(net, support, None)
    with torch.set_grad_enabled(second_order and torch.is_grad_enabled()):
        features, stats = net.features(start.phi, support.x, call_on(support, Pass.support, support.mask))
    return Inner(Linear(net.spec), support._replace(x=features), stats)


def descend(net: Net, start: Descent, support: Support, steps: int, second_order: bool, remat: bool) -> Params:
    """phi_steps alone, in less memory: `remat` computes the steps again in the backward pass, to the same numbers.

    First order keeps no step: there phi_K is phi_0 plus a constant, since alpha is numbers, not learned.
    """
    inner = inner_of(net, start, support, second_order)
    step = partial(gradient_step, inner.net, inner.support, second_order)
    if second_order:
        return unroll(step, start, steps, remat and inner.net is net).phi  # a head's steps keep little
    with torch.no_grad():
        end = unroll(step, start, steps, remat=False).phi
    # The value of the end, with the derivative of phi_0: the difference in brackets is 0.
    return start.phi | {name: end[name] + (start.phi[name] - start.phi[name].detach()) for name in start.alpha}


def check_remat(remat: bool, first_order: bool) -> None:
    """Raises UserError where an unroll by `descend` keeps no step that could be computed again."""
    if remat and first_order:
        raise UserError(
            "algo.remat=true would save nothing with algo.first_order=true, which keeps no inner step: leave it out"
        )


def query_loss(
    net: Net, phi: Params, batch: Batch, steps: int, given_stats: Params | None = None
) -> tuple[Tensor, Params]:
    """L(phi, query) of each task [T], for networks phi [T, *shape] or [*shape] after so many inner steps, and the
    batch-norm statistics used: those of the query set, if none are given."""
    call = call_on(batch, Pass.query, batch.query_mask, steps)._replace(stats=given_stats)
    out, stats = net(phi, batch.query_x, call)
    return task_loss(net.spec, out, batch.query_y, batch.query_mask, batch.way), stats


def query_update(net: Net, meta: Meta, phi: Params, batch: Batch, steps: int) -> Update:
    """grad L(phi, query) in the meta-parameters, for networks phi that were adapted to this batch in so many steps."""
    return gradient_update(meta, *query_loss(net, phi, batch, steps))


@dataclass(frozen=True, eq=False)
class AdaptedNet(Predictor):
    """Networks that were adapted to this support."""

    net: Net
    params: Params  # [T, *shape]
    buffers: Params
    support: Support
    steps: int  # that made them
    episode_stats: Params | None = None  # the statistics of the support in the inner loop; None: those under `params`

    def outputs(self, query_x: Tensor, query_mask: Tensor | None, stats: Params | None) -> Tensor:
        return self.net(self.params, query_x, Call(stats, query_mask, self.steps))[0]

    def support_stats(self) -> Params:
        if self.episode_stats is not None:
            return self.episode_stats
        return self.net(self.params, self.support.x, Call(mask=self.support.mask, step=self.steps))[1]

    def outputs_beside_support(self, query_x: Tensor) -> Tensor:
        mask = None if self.support.mask is None else F.pad(self.support.mask, (0, 1), value=True)
        return self.net(self.params, torch.cat([self.support.x, query_x], 1), Call(None, mask, self.steps))[0][:, -1:]


def adapted_nets(
    net: Net, meta: Meta, support: Support, start: Descent, steps: int, second_order: bool
) -> Iterator[AdaptedNet]:
    """Yield the networks of every task after 0, 1, ... `steps` steps of the descent."""
    at, inner = start, inner_of(net, start, support, second_order)
    yield AdaptedNet(net, at.phi, meta.buffers, support, 0, inner.stats)
    for _ in range(steps):
        at = gradient_step(inner.net, inner.support, second_order, at)
        yield AdaptedNet(net, at.phi, meta.buffers, support, at.step, inner.stats)


class DescentAlgorithm(Algorithm):
    """An algorithm whose inner loop is gradient descent on networks. A final class says where it starts."""

    inner_steps: int  # K in training
    first_order: bool = False  # whether the meta-gradient takes inner gradients for constants; a key of some

    @abstractmethod
    def start(self, net: Net, meta: Meta, tasks: int) -> Descent:
        """phi_0 of so many tasks, and the rates."""

    def adapt(self, net: Net, meta: Meta, support: Support, steps: int) -> Iterator[AdaptedNet]:
        start = self.start(net, meta, len(support.key))
        return adapted_nets(net, meta, support, start, steps, not self.first_order)

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Carry = None) -> Update:
        start = self.start(net, meta, len(batch.key))
        phi = descend(net, start, batch.support, self.inner_steps, not self.first_order, self.remat)
        return query_update(net, meta, phi, batch, self.inner_steps)


def final_of(items: Iterable[Item]) -> Item:
    """The last of these items, without keeping the others."""
    return deque(items, maxlen=1).pop()


def minibatch(support: Support, size: int | None, step: int) -> Support:
    """The examples of inner step `step`, counted from 0: B = `size` of each task's; None: all of them, as they stand.

    Minibatches cycle through the support set without replacement, in an order that is drawn from the task's own key
    for every pass; one may end in the next pass, and one larger than the support set takes several.
    """
    if size is None:
        return support
    assert support.mask is None  # Algorithm.require_equal_sizes refuses such tasks
    count = support.y.shape[1]
    first, last = step * size // count, ((step + 1) * size - 1) // count
    orders = [uniform(support.key, number, shape=(count,)).argsort(1) for number in range(first, last + 1)]
    start = step * size - first * count
    chosen = torch.cat(orders, 1)[:, start : start + size]  # [T, B]
    task = torch.arange(len(chosen), device=chosen.device)[:, None]
    return support._replace(x=support.x[task, chosen], y=support.y[task, chosen])


def to_vector(params: Params) -> Tensor:
    """[T, *shape] of each parameter -> all coordinates of a task as one vector, [T, P]."""
    return torch.cat([value.reshape(len(value), -1) for value in params.values()], 1)


def from_vector(theta: Tensor, shapes: Mapping[str, torch.Size]) -> Params:
    """theta [T, P] -> [T, *shape] by name."""
    parts = torch.split(theta, [shape.numel() for shape in shapes.values()], 1)
    return {name: part.view(-1, *shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def log_sign(x: Tensor, p: float) -> Tensor:
    """Size and sign of numbers of any magnitude, as inputs of a network: x [...] -> [..., 2].

    (log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x): Andrychowicz et al. 2016, appendix A. The two meet at
    |x| = e^-p, so that each is one clamp, and log 0 is never taken.
    """
    return torch.stack([x.abs().clamp(min=math.exp(-p)).log() / p, (math.exp(p) * x).clamp(-1, 1)], -1)
