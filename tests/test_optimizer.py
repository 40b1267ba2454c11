"""The outer optimizer against torch's own classes."""

from collections.abc import Callable

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
