"""What is measured: one fixed batch of random data for each workload, and the work of one outer step.

Shapes: T tasks, S support and Q query examples of a task, C channels, O outputs.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64] | NDArray[np.int64]
GATES = {"forget.bias": 4.5, "input.bias": -4.5}  # of the Meta-LSTM: open to what was learned, nearly closed else


Kind = Literal["maml", "protonet", "reptile", "meta_lstm", "anil", "maml_plus_plus", "proto_maml", "r2d2", "metaoptnet"]
RIDGE_PENALTY = 50.0  # of R2-D2, for each support example


class SVM:
    """Of MetaOptNet, in training."""

    bound, iterations = 0.1, 15


@dataclass(frozen=True)
class Workload:
    """A task with images goes through Conv4, one without (size 0: sinusoids) through an MLP with two hidden layers."""

    name: str
    title: str
    tasks: int
    way: int
    shot: int
    query: int  # per class
    steps: int = 1
    inner_lr: float = 0.01
    size: int = 0  # of an image; 0: sinusoids
    channels: int = 1
    width: int = 40  # hidden units, or filters
    first_order: bool = False
    algorithm: Kind = "maml"
    hidden: int = 20  # of the Meta-LSTM

    @property
    def has_head(self) -> bool:
        """Whether a linear layer of its own ends the network."""
        return self.algorithm not in ("protonet", "proto_maml", "r2d2", "metaoptnet")

    @property
    def support(self) -> int:
        return self.way * self.shot

    @property
    def queries(self) -> int:
        return self.way * self.query

    @property
    def outputs(self) -> int:
        return self.way if self.size else 1

    def small(self) -> "Workload":
        """The same in little, for checks in float64: images of odd size on their way down, and four pixels at last."""
        way = min(self.way, 5)
        small = replace(self, tasks=min(self.tasks, 3), way=way, query=min(self.query, 3), steps=min(self.steps, 2))
        return replace(small, size=36, width=8, shot=min(self.shot, 2), hidden=5) if self.size else small


W4 = "ProtoNet, Omniglot 60-way 5-shot 5 queries, Conv4-64"
W5_R = "Reptile, miniImageNet, Conv4-32, 5 tasks, 5 inner Adam steps on 10 images"
W5_L = "Meta-LSTM, miniImageNet 5-way 1-shot, Conv4-32, 8 steps"
OMNIGLOT = Workload("W2", "MAML, Omniglot 5-way 1-shot, Conv4-64, 32 tasks, 1 step", 32, 5, 1, 15, 1, 0.4, 28, 1, 64)
MINI = Workload("W3", "MAML, miniImageNet 5-way 1-shot, Conv4-32, 4 tasks, 5 steps", 4, 5, 1, 15, 5, 0.01, 84, 3, 32)
CIFAR = Workload("CIFAR", "CIFAR-FS 5-way 5-shot, Conv4-64, 4 tasks", 4, 5, 5, 6, 0, 0.01, 32, 3, 64)
CIFAR1 = Workload("CIFAR1", "CIFAR-FS 5-way 1-shot, Conv4-32, 4 tasks, 5 steps", 4, 5, 1, 15, 5, 0.01, 32, 3, 32)
WORKLOADS = [
    Workload("W1", "MAML, sinusoid, MLP 1-40-40-1, 10-shot, 25 tasks, 1 step", 25, 1, 10, 10),
    OMNIGLOT,
    Workload("W2b", "MAML, Omniglot 20-way 1-shot, Conv4-64, 16 tasks, 5 steps", 16, 20, 1, 15, 5, 0.1, 28, 1, 64),
    MINI,
    replace(MINI, name="W3-FO", title="W3, first order", first_order=True),
    replace(MINI, name="W3-5", title="W3, 5-shot", shot=5),
    replace(OMNIGLOT, name="W4", title=W4, tasks=1, way=60, shot=5, query=5, steps=0, algorithm="protonet"),
    replace(MINI, name="W5-R", title=W5_R, tasks=5, shot=2, query=1, inner_lr=0.001, algorithm="reptile"),
    replace(MINI, name="W5-L", title=W5_L, tasks=1, steps=8, algorithm="meta_lstm"),
    replace(CIFAR, name="W6-R", title=f"R2-D2, {CIFAR.title}", algorithm="r2d2"),
    replace(CIFAR, name="W6-S", title=f"MetaOptNet's SVM, {CIFAR.title}", algorithm="metaoptnet"),
    replace(CIFAR1, name="W7-A", title=f"ANIL, {CIFAR1.title}", algorithm="anil"),
    replace(CIFAR1, name="W7-M", title=f"MAML++, {CIFAR1.title}", algorithm="maml_plus_plus"),
    replace(CIFAR1, name="W7-P", title=f"Proto-MAML, {CIFAR1.title}", algorithm="proto_maml"),
]


class Batch(NamedTuple):
    support_x: Array  # [T, S, C, H, W], or [T, S, 1]
    support_y: Array  # [T, S] int64, or [T, S, 1]
    query_x: Array
    query_y: Array


def batch(w: Workload) -> Batch:
    """Random images with balanced labels, or points of random sinusoids."""
    rng = np.random.default_rng(0)
    if w.size:
        images = [rng.random((w.tasks, count, w.channels, w.size, w.size)) for count in (w.support, w.queries)]
        labels = [np.tile(np.repeat(np.arange(w.way), each), (w.tasks, 1)) for each in (w.shot, w.query)]
        return Batch(images[0], labels[0], images[1], labels[1])
    amplitude, phase = rng.uniform(0.1, 5, (w.tasks, 1, 1)), rng.uniform(0, math.pi, (w.tasks, 1, 1))
    xs = [rng.uniform(-5, 5, (w.tasks, count, 1)) for count in (w.support, w.queries)]
    support, query = ((x, amplitude * np.sin(x - phase)) for x in xs)
    return Batch(*support, *query)


def parameters(w: Workload) -> dict[str, Array]:
    """Random weights in torch's layout and in the order of the layers; gamma and beta are not trivial.

    Those of the Meta-LSTM follow, under `lstm.`, `forget.` and `input.`; a ProtoNet has no head.
    """
    rng = np.random.default_rng(1)
    params: dict[str, Array] = {}
    if w.size:
        channels = w.channels
        for block in range(1, 5):
            params[f"conv{block}.weight"] = rng.normal(0, 1 / math.sqrt(9 * channels), (w.width, channels, 3, 3))
            params[f"norm{block}.weight"] = rng.normal(1, 0.3, w.width)
            params[f"norm{block}.bias"] = rng.normal(0, 0.3, w.width)
            channels = w.width
        layers = [("head", w.width * (w.size // 16) ** 2, w.outputs)] * w.has_head
    else:
        layers = [("layer1", 1, w.width), ("layer2", w.width, w.width), ("head", w.width, 1)]
    for name, inputs, outputs in layers:
        params[f"{name}.weight"] = rng.normal(0, 1 / math.sqrt(inputs), (outputs, inputs))
        params[f"{name}.bias"] = rng.normal(0, 0.1, outputs)
    if w.algorithm == "meta_lstm":
        shapes: dict[str, tuple[int, ...]] = {
            "lstm.weight_ih": (4 * w.hidden, 4),
            "lstm.weight_hh": (4 * w.hidden, w.hidden),
        }
        shapes |= {"lstm.bias": (4 * w.hidden,), "forget.weight": (1, w.hidden + 2), "forget.bias": (1,)}
        shapes |= {"input.weight": (1, w.hidden + 2), "input.bias": (1,)}
        params |= {name: rng.normal(GATES.get(name, 0), 0.1, shape) for name, shape in shapes.items()}
    if w.algorithm == "maml_plus_plus":
        norms = {name: params.pop(name) for name in list(params) if name.startswith("norm")}
        params |= {f"rate:{name}": rng.normal(w.inner_lr, w.inner_lr / 10, w.steps) for name in list(params)}
        params |= {name: value + rng.normal(0, 0.1, (w.steps + 1, len(value))) for name, value in norms.items()}
    scales: dict[str, dict[str, Array]] = {"r2d2": {"ridge:scale": np.array(10.0)}}
    scales["metaoptnet"] = {"metaoptnet:scale": np.array(1.0)}
    return params | scales.get(w.algorithm, {})


SGEMM_SIDE, SGEMM_PRODUCTS = 2048, 4  # what a step of the variant `sgemm` is
SGEMM = 2.0 * SGEMM_PRODUCTS * SGEMM_SIDE**3  # its floating-point operations


def work(w: Workload) -> float:
    """Floating-point operations of the exact outer step, of the products only: a product and a sum count as two.

    In units of one layer's forward: a gradient costs 2 more (1 in the first layer, whose input needs none), and
    differentiating through a support gradient 6 more (2 in the first layer: 4 in all).
    """
    if w.size:
        side, channels, layers = w.size, w.channels, []
        for _ in range(4):
            layers.append(side * side * 9 * channels * w.width)
            channels, side = w.width, side // 2
        if w.has_head:
            layers.append(w.width * side * side * w.outputs)
    else:
        layers = [w.width, w.width * w.width, w.width]
    first, rest = layers[0], sum(layers[1:])
    gradient = 2 * first + 3 * rest
    if w.algorithm in ("protonet", "anil", "r2d2", "metaoptnet"):
        return 2 * w.tasks * (w.support + w.queries) * gradient
    if w.algorithm == "reptile":
        return 2 * w.tasks * w.steps * w.support * gradient
    if w.algorithm == "meta_lstm":
        coordinates = sum(value.size for name, value in parameters(w).items() if name[:4] in ("conv", "norm", "head"))
        cell = 4 * w.hidden * (4 + w.hidden) + 2 * (w.hidden + 2)
        return 2 * w.tasks * ((w.steps * w.support + w.queries) * gradient + w.steps * coordinates * 3 * cell)
    support = gradient if w.first_order else 4 * first + 9 * rest
    if w.algorithm == "maml_plus_plus":
        return 2 * w.tasks * w.steps * (w.support * support + w.queries * gradient)
    if w.algorithm == "proto_maml":  # and the prototypes, and the moments at last
        return 2 * w.tasks * (w.support * (w.steps * support + 2 * gradient) + w.queries * gradient)
    return 2 * w.tasks * (w.steps * w.support * support + w.queries * gradient)
