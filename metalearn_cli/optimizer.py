"""The outer optimizer: torch's own, with gradient clipping and a learning rate that is a pure function of the step. It
has no state: parameters, gradients and `Slots` are lists of contiguous tensors of one length, device and precision."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from metalearn_cli.errors import UserError
from metalearn_cli.system.limits import Count, NonNegative, Positive, Share

# What an optimizer keeps for each parameter, under torch's names: exp_avg, exp_avg_sq, step; or momentum_buffer.
Slots = dict[str, list[Tensor]]


class Method(Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Schedule(Enum):
    constant = "constant"
    step = "step"  # times `decay` every `decay_every` steps
    linear = "linear"  # to 0 at schedule_steps
    cosine = "cosine"  # to 0 at schedule_steps


@dataclass(frozen=True)
class Optimizer:
    method: Method = Method.adam
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    momentum: Share = 0.0  # sgd only
    clip_value: Positive | None = None  # each component of the meta-gradient into [-clip_value, clip_value]
    clip_norm: Positive | None = None  # the norm of the whole meta-gradient to at most this
    schedule: Schedule = Schedule.constant
    decay: NonNegative = 0.5
    decay_every: Count | None = None
    schedule_steps: Count | None = None  # the step at which linear and cosine reach 0; null: the run's `steps`

    def __post_init__(self) -> None:
        if self.schedule is Schedule.step and self.decay_every is None:
            raise UserError("optimizer.schedule=step needs optimizer.decay_every, e.g. optimizer.decay_every=2000")
        if self.decay_every is not None and self.schedule is not Schedule.step:
            raise UserError(f"optimizer.decay_every={self.decay_every} belongs to optimizer.schedule=step")
        if self.momentum and self.method is not Method.sgd:
            raise UserError(f"optimizer.momentum={self.momentum} belongs to optimizer=sgd, not {self.method.value}")

    @property
    def anneals(self) -> bool:
        """Whether the learning rate depends on where the run ends."""
        return self.schedule in (Schedule.linear, Schedule.cosine)

    def slots(self, params: list[Tensor]) -> Slots:
        """What is kept before the first step."""
        if self.method is Method.sgd:
            return {"momentum_buffer": [torch.zeros_like(param) for param in params]} if self.momentum else {}
        return {
            "exp_avg": [torch.zeros_like(param) for param in params],
            "exp_avg_sq": [torch.zeros_like(param) for param in params],
            "step": [torch.zeros((), device=param.device) for param in params],
        }

    def update(self, params: list[Tensor], gradient: list[Tensor], slots: Slots, rate: Tensor, stopped: Tensor) -> None:
        """Make one step in place, of params and slots; none where `stopped` [] is 1. `rate` [] is the learning rate.
        The fused kernels take all parameters at once, and ask nothing of the host. They read memory in order, whatever
        the strides say (torch 2.13): a gradient that is not contiguous would be taken for another one."""
        gradient = [part.contiguous() for part in self.clip(gradient)]
        settings: dict[str, Any] = {"lr": rate, "weight_decay": self.weight_decay, "found_inf": stopped}
        settings |= {"maximize": False, "fused": True}
        if self.method is Method.sgd:
            momenta: list[Tensor | None] = [*slots["momentum_buffer"]] if self.momentum else [None] * len(params)
            sgd(params, gradient, momenta, momentum=self.momentum, dampening=0, nesterov=False, **settings)
            return
        settings |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
        settings["decoupled_weight_decay"] = self.method is Method.adamw
        adam(params, gradient, slots["exp_avg"], slots["exp_avg_sq"], [], slots["step"], **settings)

    def clip(self, gradient: list[Tensor]) -> list[Tensor]:
        """Clip the gradient, first by value and then by norm."""
        if self.clip_value is not None:
            gradient = [part.clamp(-self.clip_value, self.clip_value) for part in gradient]
        if self.clip_norm is not None:
            factor = self.clip_norm / (torch.nn.utils.get_total_norm(gradient) + 1e-6)
            gradient = [part * factor.clamp(max=1) for part in gradient]
        return gradient

    def rate(self, step: int) -> float:
        """The learning rate of meta-iteration `step`, counted from 0."""
        if self.schedule is Schedule.step:
            return self.lr * self.decay ** (step // (self.decay_every or 1))  # given, by __post_init__
        done = min(step / (self.schedule_steps or 1), 1.0)  # config fills in the run's steps, if it has any
        if self.schedule is Schedule.linear:
            return self.lr * (1 - done)
        return self.lr * (1 + math.cos(math.pi * done)) / 2 if self.schedule is Schedule.cosine else self.lr
