"""A network that comes with weights. Frozen, it is part of how an example is prepared: the learner sees features, under
a linear head. Otherwise all of it is trained further, with the statistics of its batch norm as they are.

    frozen: out = head(z), z = the features of a picture     not frozen: out = head(body(x)), x [T, B, 3, H, W] in 0..1
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Annotated

import torch
from torch import Tensor, nn

from metalearn_cli.backbones.base import Backbone, module_of
from metalearn_cli.backbones.encoder import Runtime
from metalearn_cli.backbones.named import DEFAULT, open_backbone
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params
from metalearn_cli.nets.capabilities import as_module
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.user_module import ModuleNet
from metalearn_cli.system.limits import InputSide, Limit
from metalearn_cli.tasks.base import Spec

Mean = Annotated[
    tuple[float, ...],
    Limit("three numbers from 0 to 1", lambda value: len(value) == 3 and all(0 <= item <= 1 for item in value)),
]
Deviation = Annotated[
    tuple[float, ...],
    Limit("three numbers above 0", lambda value: len(value) == 3 and all(0 < item < 1e3 for item in value)),
]


class Numbers(Enum):
    """The numbers in which features are kept."""

    float16 = "float16"
    float32 = "float32"


@dataclass(frozen=True)
class Pretrained(Net):
    spec: Spec  # frozen: of features, input_shape (F,)
    name: str = DEFAULT
    architecture: str | None = None
    size: InputSide | None = None
    mean: Mean | None = None
    std: Deviation | None = None
    frozen: bool = True
    runtime: Runtime = Runtime.torch
    dtype: Numbers = Numbers.float16

    def __post_init__(self) -> None:
        shape, features = self.spec.input_shape, self.backbone.features
        if len(shape) != 3 and not (self.frozen and shape == (features,)):
            raise UserError(f"model=pretrained needs images, and this task's examples have shape {list(shape)}")

    @cached_property
    def backbone(self) -> Backbone:
        return open_backbone(self.name, self.architecture, self.size, self.mean, self.std)

    @cached_property
    def learned(self) -> Net:
        """What the learner trains."""
        if self.frozen:
            return Linear(self.spec._replace(input_shape=(self.backbone.features,)), bias=True)
        return ModuleNet(self.spec, WithHead, {"backbone": self.backbone})

    def init(self, rng: torch.Generator) -> Params:
        return self.learned.init(rng)

    def init_stats(self) -> Params:
        return self.learned.init_stats()

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        return self.learned.features(params, x, call)

    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        return self.learned(params, x, call)

    def as_module(self, params: Params, stats: Params) -> nn.Module:
        return as_module(self.learned, params, stats)


class WithHead(nn.Module):
    """A network with weights under a fresh linear head."""

    def __init__(self, backbone: Backbone, spec: Spec) -> None:
        super().__init__()
        self.body, self.head = module_of(backbone), nn.Linear(backbone.features, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, H, W] in 0..1 -> out [B, outputs]."""
        out: Tensor = self.head(self.body(x))
        return out
