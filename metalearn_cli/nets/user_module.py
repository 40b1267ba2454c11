"""A user's own torch.nn.Module as a network that runs all tasks at once.

torch.func.functional_call runs the module with other parameters than its own, and torch.func.vmap runs that once for
all tasks, each with its own parameters. Derivatives are taken outside of vmap, where they are those of torch's layers.

Batch norm is replaced by one in plain operations. torch's layer keeps its statistics in buffers, which vmap cannot
update, and algorithms here ask for the statistics and give them back. And it is wrong without an error at the second
derivative where torch.func.grad is taken inside of vmap, and at the third derivative always (torch 2.13; the third is
wrong in LayerNorm and InstanceNorm as well, which no algorithm here asks for).

Shapes: T tasks, B examples per task, C channels.
"""

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from metalearn_cli.errors import UserError, nearest
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Params, standard_normal
from metalearn_cli.tasks.base import Spec

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # those that are replaced

# The statistics for the call that is running (None: its own), those that it computes, and its mask: how batch norm
# reaches them within a user's forward. Nothing stays on the module.
_STATISTICS: ContextVar[tuple[Params | None, Params, Tensor | None]] = ContextVar("_STATISTICS")


def module_net(module_class: type[nn.Module], spec: Spec, arguments: dict[str, Any]) -> "ModuleNet":
    """The network of this class with these constructor arguments. Raises UserError where they do not fit."""
    takes = inspect.signature(module_class).parameters.values()
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter for parameter in takes if parameter.kind in by_name and parameter.name != "spec"}
    for key in arguments:
        if key == "spec" or (key not in named and not free):
            raise UserError(f"model.{key} is not an argument of {module_class.__name__}{nearest(key, named, 'model.')}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"model.{name} has no value: give model.{name}=...")
    return ModuleNet(spec, module_class, arguments)


@dataclass(frozen=True, eq=False)
class ModuleNet(Net):
    """The head is the submodule named `head`; `features` is the module without it. Making one checks everything."""

    spec: Spec
    module_class: type[nn.Module]
    arguments: dict[str, Any]  # of the constructor, besides `spec`
    _whole: nn.Module = field(init=False, repr=False)  # the structure; its own parameters are used for the check only
    _body: nn.Module = field(init=False, repr=False)  # without the head; the same module where there is no head
    _start: Params = field(init=False, repr=False)  # the statistics that its batch norm begins with

    def __post_init__(self) -> None:
        built = [self._build(0) for _ in range(2)]
        object.__setattr__(self, "_start", _statistics(built[0]))
        whole, body = (_adaptable(module, self.module_class.__name__) for module in built)
        has_head = isinstance(getattr(body, "head", None), nn.Module)
        if has_head:
            body.head = nn.Identity()
        object.__setattr__(self, "_whole", whole)
        object.__setattr__(self, "_body", body if has_head else whole)
        self._check()

    def init(self, rng: torch.Generator) -> Params:
        module = self._build(int(torch.randint(2**32, (), generator=rng)))
        return {name: value.detach().clone().float() for name, value in module.named_parameters()}

    def init_stats(self) -> Params:
        return {name: value.clone() for name, value in self._start.items()}

    def features(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        out, used = self._run(self._body, params, x, call)
        # Batch norm inside the head has not run, and nobody asks for its statistics.
        idle = {name: x.new_empty(len(x), len(value)) for name, value in self._start.items() if name not in used}
        return out.reshape(*x.shape[:2], -1), used | standard_normal(idle)

    def __call__(self, params: Params, x: Tensor, call: Call = PLAIN) -> Forward:
        out, used = self._run(self._whole, params, x, call)
        if out.shape[2:] != (self.spec.outputs,):
            raise UserError(
                f"{self.module_class.__name__} returns {list(out.shape[2:])} per example and this task has "
                f"{self.spec.outputs} outputs: let it end in spec.outputs values, preferably by a submodule `head` "
                "(its constructor gets `spec`), or take algo=protonet, which asks for features only"
            )
        return out, used

    def _run(self, module: nn.Module, params: Params, x: Tensor, call: Call) -> Forward:
        """x [T, B, *input] -> out [T, B, *output], and the statistics used."""
        stats, mask = call.stats, call.mask

        def one_task(params: Params, stats: Params | None, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Params]:
            used: Params = {}
            token = _STATISTICS.set((stats, used, mask))
            try:
                with sdpa_kernel(SDPBackend.MATH):  # attention's other kernels have no second derivative
                    return functional_call(module, params, (x,), strict=True), used
            finally:
                _STATISTICS.reset(token)

        dims = {name: value.dim() for name, value in module.named_parameters()}
        params = {name: params[name] for name in dims}
        axes = {name: 0 if value.dim() > dims[name] else None for name, value in params.items()}
        stats_axes = None if stats is None else {name: 0 if value.dim() == 2 else None for name, value in stats.items()}
        out, used = vmap(one_task, (axes, stats_axes, 0, None if mask is None else 0))(params, stats, x, mask)
        if out.shape[:2] != x.shape[:2]:
            raise UserError(
                f"{self.module_class.__name__} makes {list(out.shape[1:])} of a batch of {x.shape[1]}: "
                f"its output must be [{x.shape[1]}, ...] as well"
            )
        return out, used if stats is None else stats

    def _build(self, seed: int) -> nn.Module:
        injected = {"spec": self.spec} if "spec" in inspect.signature(self.module_class).parameters else {}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs as well
            return self.module_class(**injected, **self.arguments)

    def _check(self) -> None:
        """Run two tasks of two examples. Raises UserError where that fails or leaves a parameter without gradient."""
        name, x = self.module_class.__name__, torch.zeros(2, 2, *self.spec.input_shape)
        params = {key: value.detach().float().requires_grad_() for key, value in self._whole.named_parameters()}
        if not params:
            raise UserError(f"{name} has no parameters: there is nothing to learn")
        try:
            self.features(params, x)
            run = self.features if self._body is self._whole else self.__call__
            out, _ = run(params, x)
            slopes = torch.autograd.grad(out.sum(), list(params.values()), allow_unused=True)
        except UserError:
            raise
        except Exception as error:  # whatever a user's forward may raise
            raise UserError(
                f"{name} fails on a batch {list(x.shape[1:])} (tasks run together under torch.func.vmap; for features, "
                f"`head` is taken out): {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        for key, slope in zip(params, slopes, strict=True):
            if slope is None:
                raise UserError(f"{name} has a parameter {key} that its output does not depend on: remove it")


class _PlainBatchNorm(nn.Module):
    """Batch norm of one task, x [B, C, ...], in plain operations. Its statistics come and go by _STATISTICS."""

    def __init__(self, layer: _BatchNorm, path: str) -> None:
        super().__init__()
        self.path, self.eps = path, layer.eps
        self.weight, self.bias = layer.weight, layer.bias  # None without affine

    def forward(self, x: Tensor) -> Tensor:
        stats, used, mask = _STATISTICS.get()
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
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

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


def _statistics(module: nn.Module) -> Params:
    """The running statistics in a user's module, or the standard normal distribution's where a layer keeps none."""
    stats: Params = {}
    for path, layer in module.named_modules():
        if type(layer) in _BATCH_NORMS:
            mean, var = layer.running_mean, layer.running_var
            stats[f"{path}.mean"] = torch.zeros(layer.num_features) if mean is None else mean.detach().float().clone()
            stats[f"{path}.var"] = torch.ones(layer.num_features) if var is None else var.detach().float().clone()
    return stats


def _adaptable(module: nn.Module, name: str) -> nn.Module:
    """The module with batch norm replaced, in place. Raises UserError for what cannot be adapted."""
    plain: dict[nn.Module, nn.Module] = {}  # a layer may have several names
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if path and type(layer) in _BATCH_NORMS:
            parent, _, attribute = path.rpartition(".")
            setattr(module.get_submodule(parent), attribute, plain.setdefault(layer, _PlainBatchNorm(layer, path)))
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
    if (isinstance(layer, _DropoutNd) and layer.p > 0) or (isinstance(layer, nn.MultiheadAttention) and layer.dropout):
        return "draws from torch's global generator, which a resumed run could not repeat: set its dropout to 0"
    if isinstance(layer, _BatchNorm):
        return "is a batch norm that is not replaced by a task-batched one: use nn.BatchNorm1d, 2d or 3d itself"
    if next(layer.buffers(recurse=False), None) is not None:
        return "has buffers, which tasks cannot share while they adapt: use a layer without, e.g. nn.GroupNorm"
    return None
