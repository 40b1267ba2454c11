"""higher 0.2.1, as its examples/maml-omniglot.py has it; first order as its users do it."""

import higher
import torch

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("differentiates through inner optimizers, which this has not")
    net = nets.network(w, setting)
    params = list(net.parameters())
    optimizer, inner = torch.optim.Adam(params, 1e-3), torch.optim.SGD(params, lr=w.inner_lr)
    xs, ys, xq, yq = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(w.tasks):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False, track_higher_grads=not w.first_order) as (
                adapted,
                inner_optimizer,
            ):
                for _ in range(w.steps):
                    inner_optimizer.step(nets.loss(w, adapted(xs[task]), ys[task]))
                loss = nets.loss(w, adapted(xq[task]), yq[task]) / w.tasks
                if w.first_order:  # the graph ends at the adapted weights
                    for param, gradient in zip(params, torch.autograd.grad(loss, adapted.parameters()), strict=True):
                        param.grad = gradient if param.grad is None else param.grad + gradient
                else:
                    loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return nets.runner(step, params, setting)
