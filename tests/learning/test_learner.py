from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import ALGORITHMS, DOUBLE, images, points
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta, Update
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.learning.step import Execution, NonFinite
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer, Schedule
from metalearn_cli.tasks.base import Batch


def learner(algorithm: Algorithm, optimizer: Optimizer, chunk: int | None = None, seed: int = 0) -> Learner:
    net = Conv4(images()[0], filters=3)
    rng = torch.Generator().manual_seed(seed)
    return Learner(algorithm, net, optimizer, rng, DOUBLE._replace(tasks_per_chunk=chunk))


def snapshot(trained: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trained.state_dict().items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(algorithm: Algorithm, chunk: int) -> None:
    """Five tasks, so that chunks of 2 and 3 leave a smaller last one."""
    whole, cut = learner(algorithm, Optimizer()), learner(algorithm, Optimizer(), chunk)
    for step in range(3):
        batch = images(tasks=5, seed=step)[1]
        torch.testing.assert_close(whole.step(batch, step), cut.step(batch, step), rtol=1e-12, atol=1e-12)
    expected, found = whole.state_dict(), cut.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)
    batch = images(tasks=5, seed=9)[1]
    modes = [BatchNorm.transductive, BatchNorm.running]
    for mode in modes:
        a, b = whole.evaluate(batch, modes)[mode], cut.evaluate(batch, modes)[mode]
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(a.metric, b.metric)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(),
        Optimizer(Method.adamw, weight_decay=0.1, clip_norm=0.01),
        Optimizer(Method.sgd, lr=0.1),
        Optimizer(Method.sgd, lr=0.1, momentum=0.9, schedule=Schedule.linear, schedule_steps=6, clip_value=1e-3),
    ],
)
def test_a_state_that_was_loaded_goes_on_with_the_same_bits(algorithm: Algorithm, optimizer: Optimizer) -> None:
    straight, first, second = (learner(algorithm, optimizer, seed=seed) for seed in (0, 0, 1))
    for step in range(6):
        straight.step(images(seed=step)[1], step)
    for step in range(3):
        first.step(images(seed=step)[1], step)
    second.load_state_dict(snapshot(first))
    for step in range(3, 6):
        second.step(images(seed=step)[1], step)
    assert straight.state_dict().keys() == second.state_dict().keys()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        (Optimizer(lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
        (Optimizer(lr=0.1, weight_decay=0.2), lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2)),
        (Optimizer(Method.adamw, weight_decay=0.2), lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.2)),
        (Optimizer(Method.sgd, weight_decay=0.2), lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=0.2)),
        (Optimizer(Method.sgd, momentum=0.9), lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9)),
        (Optimizer(Method.sgd, lr=1.0, clip_value=0.3, clip_norm=0.7), lambda p: torch.optim.SGD(p, lr=1.0)),
    ],
)
def test_every_method_is_torchs_own(
    optimizer: Optimizer, torchs: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    """Also for gradients whose memory is not in the order of the parameter's."""
    rng = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 6), (), (3,))]
    theirs = [param.clone().requires_grad_() for param in mine]
    slots, reference = optimizer.slots(mine), torchs(theirs)
    for _ in range(3):
        gradient = [torch.randn(param.shape[::-1], generator=rng, dtype=torch.float64).T for param in mine[:1]]
        gradient += [torch.randn(param.shape, generator=rng, dtype=torch.float64) for param in mine[1:]]
        for param, part in zip(theirs, gradient, strict=True):
            param.grad = part.clone()
        if optimizer.clip_value is not None and optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_value_(theirs, optimizer.clip_value)
            torch.nn.utils.clip_grad_norm_(theirs, optimizer.clip_norm)
        reference.step()
        optimizer.update(mine, gradient, slots, torch.tensor(optimizer.lr, dtype=torch.float64), torch.zeros(()))
    torch.testing.assert_close(mine, [param.detach() for param in theirs], rtol=1e-12, atol=1e-12)
    after = [*mine, *(value for values in slots.values() for value in values)]
    before = [value.clone() for value in after]
    optimizer.update(mine, gradient, slots, torch.tensor(optimizer.lr, dtype=torch.float64), torch.ones(()))
    assert all(torch.equal(value, kept) for value, kept in zip(after, before, strict=True))  # it had stopped


def test_one_step_is_torchs_own_optimizer_on_the_meta_gradient() -> None:
    spec, batch = points()
    net = MLP(spec)
    trained = Learner(MAML(), net, Optimizer(lr=0.01), torch.Generator().manual_seed(0), DOUBLE)
    before = {name: value.detach().clone().requires_grad_() for name, value in trained.meta.params.items()}
    gradient = MAML().meta_gradient(net, trained.meta._replace(params=before), batch, 0).gradient
    for name, value in before.items():
        value.grad = gradient[name]
    torch.optim.Adam(before.values(), lr=0.01, fused=True).step()
    trained.step(batch, 0)
    assert all(torch.equal(before[name], value) for name, value in trained.meta.params.items())


@pytest.mark.parametrize("poisoned", ["support_x", "query_x", "query_y"])
@pytest.mark.row("C15")
def test_a_non_finite_meta_batch_changes_nothing_and_names_the_task(poisoned: str) -> None:
    spec, batch = points(tasks=4)
    trained = Learner(MAML(), MLP(spec), Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    trained.step(batch, 0)
    before = snapshot(trained)
    poison = getattr(batch, poisoned).clone()
    poison[2, 0] = float("nan")
    with pytest.raises(NonFinite) as failure:
        trained.step(batch._replace(**{poisoned: poison}), 1)
    assert (failure.value.step, failure.value.tasks) == (1, [2])
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


def moved(optimizer: Optimizer, step: int) -> Tensor:
    """How far one meta-iteration moves the parameters, as one vector."""
    spec, batch = points()
    trained = Learner(MAML(), MLP(spec), optimizer, torch.Generator().manual_seed(0), DOUBLE)
    before = snapshot(trained)
    trained.step(batch, step)
    after = trained.state_dict()
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


def test_the_step_is_clipped_and_follows_its_schedule() -> None:
    free = moved(Optimizer(Method.sgd, lr=0.1), 0)
    assert free.norm() > 0.01
    torch.testing.assert_close(moved(Optimizer(Method.sgd, lr=0.1, clip_norm=1e-3), 0), free * 1e-4 / free.norm())
    by_value = moved(Optimizer(Method.sgd, lr=0.1, clip_value=1e-3), 0)
    torch.testing.assert_close(by_value, free.clamp(-1e-4, 1e-4))
    linear = Optimizer(Method.sgd, lr=0.1, schedule=Schedule.linear, schedule_steps=10)
    torch.testing.assert_close(moved(linear, 5), free / 2)
    assert not moved(linear, 10).any()


@pytest.mark.row("C15")
def test_a_gradient_that_is_not_finite_changes_nothing_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss can be finite where its gradient is not: sqrt at 0."""
    spec, batch = points(tasks=4)
    trained = Learner(MAML(), MLP(spec), Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    trained.step(batch, 0)
    before = snapshot(trained)
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
    trained = learner(algorithm, Optimizer(), chunk)
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
    trained = learner(MAML(), Optimizer())
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
            found = super().meta_gradient(net, meta, batch, step, carry)
            return found._replace(loss=found.loss * float("nan")) if len(made) == 3 else found

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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
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


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.row("D4")
def test_query_labels_never_change_a_prediction(algorithm: Algorithm) -> None:
    trained = learner(algorithm, Optimizer())
    _, batch = images()
    shifted = batch._replace(query_y=(batch.query_y + 1) % 3)
    out = trained.adapt(batch.support)(batch.query_x, BatchNorm.transductive)
    assert torch.equal(out, trained.adapt(shifted.support)(shifted.query_x, BatchNorm.transductive))
    hits = [trained.evaluate(b, [BatchNorm.transductive])[BatchNorm.transductive].metric for b in (batch, shifted)]
    right = out.argmax(-1)
    for b, found in zip((batch, shifted), hits, strict=True):
        torch.testing.assert_close(found[:, -1], (right == b.query_y).double().mean(1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.row("D7")
def test_random_labels_give_chance(algorithm: Algorithm) -> None:
    trained = learner(algorithm, Optimizer())
    _, batch = images(tasks=400, query=5)
    rng = torch.Generator().manual_seed(5)
    labels = torch.randint(3, batch.query_y.shape, generator=rng)
    hits = trained.evaluate(batch._replace(query_y=labels), [BatchNorm.inductive])[BatchNorm.inductive].metric[:, -1]
    assert abs(hits.mean() - 1 / 3) < 3 * hits.std() / len(hits) ** 0.5


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    trained = learner(MAML(), Optimizer())
    before = snapshot(trained)
    other = Learner(MAML(), Conv4(images()[0], filters=4), Optimizer(), torch.Generator(), DOUBLE)
    missing = {name: value for name, value in before.items() if name != "params.head.bias"}
    for state in (other.state_dict(), missing):
        with pytest.raises(UserError, match="another model"):
            trained.load_state_dict(state)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


def test_rates_follow_their_schedule() -> None:
    assert Optimizer(lr=1.0, schedule=Schedule.step, decay=0.5, decay_every=10).rate(25) == 0.25
    linear = Optimizer(lr=1.0, schedule=Schedule.linear, schedule_steps=10)
    assert [linear.rate(step) for step in (0, 5, 10, 20)] == [1.0, 0.5, 0.0, 0.0]
    cosine = Optimizer(lr=2.0, schedule=Schedule.cosine, schedule_steps=10)
    assert [cosine.rate(step) for step in (0, 5, 10)] == pytest.approx([2.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("bad", "sentence"), [({"schedule": Schedule.step}, "optimizer.decay_every"), ({"momentum": 0.9}, "optimizer=sgd")]
)
def test_optimizer_settings_that_make_no_sense_are_refused(bad: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Optimizer(**bad)  # type: ignore[arg-type]


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
