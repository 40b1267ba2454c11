"""Transformer neural processes: what each head's tokens see, its joint density, and gradients."""

from dataclasses import replace

import pytest
import torch
from problems import DOUBLE, expect_slope, gaussian_points, init, with_padding
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import final_of
from metalearn_cli.algorithms.tnp import TNP, Head
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.set_net import Context
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.likelihood import EXACT, Gaussian, SquaredError

HEADS = [TNP(head, width=4, layers=2, heads=2, hidden=5, embedding_layers=2, rank=2) for head in Head]
EACH_HEAD = pytest.mark.parametrize("algorithm", HEADS, ids=[head.name for head in Head])
DIAGONAL, AUTOREGRESSIVE, FULL = HEADS
NET = Linear(gaussian_points()[0])


def predicted(algorithm: TNP, meta: Meta, batch: Batch) -> Tensor:
    predict = final_of(algorithm.adapt(NET, meta, batch.support, 0))
    return predict(batch.query_x, BatchNorm.running, batch.query_mask)


def joint(algorithm: TNP, meta: Meta, batch: Batch) -> Tensor:
    """The log-densities of the query values in turn, [T, Q]."""
    conditionals = algorithm.conditionals(NET, meta, batch)
    assert conditionals is not None
    likelihood, out = conditionals
    return -likelihood.loss(out, batch.query_y)


@EACH_HEAD
def test_the_meta_gradient_is_the_slope_of_the_loss(algorithm: TNP) -> None:
    expect_slope(algorithm, NET, gaussian_points()[1], step=1e-6)


@EACH_HEAD
def test_order_padding_and_other_queries_change_no_prediction(algorithm: TNP) -> None:
    batch, meta = gaussian_points()[1], init(algorithm, NET)
    expected, padded = predicted(algorithm, meta, batch), with_padding(batch)
    shuffled = batch._replace(support_x=batch.support_x.flip(1), support_y=batch.support_y.flip(1))
    torch.testing.assert_close(predicted(algorithm, meta, shuffled), expected, rtol=1e-10, atol=1e-10)
    alone = batch._replace(query_x=batch.query_x[:, 1:2], query_y=batch.query_y[:, 1:2])
    torch.testing.assert_close(predicted(algorithm, meta, alone), expected[:, 1:2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(predicted(algorithm, meta, padded)[:, :-1], expected, rtol=1e-10, atol=1e-10)
    updates = [algorithm.meta_gradient(NET, meta, part, 0) for part in (batch, padded)]
    torch.testing.assert_close(updates[1].loss, updates[0].loss, rtol=1e-10, atol=1e-10)
    for name, value in updates[0].gradient.items():
        torch.testing.assert_close(updates[1].gradient[name], value, rtol=1e-8, atol=1e-10)


def test_a_joint_density_is_the_product_of_its_conditionals() -> None:
    """Each query by itself, with those before it moved into the tokens that it sees: as if it were the first."""
    batch, meta = gaussian_points()[1], init(AUTOREGRESSIVE, NET)
    expected, over_sets = joint(AUTOREGRESSIVE, meta, batch), AUTOREGRESSIVE._over_sets(NET.spec)
    context = Context(batch.support_x, batch.support_y)
    for i in range(batch.query_x.shape[1]):
        prefix = Context(batch.query_x[:, : i + 1], batch.query_y[:, : i + 1].clone())
        prefix.y[:, i] = 99.0  # its own value, and what comes after it, are not seen
        out = over_sets.after_earlier(meta.params, context, prefix)[:, i : i + 1]
        mean, deviation = Gaussian().moments(out)
        log_p = Normal(mean, deviation).log_prob(batch.query_y[:, i : i + 1])[..., 0, 0]
        torch.testing.assert_close(expected[:, i], log_p, rtol=1e-10, atol=1e-10)
    alone = -Gaussian().loss(predicted(AUTOREGRESSIVE, meta, batch), batch.query_y)
    torch.testing.assert_close(alone[:, 0], expected[:, 0], rtol=1e-10, atol=1e-10)  # nothing is before the first
    assert (alone[:, 1:] - expected[:, 1:]).abs().min() > 1e-6


def test_a_full_covariance_is_torchs_and_that_of_its_marginals() -> None:
    """Of two values for each query, so that their order counts."""
    net = Linear(NET.spec._replace(outputs=4, train_outputs=4))
    batch = gaussian_points()[1]
    batch = batch._replace(**{f"{part}_y": torch.cat([y, y.cos()], 2) for part, y in ys(batch).items()})
    meta = init(FULL, net)
    context = Context(batch.support_x, batch.support_y)
    mean, deviation, factors = FULL._parts(net.spec, meta.params, context, batch.query_x)
    e = factors.flatten(1, 2)
    covariance = e @ e.mT + torch.diag_embed(deviation.flatten(1).square())
    assert torch.linalg.eigvalsh(covariance).min() > 0
    expected = MultivariateNormal(mean.flatten(1), covariance).log_prob(batch.query_y.flatten(1))
    conditionals = FULL.conditionals(net, meta, batch)
    assert conditionals is not None
    assert conditionals[0] == EXACT
    torch.testing.assert_close(-EXACT.loss(conditionals[1], batch.query_y).sum(1), expected, rtol=1e-9, atol=1e-9)
    out = final_of(FULL.adapt(net, meta, batch.support, 0))(batch.query_x, BatchNorm.running)
    moments = Gaussian().moments(out)
    torch.testing.assert_close(moments[0], mean)
    torch.testing.assert_close(moments[1].flatten(1).square(), covariance.diagonal(dim1=1, dim2=2), rtol=1e-6, atol=0)


def ys(batch: Batch) -> dict[str, Tensor]:
    return {"support": batch.support_y, "query": batch.query_y}


def test_without_factors_and_without_earlier_tokens_all_heads_are_the_diagonal_one() -> None:
    batch, meta = gaussian_points()[1], init(FULL, NET)
    meta.params.update({name: 0 * value for name, value in meta.params.items() if name.startswith("set:factor3")})
    expected = -Gaussian().loss(predicted(DIAGONAL, meta, batch), batch.query_y)
    torch.testing.assert_close(joint(FULL, meta, batch), expected, rtol=1e-9, atol=1e-9)
    for algorithm in (AUTOREGRESSIVE, FULL):
        torch.testing.assert_close(predicted(algorithm, meta, batch), predicted(DIAGONAL, meta, batch))
    assert DIAGONAL.conditionals(NET, meta, batch) is None


@pytest.mark.parametrize("algorithm", [DIAGONAL, AUTOREGRESSIVE], ids=["diagonal", "autoregressive"])
def test_a_test_reports_the_joint_density_beside_that_of_each_query(algorithm: TNP) -> None:
    batch = with_padding(gaussian_points()[1])
    learner = Learner(algorithm, NET, Optimizer(), torch.Generator().manual_seed(0), DOUBLE)
    scores = learner.evaluate(batch, [BatchNorm.running])[BatchNorm.running]
    assert ("joint_log_likelihood" in scores.beside) == (algorithm is AUTOREGRESSIVE)
    if algorithm is AUTOREGRESSIVE:
        expected = joint(algorithm, learner.meta, batch)[:, :-1].mean(1)
        torch.testing.assert_close(scores.beside["joint_log_likelihood"], expected)
        assert (scores.metric[:, 0] - expected).abs().min() > 0


def test_what_it_cannot_do_is_said() -> None:
    values = Linear(NET.spec._replace(outputs=1, train_outputs=1, likelihood=SquaredError()))
    init(DIAGONAL, values)
    with pytest.raises(UserError, match=r"algo\.head=full needs a density: give task\.likelihood=gaussian"):
        init(FULL, values)
    with pytest.raises(UserError, match=r"algo\.width=4 must be a multiple of algo\.heads=3"):
        replace(DIAGONAL, heads=3)
