"""A multi-layer perceptron; images are flattened.

MAML's sinusoid network is hidden=[40,40], its network for Omniglot "without convolutions" hidden=[256,128,64,64],
batch_norm=true, gamma=false; both with init_std=0.01 in the authors' code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import torch
from torch import Tensor

from metalearn_cli.nets.base import CONTEXT, PLAIN, Call, Forward, Params
from metalearn_cli.nets.layers import LinearHead, batch_norm, init_linear, linear, to_tasks
from metalearn_cli.system.limits import Limit, Natural, Positive
from metalearn_cli.tasks.base import Spec


class Activation(Enum):
    relu = "relu"
    tanh = "tanh"
    sigmoid = "sigmoid"

    def __call__(self, x: Tensor) -> Tensor:
        function: Callable[[Tensor], Tensor] = getattr(torch, self.value)
        return function(x)


Widths = Annotated[
    tuple[int, ...],
    Limit(
        "a list of the widths of one layer or more, each 1 or above, e.g. [40,40]",
        lambda widths: min(widths, default=0) >= 1,
    ),
]


@dataclass(frozen=True)
class MLP(LinearHead):
    spec: Spec
    hidden: Widths = (40, 40)
    activation: Activation = Activation.relu
    batch_norm: bool = False  # after each hidden layer, before its activation
    gamma: bool = True  # batch norm learns a scale; the original MAML does not
    context: Natural = 0  # inputs that a task sets, beside those of an example
    init_std: Positive | None = None  # of normal weights, cut at two of them, with zero biases; null: torch's default

    def init(self, rng: torch.Generator) -> Params:
        params: Params = {}
        inputs = math.prod(self.spec.input_shape) + self.context
        for layer, width in enumerate(self.hidden, 1):
            params[f"layer{layer}.weight"], bias = init_linear(inputs, width, self.init_std, rng)
            if self.batch_norm:  # which would subtract a bias before it
                params |= {f"norm{layer}.weight": torch.ones(width)} if self.gamma else {}
                params[f"norm{layer}.bias"] = torch.zeros(width)
            else:
                params[f"layer{layer}.bias"] = bias
            inputs = width
        params["head.weight"], params["head.bias"] = init_linear(inputs, self.spec.outputs, self.init_std, rng)
        return params | ({CONTEXT: torch.zeros(self.context)} if self.context else {})

    def init_stats(self) -> Params:
        stats: Params = {}
        if self.batch_norm:
            for layer, width in enumerate(self.hidden, 1):
                stats[f"norm{layer}.mean"], stats[f"norm{layer}.var"] = torch.zeros(width), torch.ones(width)
        return stats

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        x = x.flatten(2)
        if self.context:
            x = torch.cat([x, to_tasks(params[CONTEXT], len(x)).unsqueeze(1).expand(-1, x.shape[1], -1)], 2)
        used: Params = {}
        for layer in range(1, len(self.hidden) + 1):
            x = linear(params, f"layer{layer}", x)
            if self.batch_norm:
                x, layer_stats = batch_norm(params, f"norm{layer}", x, len(x), call.stats, call.mask)
                used |= layer_stats
            x = self.activation(x)
        return x, used
