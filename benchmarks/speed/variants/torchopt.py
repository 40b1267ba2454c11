"""TorchOpt 0.7.3, as its examples/few-shot/maml_omniglot.py has it: the losses of all tasks, then one backward."""

import torch
import torchopt

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm != "maml":
        raise Unsupported("differentiates through inner optimizers, which this has not")
    if w.first_order:
        raise Unsupported("its differentiable optimizers have no first order")
    net = nets.network(w, setting)
    optimizer, inner = torch.optim.Adam(net.parameters(), 1e-3), torchopt.MetaSGD(net, lr=w.inner_lr)
    xs, ys, xq, yq = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        losses = []
        start, inner_start = (torchopt.extract_state_dict(part, by="reference") for part in (net, inner))
        for task in range(w.tasks):
            for _ in range(w.steps):
                inner.step(nets.loss(w, net(xs[task]), ys[task]))
            losses.append(nets.loss(w, net(xq[task]), yq[task]))
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(inner, inner_start)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return nets.runner(step, list(net.parameters()), setting)
