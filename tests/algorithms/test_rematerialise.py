"""Rematerialised inner steps: the same bits, from fewer tensors that are kept."""

import dataclasses
import weakref
from typing import Any

import pytest
import torch
from problems import images, init, points
from torch import Tensor

from metalearn_cli.algorithms import rematerialise
from metalearn_cli.algorithms.base import Algorithm, Meta, Update
from metalearn_cli.algorithms.cavia import CAVIA
from metalearn_cli.algorithms.inner_loop import Descent, descend
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.maml_plus_plus import MAMLPlusPlus
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.reptile import Reptile
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net, per_task
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.system.allocator import trim_heap
from metalearn_cli.system.measure import begin_peak, peak_memory
from metalearn_cli.tasks.base import Batch

CPU = torch.device("cpu")
ALGORITHMS: dict[str, Algorithm] = {
    "maml": MAML(inner_lr=0.1, inner_steps=5),
    "cavia": CAVIA(inner_steps=5),
    "anil": MAML(inner_lr=0.1, inner_steps=5, adapted=AdaptedPart.head),
    "maml_plus_plus": MAMLPlusPlus(inner_steps=5),
    "meta_sgd": MetaSGD(inner_steps=5),
    "meta_lstm": MetaLSTM(inner_steps=5),
    "proto_maml": ProtoMAML(inner_lr=0.1, inner_steps=5),
}


class Kept:
    """A tensor that autograd holds."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()  # an output itself would hold its own graph


def update_and_kept(algorithm: Algorithm, net: Net, meta: Meta, batch: Batch) -> tuple[Update, int]:
    """One meta-gradient, and the most bytes that autograd held meanwhile."""
    held: weakref.WeakSet[Kept] = weakref.WeakSet()
    most = 0

    def keep(value: Tensor) -> Kept:
        nonlocal most
        held.add(kept := Kept(value))
        storages = {(s := kept.value.untyped_storage()).data_ptr(): s.nbytes() for kept in held}
        most = max(most, sum(storages.values()))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.value):
        update = algorithm.meta_gradient(net, meta, batch, 0)
    assert not held  # nothing of the unroll holds itself
    return update, most


@pytest.mark.parametrize("at_most", [32, 1], ids=["one by one", "in segments"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_meta_gradient_is_the_same_bits_and_less_is_kept(
    name: str, dtype: torch.dtype, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments of 5 steps: 3 and 2."""
    monkeypatch.setattr(rematerialise, "AT_MOST", at_most)
    algorithm = ALGORITHMS[name]
    spec, batch = images(query=1)
    net = Conv4(spec, filters=4, context=2 if name == "cavia" else 0)
    params, buffers = init(algorithm, net)
    meta = Meta({key: value.detach().to(dtype).requires_grad_() for key, value in params.items()}, buffers)
    meta = meta._replace(buffers={key: value.to(dtype) for key, value in buffers.items()})
    plain, kept = update_and_kept(algorithm, net, meta, batch.to(dtype))
    remat, kept_less = update_and_kept(dataclasses.replace(algorithm, remat=True), net, meta, batch.to(dtype))  # type: ignore[type-var, call-arg]
    assert torch.equal(remat.loss, plain.loss)
    for expected, actual in ((plain.gradient, remat.gradient), (plain.buffers, remat.buffers)):
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
    if name == "anil":  # a head's steps keep little: they are not computed again
        assert kept_less == kept
    else:
        assert kept_less < kept / (2 if name == "maml" else 1.4)


def test_what_ends_within_the_unroll_gets_no_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the state that nothing after it uses: zeros in place of its slope would make 0 * inf."""
    for at_most in (32, 1):
        monkeypatch.setattr(rematerialise, "AT_MOST", at_most)
        state = torch.tensor(0.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
        _, end = rematerialise.unroll(lambda s: (s[1].sub(s[1].detach()).sqrt(), 2 * s[1]), state, 3, remat=True)
        (slope,) = torch.autograd.grad(end, [state[1]])
        assert slope == 8


def test_second_order_keeps_the_square_root_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what one step keeps, two states for each of the square root."""
    monkeypatch.setattr(rematerialise, "AT_MOST", 1)
    spec, batch = points(tasks=1, shot=1, query=1)
    net = MLP(spec, hidden=(8, 8))

    def kept(steps: int) -> int:
        algorithm = MAML(inner_lr=0.01, inner_steps=steps, remat=True)
        return update_and_kept(algorithm, net, init(algorithm, net), batch)[1]

    one, some, many = kept(1), kept(16), kept(144)
    state = sum(value.nbytes for value in init(MAML(), net).params.values())
    assert some - one < 8 * state  # 2 * 4
    assert many - one < 24 * state  # 2 * 12


@pytest.mark.skipif(begin_peak(CPU) is None, reason="the system does not tell")
@pytest.mark.parametrize(
    "algorithm",
    [
        MAML(inner_lr=0.001, first_order=True),
        MAML(inner_lr=0.001, first_order=True, adapted=AdaptedPart.body),
        Reptile(inner_batch=None),
    ],
    ids=["first order", "first order, of the body", "reptile"],
)
def test_memory_is_flat_over_a_thousand_steps(algorithm: Algorithm) -> None:
    """The states of all steps would be 120 MB."""
    spec, batch = points(tasks=8)
    net = MLP(spec, hidden=(60, 60))
    learners = []
    for steps in (1000, 3, 100):
        changed = dataclasses.replace(algorithm, inner_steps=steps)  # type: ignore[type-var, call-arg]
        learners.append(Learner(changed, net, Optimizer(), torch.Generator().manual_seed(0)))
    trim_heap()  # what is kept for the next tensor, by this test or another, would not be counted
    before = begin_peak(CPU)
    learners[0].step(batch, 0)
    peak = peak_memory(CPU)
    assert before is not None
    assert peak is not None
    assert peak - before < 30e6
    few, many = (update_and_kept(of.algorithm, net, init(of.algorithm, net), batch)[1] for of in learners[1:])
    assert many == few


def test_the_first_order_gradient_is_that_of_one_step_after_the_other_and_no_step_is_recorded() -> None:
    """phi_0 - rate * slope - rate * slope ..., whose slopes are constants."""
    spec, batch = images(query=1)
    net = Conv4(spec, filters=4)
    params = init(MAML(), net).params
    names = [name for name in params if name.startswith(("block1", "head"))]
    start = Descent(per_task(params, 3), dict.fromkeys(names, 0.1))
    phi = descend(net, start, batch.support, 20, second_order=False, remat=False)
    assert len(recorded([value.grad_fn for value in phi.values()])) < 5 * len(phi)
    total = sum((value * value.detach()).sum() for value in phi.values())
    gradient = torch.autograd.grad(total, list(params.values()))
    for name, slope in zip(params, gradient, strict=True):
        torch.testing.assert_close(slope, phi[name].detach().sum(0), rtol=0, atol=0)


def recorded(nodes: list[Any]) -> set[Any]:
    """What autograd has recorded of these and before them."""
    nodes_before: set[Any] = set()
    while nodes:
        if (node := nodes.pop()) is not None and node not in nodes_before:
            nodes_before.add(node)
            nodes += [before for before, _ in node.next_functions]
    return nodes_before
