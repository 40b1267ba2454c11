"""The outer optimizer: torch's own, with gradient clipping and a learning rate that is a pure function of the step."""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from metalearn_cli.errors import UserError


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
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0  # sgd only
    clip_value: float | None = None  # each component of the meta-gradient into [-clip_value, clip_value]
    clip_norm: float | None = None  # the norm of the whole meta-gradient to at most this
    schedule: Schedule = Schedule.constant
    decay: float = 0.5
    decay_every: int | None = None
    schedule_steps: int | None = None  # where linear and cosine reach 0; null: the run's `steps`

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "momentum", "clip_value", "clip_norm", "decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"optimizer.{name}={value} must be a finite number, 0 or above")
        for name in ("clip_value", "clip_norm", "decay_every", "schedule_steps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"optimizer.{name}={value} must be above 0, or null for none")
        if self.schedule is Schedule.step and self.decay_every is None:
            raise UserError("optimizer.schedule=step needs optimizer.decay_every, e.g. optimizer.decay_every=2000")
        if self.momentum >= 1:
            raise UserError(f"optimizer.momentum={self.momentum} must be below 1, e.g. 0.9")
        if self.decay_every is not None and self.schedule is not Schedule.step:
            raise UserError(f"optimizer.decay_every={self.decay_every} belongs to optimizer.schedule=step")
        if self.momentum and self.method is not Method.sgd:
            raise UserError(f"optimizer.momentum={self.momentum} belongs to optimizer=sgd, not {self.method.value}")

    @property
    def anneals(self) -> bool:
        """Whether the learning rate depends on where the run ends."""
        return self.schedule in (Schedule.linear, Schedule.cosine)

    def build(self, params: list[Tensor]) -> torch.optim.Optimizer:
        match self.method:
            case Method.adam:
                return torch.optim.Adam(params, lr=self.lr, weight_decay=self.weight_decay)
            case Method.adamw:
                return torch.optim.AdamW(params, lr=self.lr, weight_decay=self.weight_decay)
            case Method.sgd:
                return torch.optim.SGD(params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def rate(self, step: int) -> float:
        """The learning rate of meta-iteration `step`, counted from 0."""
        match self.schedule:
            case Schedule.constant:
                return self.lr
            case Schedule.step:
                assert self.decay_every is not None  # __post_init__
                return self.lr * self.decay ** (step // self.decay_every)
        assert self.schedule_steps is not None  # config fills in the run's steps
        done = min(step / self.schedule_steps, 1.0)
        if self.schedule is Schedule.linear:
            return self.lr * (1 - done)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def clip(self, params: list[Tensor]) -> None:
        """Clip the gradients in place, by value before by norm."""
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(params, self.clip_value)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, self.clip_norm)
