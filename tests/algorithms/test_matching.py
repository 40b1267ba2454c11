"""Matching Networks against the paper's equations, in float64."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from problems import expect_definition, expect_slope, finite_difference, images, init, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.losses import mean_gradient, task_loss
from metalearn_cli.algorithms.matching import (
    Kernel,
    Matching,
    Vote,
    contextual_query,
    contextual_support,
    log_attention,
    similarity,
)
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.layers import init_lstm
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Spec, Support

VARIANTS = [
    Matching(),
    Matching(learn_temperature=True),
    Matching(kernel=Kernel.dot, temperature=0.5),
    Matching(kernel=Kernel.euclidean, temperature=2.0),
    Matching(vote=Vote.sum, temperature=1.0),
    Matching(fce=True, reads=3),
    Matching(fce=True, reads=1, vote=Vote.sum, learn_temperature=True),
    Matching(fce=True, reads=0, kernel=Kernel.euclidean, temperature=0.5),
]


def cell(weights: Tensor, bias: Tensor, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """LSTM(x, h, c) of one example; weights [4H, len(x) + len(h)]."""
    size = len(c)
    gates = weights @ torch.cat([x, h]) + bias
    i, f, o = (gates[k * size : (k + 1) * size].sigmoid() for k in (0, 1, 3))
    c = f * c + i * gates[2 * size : 3 * size].tanh()
    return o * c.tanh(), c


def definition(algorithm: Matching, net: Net, params: Params, batch: Batch) -> Tensor:
    """The loss of one task by the paper's equations, example by example."""
    shots = batch.support_y.shape[1]
    features = net.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
    g, queries, zero = list(features[:shots]), list(features[shots:]), torch.zeros_like(features[0])

    def read(name: str, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of the input are F columns; what follows is that of the previous output."""
        ih, hh = params[f"fce:{name}.weight_ih"], params[f"fce:{name}.weight_hh"]
        weights = torch.cat([ih[:, : len(x)], hh, ih[:, len(x) :]], 1)
        return cell(weights, params[f"fce:{name}.bias"], x, h, c)

    if algorithm.fce:  # appendix A.2
        ways = {}
        for name, order in (("forward", range(shots)), ("backward", reversed(range(shots)))):
            h, c = zero, zero
            for i in order:
                h, c = read(name, g[i], h, c)
                ways[name, i] = h
        g = [g[i] + ways["forward", i] + ways["backward", i] for i in range(shots)]
    temperature = params["matching:log_temperature"].exp() if algorithm.learn_temperature else algorithm.temperature
    losses = []
    for query, label in zip(queries, batch.query_y[0], strict=True):
        f, c = query, zero
        if algorithm.fce and algorithm.reads:  # appendix A.1
            h = zero
            for _ in range(algorithm.reads):
                attention = torch.stack([h @ g_i for g_i in g]).softmax(0)
                r = sum((a * g_i for a, g_i in zip(attention, g, strict=True)), zero)
                h, c = read("query", query, torch.cat([h, r]), c)
                h = h + query
            f = h
        kernel = {
            Kernel.cosine: lambda a, b: a @ b / (a.norm() * b.norm()),
            Kernel.dot: lambda a, b: a @ b,
            Kernel.euclidean: lambda a, b: -((a - b) ** 2).sum(),
        }[algorithm.kernel]
        scores = torch.stack([temperature * kernel(f, g_i) for g_i in g])
        if algorithm.vote is Vote.sum:
            p = torch.stack([scores[batch.support_y[0] == k].sum() for k in range(net.spec.train_outputs)]).softmax(0)
        else:
            a = scores.softmax(0)
            p = torch.stack([a[batch.support_y[0] == k].sum() for k in range(net.spec.train_outputs)])
        losses.append(-p[label].log())
    return torch.stack(losses).mean()


def smooth(spec: Spec) -> MLP:
    return MLP(spec, hidden=(6, 4), activation=Activation.tanh, batch_norm=True)


@pytest.mark.parametrize("algorithm", VARIANTS, ids=str)
@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task(algorithm: Matching) -> None:
    spec, batch = images()
    net = smooth(spec)
    meta = init(algorithm, net)
    expect_definition(algorithm, net, meta, batch, partial(definition, algorithm, net))
    assert not any(name.startswith("head.") for name in meta.params)


@pytest.mark.parametrize("algorithm", VARIANTS, ids=str)
@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences(algorithm: Matching) -> None:
    spec, batch = images()
    expect_slope(algorithm, smooth(spec), batch)


def test_with_one_euclidean_shot_it_is_protonet() -> None:
    """Stated in the ProtoNet paper, section 2.4: with one shot, attention is the softmax over the prototypes."""
    spec, batch = images(shot=1)
    net, matching, protonet = Conv4(spec, filters=3), Matching(kernel=Kernel.euclidean, temperature=1.0), ProtoNet()
    meta = init(matching, net)
    update, expected = (algorithm.meta_gradient(net, meta, batch, 0) for algorithm in (matching, protonet))
    torch.testing.assert_close(update.loss, expected.loss)
    assert relative_error(update.gradient, expected.gradient) < 1e-12
    with torch.no_grad():
        for mode in BatchNorm:
            outs = [next(a.adapt(net, meta, batch.support, 0))(batch.query_x, mode) for a in (matching, protonet)]
            torch.testing.assert_close(outs[0], outs[1].log_softmax(-1))
    _, batch = images(shot=2)
    update, expected = (algorithm.meta_gradient(net, meta, batch, 0) for algorithm in (matching, protonet))
    assert relative_error(update.gradient, expected.gradient) > 1e-2


@pytest.mark.parametrize("kernel", Kernel)
def test_probabilities_sum_to_one(kernel: Kernel) -> None:
    spec, batch = images()
    net, algorithm = Conv4(spec, filters=3), Matching(kernel=kernel, fce=True)
    meta = init(algorithm, net)
    with torch.no_grad():
        (predict,) = algorithm.adapt(net, meta, batch.support, 0)
        p = predict(batch.query_x, BatchNorm.running).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))


def test_far_from_all_examples_of_a_class_its_log_probability_is_finite() -> None:
    """exp(-500) is 0 in float32, and the logarithm of that would make the loss infinite."""
    scores = torch.tensor([[[0.0, -500.0, -501.0]]], requires_grad=True)
    out = log_attention(scores, torch.tensor([[[1, 0], [0, 1], [0, 1]]]).bool())
    torch.testing.assert_close(out, torch.tensor([[[0.0, -500.0 + math.log1p(math.exp(-1))]]]))
    (gradient,) = torch.autograd.grad(out[0, 0, 1], scores)
    torch.testing.assert_close(gradient, torch.tensor([[[-1.0, 1 / (1 + math.exp(-1)), 1 / (1 + math.e)]]]))


def test_the_order_of_the_support_set_matters_to_full_context_embeddings_only() -> None:
    spec, batch = images(shot=3)
    net, order = Conv4(spec, filters=3), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    other = batch.support._replace(x=batch.support_x[:, order], y=batch.support_y[:, order])
    for fce in (False, True):
        algorithm = Matching(fce=fce)
        meta = init(algorithm, net)
        with torch.no_grad():
            outs = [
                next(algorithm.adapt(net, meta, support, 0))(batch.query_x, BatchNorm.running)
                for support in (batch.support, other)
            ]
        assert torch.allclose(outs[0], outs[1], rtol=1e-9, atol=1e-9) is not fce


def test_reads_take_the_support_set_as_a_set_and_none_of_them_leaves_the_query_as_it_is() -> None:
    rng = torch.Generator().manual_seed(0)
    names = ("fce:forward", "fce:backward")
    params = {name: value for part in names for name, value in init_lstm(part, 4, 4, rng).items()}
    params |= init_lstm("fce:query", 8, 4, rng)
    support, query = torch.randn(2, 5, 4, generator=rng), torch.randn(2, 3, 4, generator=rng)
    order = torch.tensor([3, 0, 4, 1, 2])
    g = contextual_support(params, support)
    assert not torch.allclose(g[:, order], contextual_support(params, support[:, order]), atol=1e-3)
    torch.testing.assert_close(contextual_query(params, query, g, 3), contextual_query(params, query, g[:, order], 3))
    assert torch.equal(contextual_query(params, query, g, 0), query)
    # Reading changes what is read: one more step is another embedding.
    assert not torch.allclose(contextual_query(params, query, g, 1), contextual_query(params, query, g, 2), atol=1e-3)

    labelled = Support(support, torch.tensor([[0, 1, 2, 0, 1]]).expand(2, -1), torch.arange(2))
    algorithm = Matching(fce=True, reads=0)
    out = algorithm.log_probabilities(params, labelled, 3, support, query)
    assert torch.equal(out, Matching().log_probabilities({}, labelled, 3, g, query))


def test_what_full_context_embeddings_add_to_the_parameters() -> None:
    spec, _ = images()
    net = Conv4(spec, filters=3)
    rng = torch.Generator()
    assert {name: tuple(value.shape) for name, value in Matching(fce=True).init(net, rng).params.items()} == {
        **{name: tuple(value.shape) for name, value in Matching().init(net, rng).params.items()},
        **{f"fce:{way}.{part}": (12, 3) for way in ("forward", "backward") for part in ("weight_ih", "weight_hh")},
        **{f"fce:{way}.bias": (12,) for way in ("forward", "backward", "query")},
        "fce:query.weight_ih": (12, 6),
        "fce:query.weight_hh": (12, 3),
    }
    assert not any("query" in name for name in Matching(fce=True, reads=0).init(net, rng).params)
    learned = Matching(temperature=7.0, learn_temperature=True).init(net, rng).params["matching:log_temperature"]
    assert learned.exp().item() == pytest.approx(7.0)


def test_a_cosine_knows_no_length_and_stays_finite_at_zero() -> None:
    query, support = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], requires_grad=True), torch.tensor([[[10.0, 0.0]]])
    out = similarity(Kernel.cosine, query, support)
    torch.testing.assert_close(out, torch.tensor([[[0.6], [0.0]]]))
    (gradient,) = torch.autograd.grad(out.sum(), query)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("algorithm", VARIANTS, ids=str)
def test_fine_tuning_lowers_the_support_loss_step_by_step_and_no_steps_are_none(algorithm: Matching) -> None:
    algorithm = dataclasses.replace(algorithm, fine_tune_lr=1e-3)
    spec, batch = images()
    net = smooth(spec)
    meta = init(algorithm, net)
    with torch.no_grad():
        predictors = list(algorithm.adapt(net, meta, batch.support, 3))
        losses = [
            task_loss(spec, predict(batch.support_x, BatchNorm.running), batch.support_y) for predict in predictors
        ]
        (plain,) = algorithm.adapt(net, meta, batch.support, 0)
        assert torch.equal(plain(batch.query_x, BatchNorm.running), predictors[0](batch.query_x, BatchNorm.running))
    assert len(losses) == 4
    assert all((after < before).all() for before, after in pairwise(losses))


def test_fine_tuning_is_gradient_descent_of_each_task_alone_on_the_networks_weights() -> None:
    spec, batch = images()
    net, algorithm = smooth(spec), Matching(fce=True, fine_tune_lr=0.1)
    meta = init(algorithm, net)
    with torch.no_grad():
        *_, predict = algorithm.adapt(net, meta, batch.support, 2)
        predicted = predict(batch.query_x, BatchNorm.running)
    for t, task in enumerate(batch.chunks(1)):
        phi = dict(meta.params)
        for _ in range(2):
            features = net.features(phi, task.support_x, Call(meta.buffers))[0]
            out = algorithm.log_probabilities(meta.params, task.support, 3, features, features)
            body = [name for name in phi if not name.startswith("fce:")]
            slopes = torch.autograd.grad(task_loss(spec, out, task.support_y).sum(), [phi[name] for name in body])
            phi |= {
                name: (phi[name] - 0.1 * slope).detach().requires_grad_()
                for name, slope in zip(body, slopes, strict=True)
            }
        features = net.features(phi, torch.cat([task.support_x, task.query_x], 1), Call(meta.buffers))[0]
        shots = task.support_y.shape[1]
        expected = algorithm.log_probabilities(meta.params, task.support, 3, features[:, :shots], features[:, shots:])
        torch.testing.assert_close(predicted[t : t + 1], expected.detach(), rtol=1e-9, atol=1e-9)


def test_the_loss_after_fine_tuning_is_differentiable_in_the_meta_parameters() -> None:
    spec, batch = images()
    net, algorithm = smooth(spec), Matching(temperature=2.0, fine_tune_lr=0.1, learn_temperature=True)
    meta = init(algorithm, net)

    def loss(params: Params) -> Tensor:
        *_, predict = algorithm.adapt(net, Meta(params, meta.buffers), batch.support, 2)
        return task_loss(spec, predict(batch.query_x, BatchNorm.running), batch.query_y).mean()

    gradient = mean_gradient(loss(meta.params), meta.params)
    slope, direction = finite_difference(loss, meta.params)
    claimed = sum((gradient[name] * direction[name]).sum().item() for name in direction)
    assert claimed == pytest.approx(slope, rel=1e-6)


def test_it_trains_with_another_way_than_it_is_tested_with() -> None:
    spec, train = images(way=5)
    _, test = images(way=3)
    spec = spec._replace(outputs=3, train_outputs=5)
    net, algorithm = smooth(spec), Matching()
    meta = init(algorithm, net)
    expect_definition(algorithm, net, meta, train, partial(definition, algorithm, net))
    with torch.no_grad():
        (predict,) = algorithm.adapt(net, meta, test.support, 0)
        assert predict(test.query_x, BatchNorm.running).shape == (3, 6, 3)
