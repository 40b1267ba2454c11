"""learn2learn 0.2.0, as examples/vision/maml_omniglot.py and anil_fc100.py there have it."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

from benchmarks.speed import nets
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload


class _Stub(MetaPathFinder, Loader):
    """Empty classes for what learn2learn imports at its start and MAML does not use."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in ("torchvision", "gsutil", "cherry", "qpth", "pytorch_lightning"):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = self._empty  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass

    def _empty(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


sys.meta_path.append(_Stub())  # last: what is installed is taken
import learn2learn  # noqa: E402


def build(w: Workload, setting: Setting) -> Runner:
    if w.algorithm == "anil":
        return _anil(w, setting)
    if w.algorithm != "maml":
        raise Unsupported("has no layer of its own for this: see the nn.Module loop")
    maml = learn2learn.algorithms.MAML(nets.network(w, setting), lr=w.inner_lr, first_order=w.first_order)
    optimizer = torch.optim.Adam(maml.parameters(), 1e-3)
    xs, ys, xq, yq = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(w.tasks):
            learner = maml.clone()
            for _ in range(w.steps):
                learner.adapt(nets.loss(w, learner(xs[task]), ys[task]))
            nets.loss(w, learner(xq[task]), yq[task]).backward()  # type: ignore[no-untyped-call]
        for param in maml.parameters():
            param.grad.data.mul_(1 / w.tasks)
        optimizer.step()

    return nets.runner(step, list(maml.parameters()), setting)


def _anil(w: Workload, setting: Setting) -> Runner:
    net = nets.network(w, setting)
    body, head = net[:-1], learn2learn.algorithms.MAML(net[-1], lr=w.inner_lr)
    params = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(params, 1e-3)
    xs, ys, xq, yq = nets.batch(w, setting)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(w.tasks):
            learner = head.clone()
            support, query = body(xs[task]), body(xq[task])
            for _ in range(w.steps):
                learner.adapt(nets.loss(w, learner(support), ys[task]))
            nets.loss(w, learner(query), yq[task]).backward()  # type: ignore[no-untyped-call]
        for param in params:
            param.grad.data.mul_(1 / w.tasks)
        optimizer.step()

    return nets.runner(step, params, setting)
