"""JAX: our own vmap and jit of the whole step. Option `im2col`: convolutions as patches and a product, not lax.conv.

Shapes: T tasks, B examples, C channels, O outputs; images are NHWC, as JAX likes them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks.speed import workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Array, Workload

Params = dict[str, Any]


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("was measured for MAML only")
    prepare(setting)
    convolve = _im2col if setting.option == "im2col" else _convolve

    def network(params: Params, x: Any) -> Any:
        if not w.size:
            for layer in ("layer1", "layer2"):
                x = jax.nn.relu(x @ params[f"{layer}.weight"] + params[f"{layer}.bias"])
        else:
            for block in range(1, 5):
                x = convolve(x, params[f"conv{block}.weight"])
                mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
                x = (x - mean) * lax.rsqrt(var + 1e-5) * params[f"norm{block}.weight"] + params[f"norm{block}.bias"]
                x = jax.nn.relu(x)
                x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            x = x.reshape(len(x), -1)
        return x @ params["head.weight"] + params["head.bias"]

    def loss(params: Params, x: Any, y: Any) -> Any:
        out = network(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean() if w.size else ((out - y) ** 2).mean()

    def task(params: Params, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        for _ in range(w.steps):
            gradient = jax.grad(loss)(params, xs, ys)
            if w.first_order:
                gradient = lax.stop_gradient(gradient)
            params = jax.tree.map(lambda p, g: p - w.inner_lr * g, params, gradient)
        return loss(params, xq, yq)

    def outer(params: Params, state: Any, batch: Any) -> tuple[Params, Any]:
        def mean(params: Params) -> Any:
            return jax.vmap(task, (None, 0, 0, 0, 0))(params, *batch).mean()

        updates, state = optimizer.update(jax.grad(mean)(params), state)
        return optax.apply_updates(params, updates), state

    optimizer = optax.adam(1e-3)
    params = {name: jnp.asarray(from_torch(w, v), dtype(setting)) for name, v in workloads.parameters(w).items()}
    held = [params, optimizer.init(params)]
    data, jitted = batch(w, setting), jax.jit(outer, donate_argnums=(0, 1))

    def step() -> None:
        held[:] = jitted(*held, data)

    def gradient() -> list[Array]:
        return [to_torch(w, moment) for moment in ordered(w, first_gradient(held[1]))]

    return Runner(step, lambda: jax.block_until_ready(held), gradient)


def _convolve(x: Any, weight: Any) -> Any:
    """x [B, H, W, C], weight [3, 3, C, O] -> [B, H, W, O]."""
    return lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _im2col(x: Any, weight: Any) -> Any:
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, -1) @ weight.reshape(-1, weight.shape[-1])


def prepare(setting: Setting) -> None:
    jax.config.update("jax_enable_x64", setting.double)
    jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU: no TF32, as for the others
    if setting.device == "cuda" and jax.default_backend() != "gpu":
        raise Unsupported("JAX sees no GPU here")


def dtype(setting: Setting) -> Any:
    return jnp.float64 if setting.double else jnp.float32


def batch(w: Workload, setting: Setting) -> tuple[Any, ...]:
    """support_x, support_y, query_x, query_y."""

    def array(value: Array) -> Any:
        if value.dtype == np.int64:
            return jnp.asarray(value, jnp.int32)
        return jnp.asarray(value.transpose(0, 1, 3, 4, 2) if w.size else value, dtype(setting))

    return tuple(array(part) for part in workloads.batch(w))


def from_torch(w: Workload, value: Any) -> Any:
    """Weights in torch's layout -> [3, 3, C, O] of a convolution, [inputs, O] of a layer, whose image is NHWC."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and w.size:
        side = w.size // 16
        return value.reshape(-1, w.width, side, side).transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value.T


def to_torch(w: Workload, value: Any) -> Any:
    found = np.asarray(value)
    if found.ndim == 4:
        return found.transpose(3, 2, 0, 1)
    if found.ndim == 2 and w.size:
        side = w.size // 16
        return found.reshape(side, side, w.width, -1).transpose(3, 2, 0, 1).reshape(found.shape[1], -1)
    return found.T


def ordered(w: Workload, params: Params) -> list[Any]:
    """JAX sorts a dictionary by name."""
    return [params[name] for name in workloads.parameters(w)]


def first_gradient(state: Any) -> Any:
    """Adam's first moment is a tenth of the gradient after the first step."""
    return jax.tree.map(lambda moment: moment * 10, state[0].mu)
