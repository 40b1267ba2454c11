"""Less memory for more time: forget what a step computed, and compute it again when its derivative is needed.

An unroll of K steps keeps what each of them computed for the backward pass. Rematerialised, it keeps states only, and
the backward pass runs each step once more: for K states the memory of one step. Many steps are cut into segments of
about the square root of K. Of those the first states are kept, and the backward pass makes the states within a segment
when it comes to it: 2 * sqrt(K) states in all, and each step is run once more. The numbers are the same bits.
(torch.utils.checkpoint would run a step twice more, since it takes a gradient itself.)
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from metalearn_cli.system.tensor_tree import take_tensors

State = TypeVar("State")  # a tree (tuples, lists, dicts) of tensors and numbers

AT_MOST = 32  # steps whose states are all kept: with networks for images they weigh less than what one step computes

Context = Any  # torch's own, which takes any attribute


def unroll(step: Callable[[State], State], state: State, steps: int, remat: bool) -> State:
    """`state` after `steps` times state = step(state). Rematerialised: differentiable once, and only in `state`.

    Whatever gets a gradient belongs to the state, also what no step changes: its gradient is then summed step by step,
    in the order of an unroll that keeps everything.
    """
    if not remat:
        for _ in range(steps):
            state = step(state)
        return state
    light_step = partial(rematerialise, step)
    if steps <= AT_MOST:
        return unroll(light_step, state, steps, remat=False)
    length = math.ceil(math.sqrt(steps))
    for begin in range(0, steps, length):
        segment = partial(unroll, light_step, steps=min(length, steps - begin), remat=False)
        state = rematerialise(segment, state)
    return state


def rematerialise(step: Callable[[State], State], state: State) -> State:
    """step(state), differentiable once in the tensors of `state`; other tensors that `step` uses get no gradient."""
    tensors, put = take_tensors(state)
    puts: list[Callable[[Iterable[Tensor]], State]] = []  # into the state after the step, whose numbers may be others

    def on_tensors(*inputs: Tensor) -> tuple[Tensor, ...]:  # holds no tensor, which would never be freed
        outputs, put_after = take_tensors(step(put(inputs)))
        puts.append(put_after)
        return tuple(outputs)

    outputs = _Rematerialised.apply(on_tensors, *tensors)
    return puts[0](outputs)


class _Rematerialised(Function):
    @staticmethod
    def forward(ctx: Context, step: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.step = step
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        return step(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            saved = zip(ctx.saved_tensors, needed, strict=True)
            inputs = [value.detach().requires_grad_(needs) for value, needs in saved]
            outputs = ctx.step(*inputs)
        leaves = [value for value in inputs if value.requires_grad]
        # An output without a gradient is left out: zeros in its place would be computed with.
        used = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients, strict=True)
            if gradient is not None and output.requires_grad
        ]
        ends, their_gradients = zip(*used, strict=True)
        of_leaves = iter(torch.autograd.grad(ends, leaves, their_gradients, allow_unused=True))
        return None, *(next(of_leaves) if needs else None for needs in needed)
