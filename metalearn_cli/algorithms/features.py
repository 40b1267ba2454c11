"""Features that are compared: what is done to them first, and which belong to which class.

Shapes: T tasks, S support examples, Q query examples, B of either, F features.
"""

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.tasks.base import Support

BASE_MEAN = "base:mean"  # the name of the buffer [F] of centre=base


class Normalise(Enum):
    none = "none"
    l2 = "l2"  # each feature vector is divided by its length


class Centre(Enum):
    """What is subtracted from each feature vector before it is normalised."""

    none = "none"
    base = "base"  # the mean feature of the training classes, an average over the last steps

    def buffers(self, net: Net, params: Params) -> Params:
        """The mean before training. Raises UserError where there are no training classes to take it of."""
        if self is Centre.none:
            return {}
        if net.spec.base is None:
            raise UserError(
                "algo.centre=base is the mean feature of all training classes, and here classes are not the same from "
                "task to task: take task=omniglot, or algo.centre=none"
            )
        return {BASE_MEAN: torch.zeros(feature_size(net, params))}


def feature_size(net: Net, params: Params) -> int:
    """F of this network with these shared parameters."""
    example = torch.zeros(1, 1, *net.spec.input_shape)
    return net.features(params, example, Call(stats=net.init_stats()))[0].shape[-1]


def members(support: Support, way: int) -> Tensor:
    """Which support example belongs to which class, [T, S, way] bool; an example that is not real belongs to none.

    `way` is an argument, and not taken from the labels: looking at them would make a GPU wait.
    """
    member = support.y.unsqueeze(-1) == torch.arange(way, device=support.y.device)
    return member if support.mask is None else member & support.mask.unsqueeze(-1)


def prepared(features: Tensor, normalise: Normalise, centre: Tensor | None = None) -> Tensor:
    """Features [T, B, F] without their centre [F], and then of length 1 where that is asked for."""
    features = features if centre is None else features - centre
    return features if normalise is Normalise.none else F.normalize(features, dim=-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """||a_i - b_j||^2: a [T, Q, F], b [T, N, F] -> [T, Q, N].

    By differences, not by the expansion a^2 - 2ab + b^2, which loses half the digits where the two are close.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(-1)
