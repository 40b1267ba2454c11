"""What a network may offer besides what every network has, and what holds for one that does not.

A class offers something by having the member, and inherits nothing for it. It is asked for by the functions here.

Shapes: T tasks, B examples per task, C channels of an H x W image.
"""

from typing import Protocol, TypeGuard

from torch import Tensor, nn

from metalearn_cli.backbones.base import Backbone
from metalearn_cli.errors import UserError
from metalearn_cli.nets.as_module import NetModule
from metalearn_cli.nets.base import CONTEXT, PLAIN, Call, Forward, Net, Params
from metalearn_cli.nets.convolution import Convolution


class Offers(Protocol):
    """Each on its own."""

    def maps(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        """x [T, B, *input] -> the last images [T, B, C, H, W], of which features are made, and the statistics used."""

    def variants(self) -> dict[Convolution, Net]: ...
    def as_module(self, params: Params, stats: Params) -> nn.Module: ...

    @property
    def backbone(self) -> Backbone:
        """The network with weights that it is made of."""


def offers(net: Net, member: str) -> TypeGuard[Offers]:
    """Whether the class has this member of Offers."""
    return hasattr(type(net), member)


def require_maps(net: Net, by: str) -> Offers:
    """The network, whose `maps` are there. Raises UserError where they are not; `by` is the key that asks for them."""
    if offers(net, "maps"):
        return net
    raise UserError(f"{by} needs images of features, and this model has none: take model=conv4 or model=resnet12")


def require_context(net: Net, by: str) -> int:
    """The number of inputs that a task sets. Raises UserError where there are none; `by` is the key that asks for
    them."""
    if CONTEXT in net.shapes:
        return net.shapes[CONTEXT].numel()
    raise UserError(
        f"{by} needs inputs that a task sets, and this model has none: take model=mlp or model=conv4 with "
        "model.context=5"
    )


def variants(net: Net) -> dict[Convolution, Net]:
    """This network with each way to convolve, of which timing finds a GPU's fastest; empty without a choice."""
    return net.variants() if offers(net, "variants") else {}


def backbone_of(net: Net) -> Backbone | None:
    """The network with weights that this one is made of; None where all is drawn."""
    return net.backbone if offers(net, "backbone") else None


def as_module(net: Net, params: Params, stats: Params) -> nn.Module:
    """The network with these parameters and batch-norm statistics, [*shape] each, as a module of torch: x [B, *input]
    -> outputs [B, outputs], or features where there are no parameters of its head. Its tensors are copies."""
    return net.as_module(params, stats) if offers(net, "as_module") else NetModule(net, params, stats)
