"""A function of tensors as native code: recorded as torch's operations, which TorchInductor compiles. make_fx records
it, since torch.compile does not take torch.autograd.grad at second order (torch 2.13): one way through the function, in
which a number of Python's is a constant, and which does not depend on a tensor's value."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from metalearn_cli.errors import UserError
from metalearn_cli.system.tensor_tree import Tree, take_tensors

aten = torch.ops.aten


def require_compiler(device: torch.device) -> None:
    """Raises UserError where nothing can be compiled here."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if device.type != "cpu":
        raise UserError(f"compile=true is for the CPU, and this run is on {device}: leave it out, or give device=cpu")
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        named = os.environ.get("CXX", "g++")
        remedy = "install it, name another in the environment variable CXX, or give compile=false"
        raise UserError(f"compile=true needs a C++ compiler, and {named} is not here: {remedy}") from None


@contextlib.contextmanager
def unchanged(state: Tree) -> Iterator[None]:
    """Put the tensors of this tree back to what they were, whatever happens to them within."""
    tensors = tree_leaves(state)
    kept = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, before in zip(tensors, kept, strict=True):
            tensor.copy_(before)


class Compiled:
    """`function(state, batch, carry, *numbers) -> carry` as native code, which changes `state` in place as it does.
    `state` and `carry` are trees of tensors, `carry` also of other values. Each shape of a batch, and each shape and
    other value of a carry, has native code of its own."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._state: Tree = None
        self._native: dict[Any, Callable[..., Tree]] = {}

    def __call__(self, state: Tree, batch: tuple[Tensor | None, ...], carry: Tree, *numbers: Tensor) -> Tree:
        if state is not self._state:
            self._state, self._fixed, self._native = state, tree_leaves(state), {}
        leaves = tree_leaves(carry)
        carried = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        tensors = [tensor for tensor in batch if tensor is not None]
        key = (
            *(tensor is None for tensor in batch),
            *((tensor.shape, tensor.stride()) for tensor in (*tensors, *carried)),
            *(leaf for leaf in leaves if not isinstance(leaf, Tensor)),
        )
        if key not in self._native:
            with unchanged(state):  # recording runs the function
                self._native[key] = _compile(self._function, (state, batch, carry, *numbers))
        return self._native[key](*self._fixed, *tensors, *carried, *numbers)


def _compile(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Tree]:
    """The function as native code, of the tensors in its arguments."""
    inputs, put = take_tensors(arguments)
    returned: list[Callable[..., Tree]] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        outputs, put_outputs = take_tensors(function(*put(tensors)))
        returned.append(put_outputs)
        return tuple(outputs)

    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())  # the compiler is told so as well
    try:
        recorded = make_fx(flat, decomposition_table=_PLAIN)(*inputs)
        for node in recorded.graph.nodes:
            node.meta.clear()  # what make_fx noted of each tensor, which inductor finds again
        # The whole call in C++, where the steps between the kernels cost as much as the kernels; one thread compiles,
        # since it is one file; and the number of threads that it will run with, which decides the bits.
        options = {"cpp_wrapper": True, "compile_threads": 1, "cpp.threads": torch.get_num_threads()}
        with torch.no_grad():
            run: Any = torch._inductor.compile(recorded, [*inputs], options=options)
    except UserError:
        raise
    except Exception as error:  # whatever a function may do that cannot be recorded or compiled
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"this step cannot be compiled ({reason[:300]}): give compile=false") from error
    return lambda *tensors: returned[-1](run(*tensors))


# What follows says in plain operations what inductor does not know (the fused optimizers), and how a small matrix
# product is fast: make_fx records these in place of the operations that they are named by.


def _adam(*lists: list[Tensor], decoupled: bool = False, **settings: Any) -> None:
    """torch._fused_adam_; its steps count this one already."""
    params, gradients, first, second, _, steps = lists
    lr, beta1, beta2 = settings["lr"], settings["beta1"], settings["beta2"]
    weight_decay, goes_on = settings["weight_decay"], settings["found_inf"] == 0
    for param, gradient, m, v, step in zip(params, gradients, first, second, steps, strict=True):
        number = step.double()  # its powers need all digits
        decayed = param * (1 - lr * weight_decay) if decoupled else param
        gradient = gradient if decoupled or not weight_decay else gradient + weight_decay * param
        m_new, v_new = m.lerp(gradient, 1 - beta1), beta2 * v + (1 - beta2) * gradient.square()
        root = v_new.sqrt() / (1 - beta2**number).sqrt() + settings["eps"]
        _set(goes_on, (param, decayed - lr / (1 - beta1**number) * m_new / root), (m, m_new), (v, v_new))


def _sgd(*lists: list[Tensor], **settings: Any) -> None:
    """torch._fused_sgd_, after a first step (momentum that starts at 0 needs none)."""
    params, gradients, momenta = lists
    weight_decay, momentum, goes_on = settings["weight_decay"], settings["momentum"], settings["found_inf"] == 0
    for i, (param, gradient) in enumerate(zip(params, gradients, strict=True)):
        gradient = gradient + weight_decay * param if weight_decay else gradient
        if momentum:
            moving = momentum * momenta[i] + (1 - settings["dampening"]) * gradient
            _set(goes_on, (momenta[i], moving))
            gradient = gradient + momentum * moving if settings["nesterov"] else moving
        _set(goes_on, (param, param - settings["lr"] * gradient))


def _set(goes_on: Tensor, *pairs: tuple[Tensor, Tensor]) -> None:
    for old, new in pairs:
        old.copy_(torch.where(goes_on, new, old))


def _bmm(a: Tensor, b: Tensor) -> Any:
    """a [T, I, J] @ b [T, J, K]: where K < I its transposed is several times faster, and J = 1 is no product at all."""
    if a.shape[2] == 1:
        return a * b
    if b.shape[2] < a.shape[1]:
        return aten.bmm.default(b.mT, a.mT).mT
    return NotImplemented  # as it is


def _baddbmm(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Add the sum by itself, so that it becomes one kernel with what follows."""
    return c + torch.bmm(a, b) if (beta, alpha) == (1, 1) else beta * c + alpha * torch.bmm(a, b)


def _foreach_norm(parts: list[Tensor], order: float = 2, dtype: torch.dtype | None = None) -> list[Tensor]:
    return [torch.linalg.vector_norm(part, order, dtype=dtype) for part in parts]


def _batch_norm_stats(x: Tensor, *running: Any) -> tuple[Tensor, Tensor]:
    """aten.batch_norm_update_stats without running averages."""
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    return mean, var


_PLAIN: dict[Any, Callable[..., Any]] = {
    aten._fused_adam_.tensor_lr: _adam,
    aten._fused_adamw_.tensor_lr: functools.partial(_adam, decoupled=True),
    aten._fused_sgd_.tensor_lr: _sgd,
    aten._foreach_norm.Scalar: _foreach_norm,
    aten.batch_norm_update_stats.default: _batch_norm_stats,
    aten.bmm.default: _bmm,
    aten.baddbmm.default: _baddbmm,
}
