"""The common part of algorithms that read the support set as a whole: a network over sets, or over sequences, behind
the features of `model` (with model=identity the inputs themselves).

Shapes: T tasks, S support and Q query examples, F features.
"""

import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Meta
from metalearn_cli.algorithms.features import feature_size
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.set_net import Context, ContextNet
from metalearn_cli.tasks.base import Support
from metalearn_cli.tasks.likelihood import Gaussian


def init_sets(net: Net, over: ContextNet, rng: torch.Generator) -> Meta:
    """The parameters of `model` without its head, and of the network behind it. Raises UserError for classes."""
    if net.spec.kind != "values":
        raise UserError("this algorithm predicts values, and this task has classes: take task=gaussian_process")
    return init_behind(net, over, rng)


def init_behind(net: Net, over: ContextNet, rng: torch.Generator) -> Meta:
    """The parameters of `model` without its head, and of the network that reads its features."""
    body = {name: value for name, value in net.init(rng).items() if not name.startswith("head.")}
    return Meta(body | over.init(feature_size(net, body), rng), net.init_stats())


def require_density(net: Net, key: str) -> None:
    """Raises UserError where outputs are values alone, and what `key` says needs their density."""
    if net.spec.kind == "values" and not isinstance(net.spec.likelihood, Gaussian):
        raise UserError(f"{key} needs a density: give task.likelihood=gaussian, or take task=gaussian_process")


def context_of(support: Support, features: Tensor) -> Context:
    """The support set with these features [T, S, F] for its examples."""
    return Context(features, support.y, support.mask)
