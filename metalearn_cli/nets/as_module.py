"""A network and what it has learned as a torch.nn.Module, for a program that knows nothing of tasks.

Shapes: B examples, F features.
"""

import torch
from torch import Tensor, nn

from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call, Net, Noise, Params, Pass


class NetModule(nn.Module):
    """x [B, *input] -> the network's outputs [B, outputs]; features [B, F] where it has no parameters of its head.

    In eval() batch norm takes the statistics in the buffers, as batch_norm=running does. In train() it takes those of
    the batch and moves the buffers by a tenth towards them, and what the network drops is drawn from torch's generator.
    """

    def __init__(self, net: Net, params: Params, stats: Params) -> None:
        super().__init__()
        self._net = net
        self._has_head = net.shapes.keys() <= params.keys()
        for name, value in params.items():
            layer, attribute = self._layer_of(name)
            layer.register_parameter(attribute, nn.Parameter(value.clone()))
        for name, value in stats.items():
            layer, attribute = self._layer_of(name)
            layer.register_buffer(attribute, value.clone())

    def _layer_of(self, name: str) -> tuple[nn.Module, str]:
        """Where a tensor of this name stands, "block1.norm.weight" in a module block1.norm, and what it is called."""
        layer: nn.Module = self
        *path, attribute = name.split(".")
        for part in path:
            if part not in layer._modules:
                layer.add_module(part, nn.Module())
            layer = layer.get_submodule(part)
        return layer, attribute

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 1 + len(self._net.spec.input_shape):  # pictures in place of features would only be flattened
            expected = ", ".join(map(str, ("B", *self._net.spec.input_shape)))
            raise UserError(f"x is of shape {list(x.shape)}, and [{expected}] is expected: give what `inputs` makes")
        params: Params = {**dict(self.named_parameters())}
        stats = dict(self.named_buffers())
        call = Call(stats=stats)
        if self.training:
            key = torch.randint(2**63 - 1, (1,), device=x.device)
            call = Call(noise=Noise(key, Pass.both, torch.ones(1, device=x.device)))
        out, used = (self._net if self._has_head else self._net.features)(params, x.unsqueeze(0), call)
        if self.training:
            for name, value in used.items():
                stats[name].lerp_(value[0].detach(), 0.1)
        return out.squeeze(0)
