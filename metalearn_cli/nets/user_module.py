"""A user's own torch.nn.Module as a network that runs all tasks at once.

torch.func.functional_call runs the module with other parameters than its own, and torch.func.vmap runs that once for
all tasks, each with its own parameters. Derivatives are taken outside of vmap, where they are those of torch's layers.

What cannot run so is replaced: batch norm, and layers that drop something (replaced_layers.py).

Shapes: T tasks, B examples per task.
"""

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from metalearn_cli.errors import UserError, nearest
from metalearn_cli.nets.base import PLAIN, Call, Forward, Net, Noise, Params, Pass, standard_normal
from metalearn_cli.nets.replaced_layers import DRAWS, RUNNING, Running, adaptable, is_batch_norm, statistics
from metalearn_cli.tasks.base import Spec

Maker = Callable[..., Any]  # a class of nn.Module, or a function that returns one


def module_net(maker: Maker, spec: Spec, arguments: dict[str, Any]) -> "ModuleNet":
    """The network that this class or function makes of these arguments. Raises UserError where they do not fit."""
    takes = inspect.signature(maker).parameters.values()
    free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {parameter.name: parameter for parameter in takes if parameter.kind in by_name and parameter.name != "spec"}
    for key in arguments:
        if key == "spec" or (key not in named and not free):
            raise UserError(f"model.{key} is not an argument of {maker.__name__}{nearest(key, named, 'model.')}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise UserError(f"model.{name} has no value: give model.{name}=...")
    return ModuleNet(spec, maker, arguments)


@dataclass(frozen=True, eq=False)
class ModuleNet(Net):
    """The head of a class is its submodule named `head`, and that of what a function makes the linear layer whose
    output is the module's; `features` is the module without it. Making one checks everything."""

    spec: Spec
    maker: Maker
    arguments: dict[str, Any]  # of the maker, besides `spec`; the word `outputs` is the number of the task's
    _whole: nn.Module = field(init=False, repr=False)  # the structure; its own parameters are used for the check only
    _body: nn.Module = field(init=False, repr=False)  # without the head; the same module where there is no head
    _head: str = field(init=False, repr=False)  # the path of the head in the module; "" where there is none
    _start: Params = field(init=False, repr=False)  # the statistics that its batch norm begins with
    _copies: dict[tuple[torch.device, torch.dtype], Params] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        built = [self._build(seed) for seed in (0, 1)]
        object.__setattr__(self, "_start", statistics(built[0]))
        head = "head" if isinstance(getattr(built[0], "head", None), nn.Module) else ""
        object.__setattr__(self, "_head", head if isinstance(self.maker, type) else self._last_linear())
        whole, body = (adaptable(module, self.maker.__name__) for module in built)
        object.__setattr__(self, "_whole", whole)
        for name, value in body.named_buffers():
            if not torch.equal(value, whole.get_buffer(name)):
                raise UserError(f"{self.maker.__name__}.{name} is a buffer that is drawn: make it a parameter")
        object.__setattr__(self, "_body", self._without_head(body) if self._head else whole)
        self._check()

    def init(self, rng: torch.Generator) -> Params:
        module = self._build(int(torch.randint(2**32, (), generator=rng)))
        return {self._named(path): value.detach().clone().float() for path, value in module.named_parameters()}

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
                f"{self.maker.__name__} returns {list(out.shape[2:])} per example and this task has "
                f"{self.spec.outputs} outputs: let it end in spec.outputs values, preferably by a submodule `head` "
                "(its constructor gets `spec`; in torchvision and timm +model.num_classes=outputs), or take "
                "algo=protonet, which asks for features only"
            )
        return out, used

    def _run(self, module: nn.Module, params: Params, x: Tensor, call: Call) -> Forward:
        """x [T, B, *input] -> out [T, B, *output], and the statistics used."""
        name, noise = self.maker.__name__, call.noise

        def one_task(
            params: Params, stats: Params | None, x: Tensor, mask: Tensor | None, key: Tensor | None
        ) -> tuple[Tensor, Params]:
            own_noise = None if noise is None or key is None else noise._replace(key=key)
            running, values = Running(call._replace(stats=stats, mask=mask, noise=own_noise)), params | constants
            token = RUNNING.set(running)
            try:
                with sdpa_kernel(SDPBackend.MATH):  # attention's other kernels have no second derivative
                    out = functional_call(module, values, (x,), tie_weights=False, strict=True)
            finally:
                RUNNING.reset(token)
            for path, value in constants.items():
                if values[path] is not value or value._version > 0:
                    raise UserError(f"{name}.{path} is a buffer that its forward changes: let it stay as it is made")
            if not isinstance(out, Tensor):
                raise UserError(f"{name} returns {type(out).__name__} in training mode: let it return one tensor")
            return out, running.used

        dims = {path: value.dim() for path, value in module.named_parameters()}
        params = {path: params[self._named(path)] for path in dims}
        like_x = self._constants_like(x)
        constants = {path: like_x[path] for path, _ in module.named_buffers(remove_duplicate=False)}
        axes = {path: 0 if value.dim() > dims[path] else None for path, value in params.items()}
        stats = call.stats
        stats_axes = None if stats is None else {path: 0 if value.dim() == 2 else None for path, value in stats.items()}
        keys = None if noise is None else noise.key.unsqueeze(1)
        in_dims = (axes, stats_axes, 0, None if call.mask is None else 0, None if keys is None else 0)
        out, used = vmap(one_task, in_dims)(params, stats, x, call.mask, keys)
        if out.shape[:2] != x.shape[:2]:
            raise UserError(
                f"{name} makes {list(out.shape[1:])} of a batch of {x.shape[1]}: "
                f"its output must be [{x.shape[1]}, ...] as well"
            )
        return out, used if stats is None else stats

    def as_module(self, params: Params, stats: Params) -> nn.Module:
        """The module itself. Raises UserError where eval() would normalise by the batch."""
        like = next(iter(params.values()))
        module = self._build(0).to(like.device, like.dtype)
        if self._head and not any(name.startswith("head.") for name in params):
            module = self._without_head(module)
        with torch.no_grad():
            for path, value in module.named_parameters():
                value.copy_(params[self._named(path)])
            for path, layer in module.named_modules():
                if is_batch_norm(layer):
                    if layer.running_mean is None or layer.running_var is None:
                        where = f"{self.maker.__name__}.{path}"
                        raise UserError(f"{where} keeps no statistics: take out its track_running_stats=False")
                    layer.running_mean.copy_(stats[f"{path}.mean"])
                    layer.running_var.copy_(stats[f"{path}.var"])
        return module

    def _without_head(self, module: nn.Module) -> nn.Module:
        parent, _, attribute = self._head.rpartition(".")
        setattr(module.get_submodule(parent), attribute, nn.Identity())
        return module

    def _last_linear(self) -> str:
        """The path of the linear layer whose output is the module's, "" where there is none."""
        module, outputs = self._build(0), dict[str, Tensor]()
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _, __, out, path=path: outputs.update({path: out}))
        with torch.no_grad(), contextlib.suppress(Exception):  # which `_check` will explain
            last = module.eval()(torch.zeros(2, *self.spec.input_shape))
            return next((path for path, out in outputs.items() if out is last), "")
        return ""

    def _named(self, path: str) -> str:
        """The name of the module's parameter `path`: those of the head, and no others, are "head.*"."""
        if self._head and path.startswith(f"{self._head}."):
            return f"head{path.removeprefix(self._head)}"
        return f"body.{path}" if path.startswith("head.") else path

    def _constants_like(self, x: Tensor) -> Params:
        """The constant buffers on the device of x, and in its type; each is copied there once."""
        if (x.device, x.dtype) not in self._copies:
            self._copies[x.device, x.dtype] = {
                name: value.to(x.device, x.dtype if value.is_floating_point() else None, copy=True)
                for name, value in self._whole.named_buffers(remove_duplicate=False)
            }
        return self._copies[x.device, x.dtype]

    def _build(self, seed: int) -> nn.Module:
        injected = {"spec": self.spec} if "spec" in inspect.signature(self.maker).parameters else {}
        given = {key: self.spec.outputs if value == "outputs" else value for key, value in self.arguments.items()}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs as well
            module = self.maker(**injected, **given)
        if not isinstance(module, nn.Module):
            raise UserError(f"{self.maker.__name__} returns a {type(module).__name__} and not a torch.nn.Module")
        return module

    def _check(self) -> None:
        """Run two tasks of two examples, as in training. Raises UserError where that fails or leaves a parameter
        without gradient."""
        name, x = self.maker.__name__, torch.zeros(2, 2, *self.spec.input_shape)
        params = {
            self._named(path): value.detach().float().requires_grad_() for path, value in self._whole.named_parameters()
        }
        if not params:
            raise UserError(f"{name} has no parameters: there is nothing to learn")
        run = self.features if self._body is self._whole else self.__call__
        call = Call(noise=Noise(torch.arange(2), Pass.support, torch.zeros(2)))
        try:
            self.features(params, x)
            again, _ = run(params, x, call)
            out, _ = run(params, x, call)
            slopes = torch.autograd.grad(out.sum(), list(params.values()), allow_unused=True)
        except UserError:
            raise
        except Exception as error:  # whatever a user's forward may raise
            place = _place(error, (self._whole, self._body), name)
            if "randomness" in str(error):
                raise UserError(f"{place} {DRAWS}") from error
            raise UserError(
                f"{place} fails on a batch {list(x.shape[1:])} (tasks run together under torch.func.vmap; for "
                f"features, `head` is taken out): {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        if not torch.equal(out.nan_to_num(), again.nan_to_num()):
            raise UserError(f"{name} gives other outputs for the same examples: draw nothing in its forward")
        for key, slope in zip(params, slopes, strict=True):
            if slope is None:
                raise UserError(f"{name} has a parameter {key} that its output does not depend on: remove it")


def _place(error: Exception, modules: Iterable[nn.Module], name: str) -> str:
    """The innermost layer of these modules in which this error was raised."""
    paths: dict[object, str] = {layer: path for module in modules for path, layer in module.named_modules() if path}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    layers = [
        layer for frame in frames if isinstance(layer := frame.f_locals.get("self"), nn.Module) and layer in paths
    ]
    return f"{name}.{paths[layers[-1]]} ({type(layers[-1]).__name__})" if layers else name
