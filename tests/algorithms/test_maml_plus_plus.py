"""MAML++: all of it against finite differences, and without its parts it is MAML, in float64."""

from functools import partial

import pytest
import torch
from problems import SMOOTH_CASES, cases, expect_slope, init, relative_error

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.maml_plus_plus import STEP, MAMLPlusPlus
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, Params
from metalearn_cli.tasks.base import Batch

NET, BATCH = cases()[2]
K = 3
PLUS = partial(MAMLPlusPlus, inner_lr=0.1, inner_steps=K, test_steps=K)
ONLY = partial(PLUS, step_losses=0.0, learned_rates=False, step_norms=False)  # with what it is given besides


def of_steps(algorithm: MAMLPlusPlus, theta: Params) -> Meta:
    """MAML's parameters as this algorithm has them: all rates 0.1, and every step the same batch norm."""
    params, buffers = init(algorithm, NET)
    for name in params:
        plain = theta.get(name.removeprefix(STEP), torch.full((K,), 0.1, dtype=torch.float64)).detach()
        params[name] = (plain.repeat(K + 1, 1) if name.startswith(STEP) else plain).clone().requires_grad_()
    return Meta(params, buffers)


@SMOOTH_CASES
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch) -> None:
    """In the start, in the rates, and in what batch norm has for each step."""
    expect_slope(PLUS(), net, batch)


@pytest.mark.parametrize("first_order", [False, True])
def test_without_its_parts_it_is_maml_to_the_bit(first_order: bool) -> None:
    plain = MAML(inner_lr=0.1, inner_steps=K, first_order=first_order)
    meta = init(plain, NET)
    expected, update = (a.meta_gradient(NET, meta, BATCH, 0) for a in (plain, ONLY(first_order=first_order)))
    assert torch.equal(update.loss, expected.loss)
    for mine, theirs in ((update.gradient, expected.gradient), (update.buffers, expected.buffers)):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine | theirs)


@pytest.mark.parametrize("algorithm", [ONLY(learned_rates=True), ONLY(step_norms=True), PLUS(step_losses=0.0)], ids=str)
def test_equal_rates_and_rows_are_mamls(algorithm: MAMLPlusPlus) -> None:
    """The gradients of a parameter's rows add up to the parameter's."""
    adapted = AdaptedPart.no_batch_norm if algorithm.step_norms else AdaptedPart.all
    plain = MAML(inner_lr=0.1, inner_steps=K, adapted=adapted)
    theta = init(plain, NET)
    expected, update = (
        a.meta_gradient(NET, meta, BATCH, 0)
        for a, meta in ((plain, theta), (algorithm, of_steps(algorithm, theta.params)))
    )
    torch.testing.assert_close(update.loss, expected.loss)
    summed = {n.removeprefix(STEP): g.sum(0) if n.startswith(STEP) else g for n, g in update.gradient.items()}
    assert relative_error({name: summed[name] for name in theta.params}, expected.gradient) < 1e-12


def test_losses_of_all_steps_fade_out() -> None:
    """The loss is that of each predictor by its weight; at t = E, and with one step, the last alone."""
    algorithm = ONLY(step_losses=0.5)
    meta = init(algorithm, NET)
    with torch.no_grad():
        outs = [
            predict(BATCH.query_x, BatchNorm.transductive) for predict in algorithm.adapt(NET, meta, BATCH.support, K)
        ]
    losses = torch.stack([task_loss(NET.spec, out, BATCH.query_y) for out in outs[1:]])
    for progress, weights in {
        0.0: [1 / 3, 1 / 3, 1 / 3],
        0.25: [1 / 6, 1 / 6, 2 / 3],
        0.5: [0, 0, 1],
        0.9: [0, 0, 1],
    }.items():
        batch = BATCH._replace(progress=torch.full((3,), progress, dtype=torch.float64))
        update = algorithm.meta_gradient(NET, meta, batch, 0)
        torch.testing.assert_close(update.loss, torch.tensor(weights, dtype=torch.float64) @ losses)
    assert relative_error(update.gradient, ONLY().meta_gradient(NET, meta, BATCH, 0).gradient) < 1e-12
    one = [ONLY(inner_steps=1, step_losses=share).meta_gradient(NET, meta, BATCH, 0).gradient for share in (0.0, 0.5)]
    assert relative_error(*one) < 1e-12


def test_each_step_has_running_statistics_of_its_support() -> None:
    algorithm = PLUS()
    meta = init(algorithm, NET)
    moved = algorithm.meta_gradient(NET, meta, BATCH, 0).buffers
    with torch.no_grad():
        predictors = list(algorithm.adapt(NET, meta, BATCH.support, K))
    for step, predictor in enumerate(predictors[:-1]):
        for name, value in predictor.support_stats().items():
            before = meta.buffers[STEP + name][step]
            torch.testing.assert_close(moved[STEP + name][step], 0.9 * before + 0.1 * value.mean(0))
            assert torch.equal(predictor.buffers[name], before)
            assert predictors[-1].buffers[name] is meta.buffers[name]


def test_more_steps_than_were_trained_are_refused_where_steps_have_something_of_their_own() -> None:
    for parts in ({"learned_rates": True}, {"step_norms": True}):
        with pytest.raises(UserError, match=r"algo\.test_steps=4 is more than algo\.inner_steps=3, and each step has"):
            ONLY(test_steps=4, **parts)
    assert ONLY(test_steps=4).test_steps == 4


def test_only_learned_rates_are_told() -> None:
    assert ONLY().learned(init(ONLY(), NET)) == {}
    assert len({*PLUS().learned(init(PLUS(), NET)).values()}) == 3
