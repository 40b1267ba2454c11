"""The outer optimizer against torch's own classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from metalearn_cli.errors import UserError
from metalearn_cli.optimizer import Method, Optimizer, Schedule


@pytest.mark.parametrize(
    ("optimizer", "torchs"),
    [
        (Optimizer(lr=0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
        (Optimizer(lr=0.1, weight_decay=0.2), lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.2)),
        (Optimizer(Method.adamw, weight_decay=0.2), lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.2)),
        (Optimizer(Method.sgd, weight_decay=0.2), lambda p: torch.optim.SGD(p, lr=1e-3, weight_decay=0.2)),
        (Optimizer(Method.sgd, momentum=0.9), lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9)),
        (
            Optimizer(Method.sgd, momentum=0.9, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
        ),
        (Optimizer(eps=0.01), lambda p: torch.optim.Adam(p, eps=0.01)),
        (
            Optimizer(Method.adamw, weight_decay=0.2, decay_norms=False, rates=("head.*:10", "*:0.5")),
            lambda p: torch.optim.AdamW(
                [
                    {"params": p[:1], "lr": 5e-4, "weight_decay": 0.2},
                    {"params": p[1:2], "lr": 5e-4, "weight_decay": 0},
                    {"params": p[2:], "lr": 1e-2, "weight_decay": 0},
                ]
            ),
        ),
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
    named = dict(zip(("layer.weight", "scale", "head.bias"), mine, strict=True))
    for _ in range(3):
        gradient = [torch.randn(param.shape[::-1], generator=rng, dtype=torch.float64).T for param in mine[:1]]
        gradient += [torch.randn(param.shape, generator=rng, dtype=torch.float64) for param in mine[1:]]
        for param, part in zip(theirs, gradient, strict=True):
            param.grad = part.clone()
        if optimizer.clip_value is not None and optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_value_(theirs, optimizer.clip_value)
            torch.nn.utils.clip_grad_norm_(theirs, optimizer.clip_norm)
        reference.step()
        optimizer.update(named, gradient, slots, torch.tensor(optimizer.lr, dtype=torch.float64), torch.zeros(()))
    torch.testing.assert_close(mine, [param.detach() for param in theirs], rtol=1e-12, atol=1e-12)
    after = [*mine, *(value for values in slots.values() for value in values)]
    before = [value.clone() for value in after]
    optimizer.update(named, gradient, slots, torch.tensor(optimizer.lr, dtype=torch.float64), torch.ones(()))
    assert all(torch.equal(value, kept) for value, kept in zip(after, before, strict=True))  # it had stopped


def test_rates_follow_their_schedule() -> None:
    assert Optimizer(lr=1.0, schedule=Schedule.step, decay=0.5, decay_every=10).rate(25) == 0.25
    linear = Optimizer(lr=1.0, schedule=Schedule.linear, schedule_steps=10)
    assert [linear.rate(step) for step in (0, 5, 10, 20)] == [1.0, 0.5, 0.0, 0.0]
    cosine = Optimizer(lr=2.0, schedule=Schedule.cosine, schedule_steps=10)
    assert [cosine.rate(step) for step in (0, 5, 10)] == pytest.approx([2.0, 1.0, 0.0])
    floored = Optimizer(lr=2.0, schedule=Schedule.cosine, schedule_steps=14, lr_floor=1.0, warm_up=4)
    assert [floored.rate(step) for step in (0, 3, 4, 9, 14, 99)] == pytest.approx([0.5, 2.0, 2.0, 1.5, 1.0, 1.0])
    halved = Optimizer(lr=1.0, schedule=Schedule.multistep, milestones=(10, 30))
    assert [halved.rate(step) for step in (0, 9, 10, 29, 30)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    listed = Optimizer(lr=0.1, schedule=Schedule.multistep, milestones=(10, 30), factors=(0.06, 0.012))
    assert [listed.rate(step) for step in (9, 10, 30)] == pytest.approx([0.1, 0.006, 0.0012])


def test_dampening_scales_each_gradient_that_enters_the_momentum() -> None:
    value, slots = torch.zeros(1), {"momentum_buffer": [torch.zeros(1)]}
    optimizer = Optimizer(Method.sgd, lr=1.0, momentum=0.5, dampening=0.9)
    for _ in range(2):
        optimizer.update({"x": value}, [torch.ones(1)], slots, torch.tensor(1.0), torch.zeros(()))
    torch.testing.assert_close(value, torch.tensor([-0.1 - (0.05 + 0.1)]))


@pytest.mark.parametrize(
    "settings",
    [
        *({"method": method, "weight_decay": 0.1, "clip_norm": 0.5} for method in (Method.adam, Method.adamw)),
        {"method": Method.sgd, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "clip_norm": 0.5},
    ],
)
def test_a_factor_of_0_keeps_the_bits_and_the_rest_moves_as_if_it_were_alone(settings: dict[str, Any]) -> None:
    """The norm that clip_norm bounds is that of the parameters that move."""
    rng = torch.Generator().manual_seed(0)
    start = {name: torch.randn(3, 2, generator=rng) for name in ("body.a", "head.a", "body.b", "head.b")}
    start["body.a"][0, 0] = -0.0  # minus 0 times anything, this would be 0
    moving = {name: value.clone() for name, value in start.items() if name.startswith("head")}
    both = {name: value.clone() for name, value in start.items()}
    for params, optimizer in ((both, Optimizer(**settings, rates=("body.*:0",))), (moving, Optimizer(**settings))):
        slots = optimizer.slots(list(params.values()))
        for step in range(3):
            gradient = [(step + 1.0) * start[name].square() for name in params]
            optimizer.update(params, gradient, slots, torch.tensor(0.1), torch.zeros(()))
    for name, value in both.items():
        expected = moving.get(name, start[name])
        assert value.numpy().tobytes() == expected.numpy().tobytes(), name
    frozen = Optimizer(**settings, rates=("*:0",))
    frozen.update(both, list(both.values()), frozen.slots(list(both.values())), torch.tensor(0.1), torch.zeros(()))
    assert torch.equal(both["head.a"], moving["head.a"])


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"schedule": Schedule.step}, "optimizer.decay_every"),
        ({"momentum": 0.9}, "optimizer=sgd"),
        ({"nesterov": True, "method": Method.sgd}, "momentum above 0"),
        ({"schedule": Schedule.multistep}, "needs optimizer.milestones"),
        ({"schedule": Schedule.multistep, "milestones": (3, 5), "factors": (0.1,)}, "one for each of the 2"),
        ({"milestones": (3,)}, "belong to optimizer.schedule=multistep"),
        ({"lr_floor": 0.1}, "optimizer.schedule=linear or cosine"),
    ],
)
def test_optimizer_settings_that_make_no_sense_are_refused(bad: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Optimizer(**bad)  # type: ignore[arg-type]
