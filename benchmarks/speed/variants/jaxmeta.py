"""jax-meta 1.0.3: its MAML on its own Conv4, or on haiku's MLP; second order only."""

from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax_meta.metalearners import MAML
from jax_meta.modules.conv import Conv4

from benchmarks.speed import workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.variants import jax_jit
from benchmarks.speed.workloads import Array, Workload


class _Examples(NamedTuple):
    inputs: Any
    targets: Any


class _Regression(MAML):  # type: ignore[misc]
    def loss(self, params: Any, state: Any, inputs: Any, targets: Any, args: Any) -> Any:
        out, state = self.model.apply(params, state, inputs, *args)
        loss = jnp.mean((out - targets) ** 2)
        return loss, (state, {"loss": loss})


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("was measured for MAML only")
    if w.first_order:
        raise Unsupported("its MAML has no first order")
    jax_jit.prepare(setting)

    def network(x: Any, training: bool) -> Any:
        if not w.size:
            return hk.nets.MLP([w.width, w.width, 1])(x)
        return hk.Linear(w.way)(Conv4(w.width)(x, training))

    model = hk.without_apply_rng(hk.transform_with_state(network))
    learner = (MAML if w.size else _Regression)(model, w.steps, w.inner_lr)
    data = jax_jit.batch(w, setting)
    support, query = _Examples(*data[:2]), _Examples(*data[2:])
    params, state = learner.init(jax.random.PRNGKey(0), optax.adam(1e-3), data[0][0], True)
    values = workloads.parameters(w)
    for module, own in params.items():
        for name, initial in own.items():
            ours = _name(module, name)
            value = jax_jit.from_torch(w, values[ours]) if ours in values else np.zeros(initial.shape)
            own[name] = jnp.asarray(value.reshape(initial.shape), jax_jit.dtype(setting))
    state = state._replace(
        model=jax.tree.map(lambda value: value.astype(jax_jit.dtype(setting)), state.model),
        optimizer=learner.optimizer.init(params),
    )
    held = [params, state]

    def step() -> None:
        held[:] = learner.step(*held, support, query, True)[:2]

    def gradient() -> list[Array]:
        moments = jax_jit.first_gradient(held[1].optimizer)
        by_name = {_name(module, name): value for module, own in moments.items() for name, value in own.items()}
        shapes = {name: value.shape for name, value in values.items()}
        return [jax_jit.to_torch(w, by_name[name]).reshape(shape) for name, shape in shapes.items()]

    return Runner(step, lambda: jax.block_until_ready(held), gradient)


def _name(module: str, name: str) -> str:
    """Haiku's name -> that in workloads.parameters; its convolutions have a bias, which is in none."""
    *_, parent, layer = f"/{module}".split("/")
    if parent.startswith("layer"):
        kind = {"w": "weight", "scale": "weight", "b": "bias", "offset": "bias"}[name]
        return f"{layer}{parent.removeprefix('layer')}.{kind}"
    kind = {"w": "weight", "b": "bias"}[name]
    return {"linear_0": "layer1", "linear_1": "layer2"}.get(layer, "head") + f".{kind}"
