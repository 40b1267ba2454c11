"""This program: Learner.step on a fixed batch, as `metalearn train` runs it. Option: tasks per chunk, or `compile`."""

import inspect
from typing import Any

import torch

from benchmarks.speed import nets, workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Workload
from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import AdamSlots, Reptile
from metalearn_cli.learner import Learner
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Spec


def build(w: Workload, setting: Setting) -> Runner:
    options: dict[str, Any] = {}
    if setting.option == "compile":
        # The only place to change where the learner's own way to ask for it is another.
        if "compile" not in inspect.signature(Learner).parameters:
            raise Unsupported("this version of the program has no compile=true")
        options["compile"] = True
    elif setting.option:
        options["tasks_per_chunk"] = int(setting.option)
    torch.use_deterministic_algorithms(True)  # as the program's own default has it
    device = torch.device(setting.device)
    learner = Learner(
        _algorithm(w), _net(w), _optimizer(w), generator(0), device=device, dtype=nets.dtype(setting), **options
    )
    values, own = workloads.parameters(w), learner.meta.params
    rest = (param for name, param in own.items() if name not in values)  # by another name, in the same order
    params = [own[name] if name in own else next(rest) for name in values]
    with torch.no_grad():
        for param, value in zip(params, values.values(), strict=True):
            param.copy_(torch.from_numpy(value))
    batch = Batch(*nets.batch(w, setting), key=torch.arange(w.tasks, device=device))
    return nets.runner(lambda: _step(learner, batch), params, setting)


def _step(learner: Learner, batch: Batch) -> None:
    learner.step(batch, 0)


def _net(w: Workload) -> Net:
    if not w.size:
        return MLP(Spec((1,), 1, 1, "values"), hidden=(w.width, w.width))
    return Conv4(Spec((w.channels, w.size, w.size), w.way, w.way, "classes"), filters=w.width)


def _algorithm(w: Workload) -> Algorithm:
    match w.algorithm:
        case "maml":
            return MAML(inner_lr=w.inner_lr, inner_steps=w.steps, first_order=w.first_order)
        case "protonet":
            return ProtoNet()
        case "reptile":
            # Each task's Adam starts afresh, as in the loop that it is compared with.
            return Reptile(inner_lr=w.inner_lr, inner_steps=w.steps, adam_slots=AdamSlots.reset)
        case "meta_lstm":
            return MetaLSTM(inner_steps=w.steps, hidden=w.hidden)


def _optimizer(w: Workload) -> Optimizer:
    return Optimizer(method=Method.sgd, lr=0.1) if w.algorithm == "reptile" else Optimizer()
