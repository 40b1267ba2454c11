"""A linear model; images are flattened. Without bias it is theta of the quadratics, with bias a logistic regression."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.nets.base import PLAIN, Call, Forward, Params
from metalearn_cli.nets.layers import LinearHead, init_linear
from metalearn_cli.tasks.base import Spec


@dataclass(frozen=True)
class Linear(LinearHead):
    spec: Spec
    bias: bool = False

    def init(self, rng: torch.Generator) -> Params:
        weight, bias = init_linear(math.prod(self.spec.input_shape), self.spec.outputs, None, rng)
        return {"head.weight": weight} | ({"head.bias": bias} if self.bias else {})

    def init_stats(self) -> Params:
        return {}

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        return x.flatten(2), {}
