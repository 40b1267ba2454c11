"""Meta-SGD's meta-gradient, in float64."""

import pytest
import torch
from problems import CASES, SMOOTH_CASES, cases, expect_definition, expect_slope, init, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import Meta
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_sgd import RATE, MetaSGD
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch


def with_constant_rate(meta: Meta, rate: float) -> Meta:
    params = {
        name: torch.full_like(value, rate).requires_grad_() if name.startswith(RATE) else value
        for name, value in meta.params.items()
    }
    return Meta(params, meta.buffers)


@SMOOTH_CASES
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch, steps: int) -> None:
    """The gradient is exact in the weights and in the rates."""
    expect_slope(MetaSGD(inner_steps=steps), net, batch)


@CASES
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(net: Net, batch: Batch) -> None:
    def loss_of(params: Params, task: Batch) -> Tensor:
        theta = {name: value for name, value in params.items() if not name.startswith(RATE)}
        loss = task_loss(net.spec, net(theta, task.support_x)[0], task.support_y).sum()
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        phi = {name: theta[name] - params[RATE + name] * g for name, g in zip(theta, slopes, strict=True)}
        return task_loss(net.spec, net(phi, task.query_x)[0], task.query_y)

    expect_definition(MetaSGD(), net, init(MetaSGD(), net), batch, loss_of)


@CASES
@pytest.mark.parametrize("steps", [1, 2])
def test_with_one_constant_rate_it_is_maml(net: Net, batch: Batch, steps: int) -> None:
    meta = with_constant_rate(init(MetaSGD(), net), 0.1)
    gradient = MetaSGD(inner_steps=steps).meta_gradient(net, meta, batch, 0).gradient
    theta = Meta({name: value for name, value in meta.params.items() if not name.startswith(RATE)}, meta.buffers)
    expected = MAML(inner_lr=0.1, inner_steps=steps).meta_gradient(net, theta, batch, 0).gradient
    assert relative_error({name: gradient[name] for name in expected}, expected) < 1e-12
    assert all(gradient[RATE + name].abs().sum() > 0 for name in expected)


def test_all_rates_start_at_one_value_from_the_range() -> None:
    net, _ = cases()[0]
    starts = []
    for seed in range(5):
        params = MetaSGD(initial_lr=(0.02, 0.03)).init(net, torch.Generator().manual_seed(seed)).params
        rates = torch.cat([value.flatten() for name, value in params.items() if name.startswith(RATE)])
        assert (rates == rates[0]).all()
        assert 0.02 <= rates[0] <= 0.03
        starts.append(rates[0].item())
    assert len(set(starts)) == 5
