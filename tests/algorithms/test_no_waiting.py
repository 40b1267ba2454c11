"""Nothing in a training step may wait for a GPU: look at a number of it, or copy from or to the host.

The device `meta` stands for the GPU: its tensors have shapes and no values, so that an operation that would need a
value fails; and one that reads a tensor of the host beside one of the device is caught here.
"""

from typing import Any

import pytest
import torch
from problems import ALGORITHMS, BY_FAMILY, ON_EMBEDDINGS, ON_MAPS, Module, images, init, points
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metalearn_cli.algorithms.base import Algorithm, Meta
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer, UpdateRule
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.matching import Kernel, Matching, Vote
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.reptile import InnerOptimizer, Reptile
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.tasks.base import Batch

DEVICE = torch.device("meta")


class NoWaiting(TorchDispatchMode):
    """Raises for an operation that mixes host and device, a number of the host (0 dimensions) excepted."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if len({tensor.device for tensor in tensors if tensor.dim() > 0 or copies}) > 1:
            raise AssertionError(f"{func} waits: {[(tuple(t.shape), t.device.type) for t in tensors]}")
        return out


class NoNumbers(TorchFunctionMode):
    """Raises for a tensor that is made on the device of the host's numbers."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and out.device == DEVICE:
            raise AssertionError(f"{func} copies numbers")
        return out


def on_device(meta: Meta, batch: Batch) -> tuple[Meta, Batch]:
    params = {name: value.detach().to(DEVICE).requires_grad_() for name, value in meta.params.items()}
    buffers = {name: value.to(DEVICE) for name, value in meta.buffers.items()}
    return Meta(params, buffers), Batch(**{name: tensor.to(DEVICE) for name, tensor in batch.tensors().items()})


def step(algorithm: Algorithm, net: Net, batch: Batch) -> None:
    """A whole meta-iteration's meta-gradients on the device."""
    meta, batch = on_device(init(algorithm, net), batch)
    carry: Any = None
    with NoWaiting(), NoNumbers():
        while True:
            update = algorithm.meta_gradient(net, meta, batch, 0, carry)
            if (carry := update.carry) is None:
                break
    for tensor in (update.loss, *update.gradient.values(), *update.buffers.values()):
        assert tensor.device == DEVICE


SPEC, IMAGES = images()
NETS: list[Net] = [
    Conv4(SPEC, filters=2),
    Conv4(SPEC, filters=2, downsample=Downsample.stride, spatial_mean=True, gamma=False),
    MLP(SPEC, (4,), batch_norm=True),
    MLP(SPEC, (4,)),
    module_net(Module, SPEC, {}),
]
MORE: list[Algorithm] = [
    *ON_MAPS,
    MAML(first_order=True),
    Matching(kernel=Kernel.euclidean, vote=Vote.sum),
    Reptile(inner_optimizer=InnerOptimizer.sgd),
    *(HandOptimizer(method, horizon=2) for method in UpdateRule),
]

ON_VALUES = [Pretrain(), *(algorithm for algorithm in ALGORITHMS if not isinstance(algorithm, ON_EMBEDDINGS))]


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=lambda algorithm: type(algorithm).__name__)
def test_a_step_on_images_waits_for_nothing(algorithm: Algorithm, net: Net) -> None:
    step(algorithm, net, IMAGES)


@pytest.mark.parametrize("algorithm", MORE, ids=repr)
def test_a_step_in_its_other_settings_waits_for_nothing(algorithm: Algorithm) -> None:
    step(algorithm, NETS[0], IMAGES)


@pytest.mark.parametrize("net", [MLP, Linear])
@pytest.mark.parametrize("algorithm", ON_VALUES, ids=lambda algorithm: type(algorithm).__name__)
def test_a_step_on_points_waits_for_nothing(algorithm: Algorithm, net: Any) -> None:
    spec, batch = points()
    step(algorithm, net(spec), batch)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x[x.argmax()],
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3),
        lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device),
        lambda x: x if (x > 0).all() else -x,
    ],
)
def test_what_would_wait_is_noticed(wait: Any) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoWaiting(), NoNumbers():
        wait(torch.ones(3, device=DEVICE))
