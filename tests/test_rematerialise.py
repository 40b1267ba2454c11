"""Rematerialised inner steps: the same meta-gradient, from fewer tensors that are kept."""

import dataclasses
import weakref

import pytest
import torch
from problems import images, init, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, Update
from metalearn_cli.algorithms.maml import MAML, Adapted
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.errors import UserError
from metalearn_cli.nets.conv4 import Conv4

ALGORITHMS = {
    "maml": MAML(inner_lr=0.1, inner_steps=5),
    "anil": MAML(inner_lr=0.1, inner_steps=5, adapted=Adapted.head),
    "meta_sgd": MetaSGD(inner_steps=5),
    "meta_lstm": MetaLSTM(inner_steps=5),
}


class Kept:
    """A tensor that autograd holds."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()  # an output itself would hold its own graph


def update_and_kept(algorithm: Algorithm) -> tuple[Update, int]:
    """One meta-gradient in float64, and the bytes that an unroll keeps for the backward pass."""
    spec, batch = images(query=1)
    net = Conv4(spec, filters=4)
    held: weakref.WeakSet[Kept] = weakref.WeakSet()

    def keep(value: Tensor) -> Kept:
        held.add(kept := Kept(value))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.value):
        unrolled = list(algorithm.adapt(net, init(algorithm, net), batch.support, 5))[-1]
    storages = {kept.value.untyped_storage().data_ptr(): kept.value.untyped_storage().nbytes() for kept in held}
    del unrolled
    assert not held  # nothing of the unroll holds itself
    return algorithm.meta_gradient(net, init(algorithm, net), batch, 0), sum(storages.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_meta_gradient_is_the_same_and_less_is_kept(name: str) -> None:
    algorithm = ALGORITHMS[name]
    plain, kept = update_and_kept(algorithm)
    remat, kept_less = update_and_kept(dataclasses.replace(algorithm, remat=True))
    assert relative_error(remat.gradient, plain.gradient) < 1e-13
    assert torch.equal(remat.loss, plain.loss)
    assert all(torch.equal(remat.buffers[key], plain.buffers[key]) for key in plain.buffers)
    assert kept_less < kept / 2


def test_first_order_has_nothing_to_rematerialise() -> None:
    with pytest.raises(UserError, match="save nothing"):
        MAML(first_order=True, remat=True)
