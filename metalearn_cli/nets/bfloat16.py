"""Another network with its matrix products and convolutions in bfloat16: parameters, statistics and what comes out stay
float32.

torch.autocast stands around the forward and around nothing else, as torch advises: derivatives of any order are taken
outside, where each product has the precision of the one in the forward that it comes from. Adapted weights and losses
are float32. A user's module is refused: under torch.func.vmap autocast passes by its convolutions (torch 2.13).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params, with_spec
from metalearn_cli.nets.capabilities import require_maps
from metalearn_cli.nets.pretrained import Pretrained
from metalearn_cli.nets.user_module import ModuleNet
from metalearn_cli.tasks.base import Spec


@dataclass(frozen=True, eq=False)
class Reduced(Net):
    spec: Spec
    net: Net

    def __post_init__(self) -> None:
        net = self.net.learned if isinstance(self.net, Pretrained) else self.net
        if isinstance(net, ModuleNet):
            raise UserError(
                f"precision=bf16 does not reach the convolutions of {net.maker.__name__}, which run under "
                "torch.func.vmap: take precision=fp32, or tf32 on a GPU"
            )

    def init(self, rng: torch.Generator) -> Params:
        return with_spec(self.net, self.spec).init(rng)

    def init_stats(self) -> Params:
        return self.net.init_stats()

    def maps(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        with _autocast(x):
            out, used = require_maps(self.net, "its algorithm").maps(params, x, call)
        return out.float(), used

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        with _autocast(x):
            out, used = self.net.features(params, x, call)
        return out.float(), used

    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        with _autocast(x):
            out, used = self.net(params, x, call)
        return out.float(), used


def _autocast(x: Tensor) -> torch.autocast:
    # Its cache of converted weights would tie two forwards of the same weights together.
    return torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False)
