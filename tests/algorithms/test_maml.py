"""MAML's meta-gradient against finite differences and against its definition, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from problems import CASES, SMOOTH_CASES, cases, expect_definition, expect_slope, images, init, points, relative_error
from torch import Tensor

from metalearn_cli.algorithms.inner_loop import descend
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML, AdaptedPart, InnerLoss
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.tasks.base import Batch


def definition(algorithm: MAML, net: Net, params: Params, task: Batch, adapted: set[str] | None = None) -> Tensor:
    """The query loss of one task by the paper's equations; `adapted` parameters, or all."""
    phi = params
    for _ in range(algorithm.inner_steps):
        loss = task_loss(net.spec, net(phi, task.support_x)[0], task.support_y).sum()
        slopes = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        if algorithm.first_order:
            slopes = tuple(slope.detach() for slope in slopes)
        phi = {
            name: value - algorithm.inner_lr * slope if adapted is None or name in adapted else value
            for (name, value), slope in zip(phi.items(), slopes, strict=True)
        }
    return task_loss(net.spec, net(phi, task.query_x)[0], task.query_y)


@SMOOTH_CASES
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch, steps: int) -> None:
    expect_slope(MAML(inner_lr=0.1, inner_steps=steps), net, batch)


@CASES
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(
    net: Net, batch: Batch, first_order: bool, steps: int
) -> None:
    algorithm = MAML(inner_lr=0.1, inner_steps=steps, first_order=first_order)
    expect_definition(algorithm, net, init(algorithm, net), batch, partial(definition, algorithm, net))


@pytest.mark.parametrize("net_and_batch", cases()[1:3])
@pytest.mark.parametrize("adapted", AdaptedPart)
def test_a_part_can_be_adapted_and_all_is_meta_learned(net_and_batch: tuple[Net, Batch], adapted: AdaptedPart) -> None:
    """The parts by the names that these two networks have."""
    net, batch = net_and_batch
    algorithm = MAML(inner_lr=0.1, inner_steps=2, adapted=adapted)
    meta = init(algorithm, net)
    names = {
        AdaptedPart.all: set(meta.params),
        AdaptedPart.no_batch_norm: {name for name in meta.params if "norm" not in name},
        AdaptedPart.head: {"head.weight", "head.bias"},
        AdaptedPart.body: set(meta.params) - {"head.weight", "head.bias"},
    }[adapted]
    expect_definition(algorithm, net, meta, batch, partial(definition, algorithm, net, adapted=names))
    end = descend(net, algorithm.start(net, meta, 3), batch.support, 2, second_order=True, remat=False)
    changed = {name for name, value in meta.params.items() if not torch.equal(end[name], value.expand_as(end[name]))}
    assert changed == names


@pytest.mark.parametrize("first_order", [False, True])
def test_anil_computes_its_body_once_for_all_inner_steps(first_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, batch = cases()[1]
    algorithm = MAML(inner_lr=0.1, inner_steps=5, first_order=first_order, adapted=AdaptedPart.head)
    meta, calls, features = init(algorithm, net), [], type(net).features

    def counted(*given: Any) -> Any:
        calls.append(given)
        return features(*given)

    monkeypatch.setattr(type(net), "features", counted)
    algorithm.meta_gradient(net, meta, batch, 0)
    assert len(calls) == 2  # of the support and of the query set
    *_, last = algorithm.adapt(net, meta, batch.support, 5)
    assert len(calls) == 3
    expected = last.support_stats()
    assert len(calls) == 3  # they are kept
    used = features(net, last.params, batch.support_x)[1]
    assert expected.keys() == used.keys()
    assert all(relative_error({name: used[name]}, {name: expected[name]}) < 1e-14 for name in used)


def test_a_model_without_the_part_to_adapt_is_refused_in_a_sentence() -> None:
    class Headless:
        spec = images()[0]

        def init(self, rng: torch.Generator) -> Params:
            return {"body.weight": torch.ones(1)}

        def init_stats(self) -> Params:
            return {}

    with pytest.raises(UserError, match=r"algo\.adapted=head leaves nothing to adapt"):
        MAML(adapted=AdaptedPart.head).init(Headless(), torch.Generator())  # type: ignore[arg-type]


def test_first_and_second_order_differ_and_agree_where_the_hessian_is_zero() -> None:
    net, batch = cases()[0]
    meta = init(MAML(), net)
    second, first = (
        MAML(inner_lr=0.1, first_order=order).meta_gradient(net, meta, batch, 0).gradient for order in (False, True)
    )
    assert relative_error(first, second) > 1e-2

    # A linear model far from its targets: (w x - y)^2 has a Hessian of 2 x^2 against a gradient of 2 x y.
    spec, far = points()
    far = far._replace(support_y=far.support_y.sign() * 1e7)
    linear = Linear(spec, bias=True)
    meta = init(MAML(), linear)
    update = {
        (rate, order): MAML(inner_lr=rate, first_order=order).meta_gradient(linear, meta, far, 0).gradient
        for rate in (0.0, 1e-7)
        for order in (False, True)
    }
    assert relative_error(update[1e-7, True], update[1e-7, False]) < 1e-5
    assert relative_error(update[1e-7, True], update[0.0, True]) > 0.1  # the step itself is large


@pytest.mark.parametrize("way", [2, 3])
def test_the_inner_loss_of_the_authors_code_is_way_times_the_rate(way: int) -> None:
    spec, batch = images(way=way)
    net = Conv4(spec, filters=3)
    meta = init(MAML(), net)
    scaled = MAML(inner_lr=0.1, inner_loss=InnerLoss.way_times_mean).meta_gradient(net, meta, batch, 0)
    plain = MAML(inner_lr=0.1 * spec.outputs).meta_gradient(net, meta, batch, 0)
    assert relative_error(scaled.gradient, plain.gradient) < 1e-12
