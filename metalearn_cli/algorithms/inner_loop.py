"""What the algorithms with an inner loop share: steps on the support set of every task at once, and predicting after.

Shapes: T tasks, S support examples, Q query examples, B examples of a minibatch, P coordinates (weights) of a network.
A parameter is shared by all tasks, [*shape], or one per task, [T, *shape].
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, task_loss
from metalearn_cli.algorithms.rematerialise import unroll
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.seeding import uniform
from metalearn_cli.tasks.base import Support

Item = TypeVar("Item")


class Head(Enum):
    """Where the inner loop starts the rows of the last layer, one for each class."""

    learned = "learned"  # each at its own meta-learned one
    mean = "mean"  # all at the mean of them, so that labels can be permuted, and the way be any


class Slope(NamedTuple):
    """The loss of each task and its gradient in that task's own parameters."""

    loss: Tensor  # [T]
    gradient: Params  # [T, *shape]
    stats: Params  # the batch-norm statistics that were used


def require_head(head: Head, net: Net) -> None:
    """Raises UserError for head=mean where there are no classes, or no row for each."""
    if head is Head.mean and net.spec.kind != "classes":
        raise UserError("algo.head=mean is of classes, and this task has values: take algo.head=learned")
    if head is Head.mean and not net.class_rows:  # asked here, before a step is recorded
        raise UserError("algo.head=mean wants a last layer with a row for each class: take algo.head=learned")


def start(net: Net, head: Head, params: Params) -> Params:
    """Of what is kept for each parameter [*shape] (weights, rates, slots): where the inner loop starts."""
    if head is Head.learned:
        return params
    return {
        name: value.mean(0, keepdim=True).expand_as(value) if name in net.class_rows else value
        for name, value in params.items()
    }


def per_task(params: Params, tasks: int) -> Params:
    """[*shape] -> [T, *shape]: the same start for every task."""
    return {name: value.expand(tasks, *value.shape) for name, value in params.items()}


def slope(net: Net, params: Params, support: Support, names: list[str], second_order: bool) -> Slope:
    """The gradient of the mean loss on the support set in the parameters `names` [T, *shape].

    It can be differentiated once more where `second_order` is asked for; under no_grad it never can.
    """
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        if not recording:
            params = {name: value.detach().requires_grad_() for name, value in params.items()}
        out, stats = net(params, support.x, mask=support.mask)
        loss = task_loss(net.spec, out, support.y, support.mask, support.way)
        total = loss.sum()  # the tasks' gradients do not mix
    gradient = torch.autograd.grad(total, [params[name] for name in names], create_graph=recording and second_order)
    return Slope(loss.detach(), dict(zip(names, gradient, strict=True)), stats)


def gradient_descent(
    net: Net, params: Params, rates: Mapping[str, float | Tensor], support: Support, steps: int, second_order: bool
) -> Iterator[Params]:
    """phi_0, phi_1, ... phi_steps of every task, [T, *shape]: phi_{k+1} = phi_k - rate * grad L(phi_k, support).

    params [*shape] is phi_0. A rate is a number or one per weight [*shape]; parameters without a rate stay as they are.
    """
    step = _descent_step(net, list(params), rates, support, second_order)
    phi = per_task(params, len(support.key))
    state = (*phi.values(), *_learned(rates).values())
    yield phi
    for _ in range(steps):
        state = step(*state)
        yield dict(zip(params, state, strict=False))


def descend(
    net: Net,
    params: Params,
    rates: Mapping[str, float | Tensor],
    support: Support,
    steps: int,
    second_order: bool,
    remat: bool = False,
) -> Params:
    """phi_steps alone, in less memory: `remat` computes the steps again in the backward pass, the same numbers.

    First order, where no rate is learned: no step is kept, since the derivative in phi_0 is that of one sum.
    """
    phi = per_task(params, len(support.key))
    step = _descent_step(net, list(phi), rates, support, second_order)
    state = (*phi.values(), *_learned(rates).values())
    if second_order:
        return dict(zip(phi, unroll(step, state, steps, remat), strict=False))
    with torch.no_grad():
        end = dict(zip(phi, unroll(step, state, steps, remat=False), strict=True))
    return phi | {name: end[name] + (phi[name] - phi[name].detach()) for name in rates}


def _descent_step(
    net: Net, names: list[str], rates: Mapping[str, float | Tensor], support: Support, second_order: bool
) -> Callable[..., tuple[Tensor, ...]]:
    """From phi_k, in the order of `names`, and the learned rates to phi_{k+1} and the same rates.

    It holds no tensor of the unroll: what it makes would hold itself, and never be freed.
    """
    learned = list(_learned(rates))

    def step(*state: Tensor) -> tuple[Tensor, ...]:
        phi, own = dict(zip(names, state, strict=False)), state[len(names) :]
        rate = {**rates, **dict(zip(learned, own, strict=True))}
        gradient = slope(net, phi, support, list(rates), second_order).gradient
        phi |= {name: phi[name] - rate[name] * gradient[name] for name in rates}
        return (*phi.values(), *own)

    return step


def _learned(rates: Mapping[str, float | Tensor]) -> dict[str, Tensor]:
    return {name: rate for name, rate in rates.items() if isinstance(rate, Tensor)}


def last(items: Iterable[Item]) -> Item:
    """The last of them, without keeping the others."""
    return deque(items, maxlen=1).pop()


def minibatch(support: Support, size: int | None, step: int) -> Support:
    """The examples of inner step `step`, counted from 0: B = `size` of each task's; None: all of them, as they stand.

    Minibatches cycle through the support set without replacement, in an order that is drawn anew for every pass from
    the task's own key; one may end in the next pass, and one larger than the support set takes several.
    """
    if size is None:
        return support
    assert support.mask is None  # require_equal_sizes
    count = support.y.shape[1]
    first, last = step * size // count, ((step + 1) * size - 1) // count
    passes = [uniform(support.key, number, shape=(count,)).argsort(1) for number in range(first, last + 1)]
    start = step * size - first * count
    chosen = torch.cat(passes, 1)[:, start : start + size]  # [T, B]
    task = torch.arange(len(chosen), device=chosen.device)[:, None]
    return Support(support.x[task, chosen], support.y[task, chosen], support.key)


def flatten(params: Params) -> Tensor:
    """[T, *shape] of each parameter -> all coordinates of a task as one vector, [T, P]."""
    return torch.cat([value.reshape(len(value), -1) for value in params.values()], 1)


def unflatten(theta: Tensor, shapes: Mapping[str, torch.Size]) -> Params:
    """theta [T, P] -> [T, *shape] by name."""
    parts = torch.split(theta, [shape.numel() for shape in shapes.values()], 1)
    return {name: part.view(-1, *shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}


def log_sign(x: Tensor, p: float) -> Tensor:
    """Size and sign of numbers of any magnitude, as inputs of a network: x [...] -> [..., 2].

    (log|x| / p, sign x) where |x| >= e^-p, else (-1, e^p x): Andrychowicz et al. 2016, appendix A. The two meet at
    |x| = e^-p, so that each is one clamp, and log 0 is never taken.
    """
    return torch.stack([x.abs().clamp(min=math.exp(-p)).log() / p, (math.exp(p) * x).clamp(-1, 1)], -1)


def predict(
    net: Net,
    params: Params,
    buffers: Params,
    support: Support,
    query_x: Tensor,
    batch_norm: BatchNorm,
    query_mask: Tensor | None = None,
) -> Tensor:
    """query_x [T, Q, *input] -> out [T, Q, outputs] of networks adapted to this support."""
    if not net.init_stats():
        batch_norm = BatchNorm.transductive  # without batch norm all modes are one, and this is the cheapest
    match batch_norm:
        case BatchNorm.transductive:
            return net(params, query_x, mask=query_mask)[0]
        case BatchNorm.inductive:
            return net(params, query_x, net(params, support.x, mask=support.mask)[1])[0]
        case BatchNorm.running:
            return net(params, query_x, {name: buffers[name] for name in net.init_stats()})[0]
        case BatchNorm.one_query:
            alone = (torch.cat([support.x, query], 1) for query in torch.split(query_x, 1, dim=1))
            mask = None if support.mask is None else F.pad(support.mask, (0, 1), value=True)
            return torch.cat([net(params, x, mask=mask)[0][:, -1:] for x in alone], 1)
