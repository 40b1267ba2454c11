"""The layers of a user's module that are replaced, so that it can run for all tasks at once (user_module.py).

Batch norm is replaced by one in plain operations. torch's layer keeps its statistics in buffers, which vmap cannot
update, and algorithms here ask for the statistics and give them back. And it is wrong without an error at the second
derivative where torch.func.grad is taken inside of vmap, and at the third derivative always (torch 2.13; the third is
wrong in LayerNorm and InstanceNorm as well, which no algorithm here asks for). Layers that drop something are replaced
by one that draws from the task's key (noise.py), and so the module runs in training mode always.

Shapes: B examples of the one task that runs, C channels.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Params
from metalearn_cli.nets.noise import draws

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # those that are replaced


@dataclass
class Running:
    """The forward of one task that is running."""

    call: Call  # statistics [C], mask [B] and key [1] of this task
    used: Params = field(default_factory=dict)  # the statistics that it computes
    drops: int = 0  # times that it has dropped something


# How the layers that are replaced reach it within a user's forward. Nothing stays on the module.
RUNNING: ContextVar[Running] = ContextVar("_RUNNING")


DRAWS = (
    "draws from torch's global generator, which no resumed run could repeat: set its dropout to 0, or use nn.Dropout"
)


def adaptable(module: nn.Module, name: str) -> nn.Module:
    """The module with batch norm and dropout replaced, in place. Raises UserError for what cannot be adapted."""
    plain: dict[nn.Module, nn.Module] = {}  # a layer may have several names
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        new = _PlainBatchNorm(layer, path) if is_batch_norm(layer) else _dropout(layer)
        if path and new is not None:
            parent, _, attribute = path.rpartition(".")
            setattr(module.get_submodule(parent), attribute, plain.setdefault(layer, new))
        elif objection := _objection(layer):
            where = f"{name}.{path} ({type(layer).__name__})" if path else name
            raise UserError(f"{where} {objection}")
    names: dict[nn.Parameter, str] = {}
    for path, value in module.named_parameters(remove_duplicate=False):
        if (first := names.setdefault(value, path)) != path:
            # functional_call leaves its tensors on a layer that has two names (torch 2.13).
            raise UserError(f"{name}.{path} is {first} as well: give each layer one name and its own parameters")
        if not value.requires_grad:
            raise UserError(f"{name}.{path} has requires_grad=False, and every parameter is learned: let it be True")
    return module


def _objection(layer: nn.Module) -> str | None:
    """Why this layer, without its children, cannot be adapted, and what to do."""
    if isinstance(layer, LazyModuleMixin):
        return "takes its size from the first batch: write the layer with its sizes"
    if is_parametrized(layer) or layer._forward_pre_hooks:
        return "computes its weights before each call, which adapted weights would not pass: use the plain layer"
    if isinstance(layer, nn.RNNBase | nn.LSTMCell):
        return "does not run under torch.func.vmap: write the recurrence with nn.Linear"
    if isinstance(layer, nn.RReLU | _DropoutNd) or (isinstance(layer, nn.MultiheadAttention) and layer.dropout):
        return DRAWS
    if isinstance(layer, _BatchNorm):
        return "is a batch norm that is not replaced by a task-batched one: use nn.BatchNorm1d, 2d or 3d itself"
    if isinstance(layer, _InstanceNorm) and layer.track_running_stats:
        return "keeps statistics of all tasks while they adapt: give it track_running_stats=False"
    return None


def is_batch_norm(layer: nn.Module) -> TypeGuard[_BatchNorm]:
    kind = type(layer)
    return kind in _BATCH_NORMS or f"{kind.__module__}.{kind.__name__}" == "timm.layers.norm_act.BatchNormAct2d"


class _PlainBatchNorm(nn.Module):
    """Batch norm of one task, x [B, C, ...], in plain operations. Its statistics come and go by RUNNING. timm's
    layers of this kind drop and activate what comes out."""

    def __init__(self, layer: _BatchNorm, path: str) -> None:
        super().__init__()
        self.path, self.eps = path, layer.eps
        self.weight, self.bias = layer.weight, layer.bias  # None without affine
        self.drop, self.act = (getattr(layer, part, nn.Identity()) for part in ("drop", "act"))

    def forward(self, x: Tensor) -> Tensor:
        (stats, mask, *_), used = RUNNING.get().call, RUNNING.get().used
        mean_name, var_name = f"{self.path}.mean", f"{self.path}.var"
        if stats is not None:
            mean, var = stats[mean_name], stats[var_name]
        elif mean_name in used:
            raise UserError(f"{self.path} normalises twice in one forward: give each place its own batch norm")
        else:
            var, mean = self._moments(x, mask)
            used |= {mean_name: mean, var_name: var}
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        shape = [-1] + [1] * (x.dim() - 2)
        out: Tensor = self.act(self.drop(torch.addcmul(shift.view(shape), x, scale.view(shape))))
        return out

    def _moments(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Variance and mean of each channel, over the real examples of mask [B]."""
        dims = [0, *range(2, x.dim())]
        if mask is None:
            return torch.var_mean(x, dims, correction=0)
        if len(x) != len(mask):
            raise UserError(
                f"{self.path} gets {len(x)} rows for {len(mask)} examples: where tasks vary in size, one each"
            )
        weight = mask.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) / (mask.sum() * x[0, 0].numel())
        mean = (weight * x).sum(dims)
        return (weight * (x - mean.view(-1, *[1] * (x.dim() - 2))).square()).sum(dims), mean


class _Dropout(nn.Module):
    """What a layer of torch, torchvision or timm drops, drawn from the task's key: each number of x [B, ...], or one
    draw for all that follow the first `dims` dimensions."""

    def __init__(self, share: float, scale: float, dims: int | None) -> None:
        super().__init__()
        self.p, self.scale, self.dims = share, scale, dims  # timm's attention reads `p`

    def forward(self, x: Tensor) -> Tensor:
        running = RUNNING.get()
        if running.call.noise is None or self.p == 0:
            return x
        running.drops += 1
        dims = x.dim() if self.dims is None else self.dims
        shape = (*x.shape[:dims], *[1] * (x.dim() - dims))
        kept = draws(running.call, running.drops, shape)[0] >= self.p
        return x * (kept.to(x.dtype) * self.scale)


def _dropout(layer: Any) -> _Dropout | None:
    """What takes the place of this layer, if it is one that drops something."""
    kind = type(layer)
    dims: int | None = None
    match f"{kind.__module__.partition('.')[0]}.{kind.__name__}":
        case "torch.Dropout":
            share = layer.p
        case "torch.Dropout1d" | "torch.Dropout2d" | "torch.Dropout3d":
            share, dims = layer.p, 2
        case "torchvision.StochasticDepth":
            share, dims = layer.p, int(layer.mode == "row")
        case "timm.DropPath":
            share, dims = layer.drop_prob, 1
        case _:
            return None
    scale = 1 / (1 - share) if share < 1 and getattr(layer, "scale_by_keep", True) else 1.0
    return _Dropout(share, scale, dims)


def statistics(module: nn.Module) -> Params:
    """The running statistics in a user's module, or the standard normal distribution's where a layer keeps none."""
    stats: Params = {}
    for path, layer in module.named_modules():
        if is_batch_norm(layer):
            mean, var = layer.running_mean, layer.running_var
            stats[f"{path}.mean"] = torch.zeros(layer.num_features) if mean is None else mean.detach().float().clone()
            stats[f"{path}.var"] = torch.ones(layer.num_features) if var is None else var.detach().float().clone()
    return stats
