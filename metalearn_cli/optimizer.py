"""The outer optimizer: torch's own, with gradient clipping and a learning rate that is a pure function of the step. It
has no state: parameters, gradients and `Slots` are contiguous tensors in one order, of one device and precision."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from metalearn_cli.errors import UserError
from metalearn_cli.system import limits
from metalearn_cli.system.limits import Count, Factors, FactorsByName, Natural, NonNegative, Positive, Share, Steps

# What an optimizer keeps for each parameter, under torch's names: exp_avg, exp_avg_sq, step; or momentum_buffer.
Slots = dict[str, list[Tensor]]


class Method(Enum):
    adam = "adam"
    adamw = "adamw"
    sgd = "sgd"


class Schedule(Enum):
    constant = "constant"
    step = "step"  # times `decay` every `decay_every` steps
    multistep = "multistep"  # times `factors` from `milestones` on
    linear = "linear"  # to lr_floor at schedule_steps
    cosine = "cosine"  # to lr_floor at schedule_steps


@dataclass(frozen=True)
class Optimizer:
    method: Method = Method.adam
    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    decay_norms: bool = True  # whether weight_decay is of vectors too: biases, and the scales of norms
    momentum: Share = 0.0  # sgd only, like the next two
    dampening: Share = 0.0
    nesterov: bool = False
    eps: Positive = 1e-8  # adam and adamw only
    rates: FactorsByName = ()  # factors of lr by patterns of names, of which the first that fits counts
    clip_value: Positive | None = None  # each component of the meta-gradient into [-clip_value, clip_value]
    clip_norm: Positive | None = None  # the norm of the whole meta-gradient to at most this
    schedule: Schedule = Schedule.constant
    decay: NonNegative = 0.5
    decay_every: Count | None = None
    milestones: Steps = ()  # the steps at which a factor of `multistep` begins
    factors: Factors = ()  # of lr, one for each milestone; none: powers of `decay`
    schedule_steps: Count | None = None  # the step at which linear and cosine reach lr_floor; null: the run's `steps`
    lr_floor: NonNegative = 0.0
    warm_up: Natural = 0  # steps in which the rate grows to lr, in equal parts, before the schedule begins

    def __post_init__(self) -> None:
        if self.schedule is Schedule.step and self.decay_every is None:
            raise UserError("optimizer.schedule=step needs optimizer.decay_every, e.g. optimizer.decay_every=2000")
        if self.decay_every is not None and self.schedule is not Schedule.step:
            raise UserError(f"optimizer.decay_every={self.decay_every} belongs to optimizer.schedule=step")
        for key in ("momentum", "dampening", "nesterov"):
            if getattr(self, key) and self.method is not Method.sgd:
                given = str(getattr(self, key)).lower()
                raise UserError(f"optimizer.{key}={given} belongs to optimizer=sgd, not {self.method.value}")
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise UserError("optimizer.nesterov=true needs optimizer.momentum above 0 and optimizer.dampening=0")
        if self.schedule is Schedule.multistep:
            if not self.milestones:
                raise UserError("optimizer.schedule=multistep needs optimizer.milestones, e.g. [2000,4000]")
            if self.factors and len(self.factors) != len(self.milestones):
                raise UserError(
                    f"optimizer.factors={list(self.factors)} must be one for each of the {len(self.milestones)} "
                    "optimizer.milestones, or none"
                )
        elif self.milestones or self.factors:
            raise UserError("optimizer.milestones and optimizer.factors belong to optimizer.schedule=multistep")
        if self.lr_floor and not (self.anneals and self.lr_floor <= self.lr):
            raise UserError(
                f"optimizer.lr_floor={self.lr_floor} belongs to optimizer.schedule=linear or cosine, and is at most "
                f"optimizer.lr={self.lr}"
            )

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

    def update(
        self, params: Mapping[str, Tensor], gradient: list[Tensor], slots: Slots, rate: Tensor, stopped: Tensor
    ) -> None:
        """One step in place, of params and slots; none where `stopped` [] is 1. `rate` [] is the learning rate."""
        groups = self._groups(params)
        moving = sorted(place for places in groups.values() for place in places)
        clipped = dict(zip(moving, self.clip([gradient[place] for place in moving]), strict=True))
        tensors = list(params.values())
        for (factor, decay), places in groups.items():
            self._update_group(
                [tensors[place] for place in places],
                [clipped[place].contiguous() for place in places],
                {name: [values[place] for place in places] for name, values in slots.items()},
                {"lr": rate if factor == 1 else rate * factor, "weight_decay": decay, "found_inf": stopped},
            )

    def _groups(self, params: Mapping[str, Tensor]) -> dict[tuple[float, float], list[int]]:
        """The places of the parameters that share a factor of the rate and a weight decay, by these two. A
        factor of 0 freezes them: they and their slots keep their bits, and their gradients do not count in clip_norm.
        """
        groups: dict[tuple[float, float], list[int]] = {}
        rates = [limits.parse_factor(item) for item in self.rates]
        for place, (name, value) in enumerate(params.items()):
            factor = next((factor for pattern, factor in rates if fnmatchcase(name, pattern)), 1.0)
            decays = self.decay_norms or value.dim() > 1
            if factor:
                groups.setdefault((factor, self.weight_decay if decays else 0.0), []).append(place)
        return groups

    def _update_group(
        self, params: list[Tensor], gradient: list[Tensor], slots: Slots, settings: dict[str, Any]
    ) -> None:
        """One step of all these parameters by a fused kernel, which asks nothing of the host.

        It reads memory in order, whatever the strides say (torch 2.13), so a gradient must be contiguous.
        The first step is damped as every other one, where torch's own optimizer makes an exception.
        """
        settings |= {"maximize": False, "fused": True}
        if self.method is Method.sgd:
            momenta: list[Tensor | None] = [*slots["momentum_buffer"]] if self.momentum else [None] * len(params)
            settings |= {"momentum": self.momentum, "dampening": self.dampening, "nesterov": self.nesterov}
            sgd(params, gradient, momenta, **settings)
            return
        adam(
            *(params, gradient, slots["exp_avg"], slots["exp_avg_sq"], [], slots["step"]),
            beta1=0.9,
            beta2=0.999,
            eps=self.eps,
            decoupled_weight_decay=self.method is Method.adamw,
            amsgrad=False,
            **settings,
        )

    def clip(self, gradient: list[Tensor]) -> list[Tensor]:
        """Clip the gradient, first by value and then by norm."""
        if self.clip_value is not None:
            gradient = [part.clamp(-self.clip_value, self.clip_value) for part in gradient]
        if self.clip_norm is not None and gradient:
            factor = self.clip_norm / (torch.nn.utils.get_total_norm(gradient) + 1e-6)
            gradient = [part * factor.clamp(max=1) for part in gradient]
        return gradient

    def rate(self, step: int) -> float:
        """The learning rate of meta-iteration `step`, counted from 0."""
        if step < self.warm_up:
            return self.lr * (step + 1) / self.warm_up
        match self.schedule:
            case Schedule.constant:
                return self.lr
            case Schedule.step:
                assert self.decay_every is not None  # __post_init__
                return self.lr * self.decay ** (step // self.decay_every)
            case Schedule.multistep:
                passed = bisect_right(self.milestones, step)
                if not self.factors:
                    return self.lr * self.decay**passed
                return self.lr * (1.0, *self.factors)[passed]
        # config fills in the run's steps, if it has any
        done = min((step - self.warm_up) / max((self.schedule_steps or 1) - self.warm_up, 1), 1.0)
        if self.schedule is Schedule.linear:
            return self.lr_floor + (self.lr - self.lr_floor) * (1 - done)
        return self.lr_floor + (self.lr - self.lr_floor) * (1 + math.cos(math.pi * done)) / 2
