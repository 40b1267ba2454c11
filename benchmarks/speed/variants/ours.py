"""This program: Learner.step on a fixed batch, as `metalearn train` runs it.

Options, joined by +: tasks per chunk (without: all at once), and keys that are set to true, `compile`, `remat` ...
"""

import dataclasses
import time
from functools import partial
from typing import Any

import torch

from benchmarks.speed import nets, workloads
from benchmarks.speed.runner import Runner, Setting, Unsupported
from benchmarks.speed.workloads import Array, Workload
from metalearn_cli.algorithms.base import Algorithm
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.maml_plus_plus import MAMLPlusPlus
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.metaoptnet import MetaOptNet
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import AdamSlots, Reptile
from metalearn_cli.algorithms.ridge import Ridge
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.convolution import Convolution
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.system.device import set_denormals
from metalearn_cli.system.measure import synchronise
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical, SquaredError

RATE = 0.1  # of Reptile's outer step


def build(w: Workload, setting: Setting) -> Runner:
    torch.use_deterministic_algorithms(True)  # as the program's own default has it, and so the next
    set_denormals(are_zero=True)
    net = _net(w)
    if isinstance(net, Conv4) and setting.device == "cuda":  # by timing, as the program does when a run starts
        ways = [dataclasses.replace(net, convolution=way) for way in (Convolution.grouped, Convolution.product)]
        net = min(ways, key=partial(_seconds, w, setting))
    learner, batch = _learner(w, setting, net), _batch(w, setting)
    start = workloads.parameters(w)

    def step() -> None:
        learner.step(batch, 0)

    def gradient() -> list[Array]:
        """Of the first step: Adam's first moment is a tenth of it, and SGD goes along it."""
        state = {name: value.cpu().numpy() for name, value in learner.state_dict().items()}
        names = _names(w, learner).items()
        if w.algorithm == "reptile":
            return [(start[name] - state[f"params.{own}"]) / RATE for name, own in names]
        return [10 * state[f"optimizer.{own}.exp_avg"] for _, own in names]

    return Runner(step, partial(synchronise, learner.device), gradient)


def _learner(w: Workload, setting: Setting, net: Net) -> Learner:
    """With the weights of workloads.parameters."""
    algorithm, options = _algorithm(w), dict[str, Any]()
    for part in setting.option.split("+") if setting.option else []:
        if part.isdigit():
            options["tasks_per_chunk"] = int(part)
        elif part in Execution._fields:
            options[part] = True
        elif part in {field.name for field in dataclasses.fields(algorithm)}:  # type: ignore[arg-type]
            algorithm = dataclasses.replace(algorithm, **{part: True})  # type: ignore[type-var]
        else:
            raise Unsupported(f"this version of the program has no {part}=true")
    device, dtype = torch.device(setting.device), nets.dtype(setting)
    learner = Learner(algorithm, net, _optimizer(w), generator(0), Execution(device, dtype, **options))
    with torch.no_grad():
        for name, own in _names(w, learner).items():
            learner.meta.params[own].copy_(torch.from_numpy(workloads.parameters(w)[name]))
    return learner


def _names(w: Workload, learner: Learner) -> dict[str, str]:
    """The names in workloads.parameters -> the learner's; where they differ the order is the same."""
    values, own = workloads.parameters(w), learner.meta.params
    rest = (name for name in own if name not in values)
    return {name: name if name in own else next(rest) for name in values}


def _batch(w: Workload, setting: Setting) -> Batch:
    return Batch(*nets.batch(w, setting), key=torch.arange(w.tasks, device=setting.device))


def _seconds(w: Workload, setting: Setting, net: Net) -> float:
    """Of a step: the least of three, after one."""
    learner, batch, times = _learner(w, setting, net), _batch(w, setting), []
    for _ in range(4):
        synchronise(learner.device)
        began = time.perf_counter()
        learner.step(batch, 0)
        synchronise(learner.device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _net(w: Workload) -> Net:
    if not w.size:
        return MLP(Spec((1,), 1, 1, SquaredError()), hidden=(w.width, w.width))
    return Conv4(Spec((w.channels, w.size, w.size), w.way, w.way, Categorical()), filters=w.width)


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
        case "anil":
            return MAML(inner_lr=w.inner_lr, inner_steps=w.steps, adapted=AdaptedPart.head)
        case "maml_plus_plus":
            return MAMLPlusPlus(inner_lr=w.inner_lr, inner_steps=w.steps, test_steps=w.steps)
        case "proto_maml":
            return ProtoMAML(inner_lr=w.inner_lr, inner_steps=w.steps)
        case "r2d2":
            return Ridge(workloads.RIDGE_PENALTY, per_example=True)
        case "metaoptnet":
            return MetaOptNet(bound=workloads.SVM.bound, iterations=workloads.SVM.iterations)


def _optimizer(w: Workload) -> Optimizer:
    return Optimizer(method=Method.sgd, lr=RATE) if w.algorithm == "reptile" else Optimizer()
