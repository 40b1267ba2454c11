"""A step that is not finite changes nothing, and no step waits for a GPU or keeps a graph."""

from typing import Any

import pytest
import torch
from problems import ALGORITHMS, DOUBLE, ON_MAPS, image_learner, images, points, snapshot
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metalearn_cli.algorithms.base import Algorithm, Meta, Update
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution, NonFinite
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch


def trained_on_points() -> tuple[Learner, Batch, Params]:
    """A learner after one step, its meta-batch, and its state."""
    spec, batch = points(tasks=4)
    trained = Learner(MAML(), MLP(spec), Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    trained.step(batch, 0)
    return trained, batch, snapshot(trained)


@pytest.mark.parametrize("poisoned", ["support_x", "query_x", "query_y"])
@pytest.mark.row("C15")
def test_a_non_finite_meta_batch_changes_nothing_and_names_the_task(poisoned: str) -> None:
    trained, batch, before = trained_on_points()
    poison = getattr(batch, poisoned).clone()
    poison[2, 0] = float("nan")
    with pytest.raises(NonFinite) as failure:
        trained.step(batch._replace(**{poisoned: poison}), 1)
    assert (failure.value.step, failure.value.tasks) == (1, [2])
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


@pytest.mark.row("C15")
def test_a_gradient_that_is_not_finite_changes_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss can be finite where its gradient is not: sqrt at 0."""
    trained, batch, before = trained_on_points()
    good = MAML.meta_gradient

    def bad(*arguments: Any) -> Update:
        update = good(*arguments)
        return update._replace(gradient={name: value * float("inf") for name, value in update.gradient.items()})

    monkeypatch.setattr(MAML, "meta_gradient", bad)
    with pytest.raises(NonFinite) as failure:
        trained.step(batch, 1)
    assert (failure.value.what, failure.value.step) == ("gradient", 1)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


def poisoned(batch: Batch) -> Batch:
    """Task 2 has a value that is not finite in everything that an algorithm may look at."""
    support_x, query_x = batch.support_x.clone(), batch.query_x.clone()
    support_x[2, 0], query_x[2, 0] = float("inf"), float("inf")
    return batch._replace(support_x=support_x, query_x=query_x)


ALL_BUT_HAND = [algorithm for algorithm in ALGORITHMS if not isinstance(algorithm, HandOptimizer)]  # it never stops


@pytest.mark.parametrize("algorithm", ALL_BUT_HAND)
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.row("C15")
def test_where_a_gpu_is_not_waited_for_nothing_changes_after_an_update_that_was_not_finite(
    algorithm: Algorithm, chunk: int | None
) -> None:
    trained = image_learner(algorithm, Optimizer(), chunk)
    trained._runner._checks_every_update = False  # as on a GPU
    batch = images(tasks=4)[1]
    trained.step(batch, 0)
    before = snapshot(trained)
    trained.step(poisoned(batch), 1)
    trained.step(batch, 2)
    with pytest.raises(NonFinite) as failure:
        trained.check()
    assert (failure.value.what, failure.value.step, failure.value.tasks) == ("loss", 1, [2])
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())
    trained.step(batch, 3)  # it has been said
    assert any(not torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("look", [Learner.state_dict, lambda trained: trained.adapt(images()[1].support)])
def test_a_state_is_not_shown_before_it_is_known_that_it_is_the_one_of_the_last_step(look: Any) -> None:
    trained = image_learner(MAML(), Optimizer())
    trained._runner._checks_every_update = False
    trained.step(poisoned(images(tasks=4)[1]), 0)
    with pytest.raises(NonFinite):
        look(trained)


@pytest.mark.row("C15")
def test_of_several_updates_those_before_the_one_that_is_not_finite_stay() -> None:
    algorithm = LearnedOptimizer((4,), unroll=2, horizon=6)
    spec, batch = points(tasks=4)
    made: list[dict[str, Tensor]] = []

    class Poisoned(LearnedOptimizer):
        def meta_gradient(self, net: Any, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
            made.append({name: value.detach().clone() for name, value in meta.params.items()})
            update = super().meta_gradient(net, meta, batch, step, carry)
            return update._replace(loss=update.loss * float("nan")) if len(made) == 3 else update

    trained = Learner(Poisoned(**vars(algorithm)), MLP(spec), Optimizer(), torch.Generator().manual_seed(0))
    with pytest.raises(NonFinite):
        trained.step(batch, 7)
    assert len(made) == 3
    assert all(torch.equal(value, trained.meta.params[name]) for name, value in made[2].items())
    assert all(value == 2 for name, value in trained.state_dict().items() if name.endswith(".step"))


class NoWaiting(TorchDispatchMode):
    """Raises where an operation makes the host look at a value, or makes a shape of values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")
        index = args[1] if func.overloadpacket is torch.ops.aten.index else []
        if func.overloadpacket.__name__ in waits or any(i is not None and i.dtype == torch.bool for i in index):
            raise AssertionError(f"{func} waits")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("algorithm", ALGORITHMS + ON_MAPS)
def test_nothing_in_a_step_waits_for_a_gpu(algorithm: Algorithm) -> None:
    clipped = Optimizer(clip_value=1.0, clip_norm=1.0)
    trained = Learner(
        algorithm, Conv4(images()[0], filters=3), clipped, torch.Generator(), Execution(tasks_per_chunk=2)
    )
    trained._runner._checks_every_update = False
    batch = images(tasks=3)[1]
    trained.step(batch, 0)
    with NoWaiting():
        trained.step(batch, 1)
        with pytest.raises(AssertionError, match="waits"):
            trained.check()


class Undetached(MAML):
    """An algorithm whose update still has its graph, and whose start is a tensor of its own."""

    def init(self, net: Net, rng: torch.Generator) -> Meta:
        return Meta({name: START.setdefault(name, value) for name, value in super().init(net, rng).params.items()}, {})

    def meta_gradient(self, net: Net, meta: Meta, batch: Batch, step: int, carry: Any = None) -> Update:
        out, _ = net({name: value.expand(3, *value.shape) for name, value in meta.params.items()}, batch.query_x)
        loss = (out - batch.query_y).square().flatten(1).mean(1)
        return Update({name: value - 0.5 * value.sin() for name, value in meta.params.items()}, loss, {})


START: dict[str, Tensor] = {}


def test_a_step_keeps_no_graph_and_no_tensor_of_the_algorithms() -> None:
    spec, batch = points()
    trained = Learner(Undetached(), MLP(spec, hidden=(4,)), Optimizer(), torch.Generator())
    before = {name: value.clone() for name, value in START.items()}
    losses = [trained.step(batch.to(torch.float32), step) for step in range(3)]
    assert not any(value.requires_grad for value in [*losses, *trained.state_dict().values()])
    assert all(torch.equal(START[name], value) for name, value in before.items())
    assert not all(torch.equal(trained.meta.params[name], value) for name, value in before.items())
