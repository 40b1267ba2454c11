"""Prototypical Networks against the paper's equations, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, images, init
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta
from metalearn_cli.algorithms.embedding import mean_feature
from metalearn_cli.algorithms.features import BASE_MEAN, Centre, Normalise, squared_distance
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet, prototypes
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Support


def definition(net: Conv4, params: Params, batch: Batch) -> Tensor:
    """The loss of one task by equations 1 and 2, with batch norm over support and query together."""
    shots = batch.support_y.shape[1]
    features = net.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
    support, query = features[:shots], features[shots:]
    means = torch.stack([support[batch.support_y[0] == k].mean(0) for k in range(net.spec.outputs)])
    logits = -torch.stack([(query - mean).square().sum(1) for mean in means], 1)
    return task_loss(net.spec, logits[None], batch.query_y)


@pytest.mark.row("D3")
def test_meta_gradient_equals_the_definition_task_by_task() -> None:
    spec, batch = images()
    net, algorithm = Conv4(spec, filters=3), ProtoNet()
    meta = init(algorithm, net)
    expect_definition(algorithm, net, meta, batch, partial(definition, net))
    assert not any(name.startswith("head.") for name in meta.params)


@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences() -> None:
    expect_slope(ProtoNet(), *cases()[1])


def test_it_is_a_linear_head() -> None:
    """Section 2.4 of the paper: weights 2 c_k and biases -||c_k||^2, up to a term that all classes share."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, 5, generator=rng, dtype=torch.float64)
    support_y = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    centres = prototypes(features[:, :5], Support(features[:, :5], support_y, torch.arange(2)), 3)
    query = features[:, 5:]
    linear = query @ (2 * centres).transpose(1, 2) - centres.square().sum(-1).unsqueeze(1)
    torch.testing.assert_close((-squared_distance(query, centres)).softmax(-1), linear.softmax(-1))


def test_the_mean_of_unit_features_and_the_nearest_angle() -> None:
    """With one shot, unit features by distance choose as cosines do: both are nearest neighbours by angle."""
    spec, batch = images(shot=1)
    net = Conv4(spec, filters=3)
    meta = init(ProtoNet(), net)
    meta = meta._replace(params=meta.params | {"scale": torch.tensor(3.0, dtype=torch.float64)})
    outs = []
    for algorithm in (ProtoNet(normalise=Normalise.l2), ProtoNet(metric=Nearness.cosine)):
        with torch.no_grad():
            outs.append(next(algorithm.adapt(net, meta, batch.support, 0))(batch.query_x, BatchNorm.transductive))
    unit, cosines = outs
    torch.testing.assert_close(unit, 2 * cosines / 3 - 2)  # ||a - b||^2 = 2 - 2 cos(a, b)
    assert algorithm.learned(meta) == {"scale": 3.0}


def test_the_scale_of_cosines_is_learned() -> None:
    algorithm, (net, batch) = ProtoNet(metric=Nearness.cosine), cases()[1]
    expect_slope(algorithm, net, batch)
    assert algorithm.meta_gradient(net, init(algorithm, net), batch, 0).gradient["scale"].abs() > 0


def test_a_temperature_divides_squared_distances_alone() -> None:
    net, batch = cases()[1]
    meta = init(ProtoNet(), net)
    with torch.no_grad():
        warm, plain = (
            next(algorithm.adapt(net, meta, batch.support, 0))(batch.query_x, BatchNorm.running)
            for algorithm in (ProtoNet(temperature=4.0), ProtoNet())
        )
    torch.testing.assert_close(4 * warm, plain)
    expect_slope(ProtoNet(temperature=4.0), net, batch)
    with pytest.raises(UserError, match=r"algo.temperature=4 divides squared distances, and cosines have a learned"):
        init(ProtoNet(Nearness.cosine, temperature=4.0), net)


def test_the_mean_feature_of_the_training_classes_is_followed_and_subtracted() -> None:
    spec, batch = images()
    net = Conv4(spec._replace(base=9), filters=3)
    centred, plain = ProtoNet(normalise=Normalise.l2, centre=Centre.base), ProtoNet(normalise=Normalise.l2)
    meta = init(centred, net)
    assert torch.equal(meta.buffers[BASE_MEAN], torch.zeros(3))
    torch.testing.assert_close(
        predicted(centred, net, meta, batch), predicted(plain, net, meta._replace(buffers={}), batch)
    )

    mean = torch.tensor([0.3, 0.1, 0.4], dtype=torch.float64)
    meta = meta._replace(buffers=meta.buffers | {BASE_MEAN: mean})
    features, _ = net.features(meta.params, torch.cat([batch.support_x, batch.query_x], 1))
    support, query = F.normalize(features.detach() - mean, dim=-1).split([6, 6], 1)
    centres = prototypes(support, batch.support, 3)
    torch.testing.assert_close(predicted(centred, net, meta, batch), -squared_distance(query, centres))
    for chunk in (batch, *batch.chunks(1)):  # the average of the tasks' buffers is that of all of them
        rows = features[chunk.key]
        update = centred.meta_gradient(net, meta, chunk, 0)
        torch.testing.assert_close(update.buffers[BASE_MEAN], 0.9 * mean + 0.1 * rows.mean((0, 1)).detach())


def predicted(algorithm: ProtoNet, net: Conv4, meta: Meta, batch: Batch) -> Tensor:
    with torch.no_grad():
        (predictor,) = algorithm.adapt(net, meta, batch.support, 0)
        return predictor(batch.query_x, BatchNorm.transductive)


def test_the_mean_feature_is_of_real_examples() -> None:
    features = torch.arange(12.0).view(1, 4, 3)
    mask = torch.tensor([[True, True, False, False]])
    batch = Batch(features, mask.long(), features, mask.long(), torch.zeros(1), mask, mask.flip(1))
    torch.testing.assert_close(mean_feature(features, features, batch), features.mean(1))
    torch.testing.assert_close(mean_feature(features, 0 * features, batch), features[:, :2].sum(1) / 4)


def test_the_slope_with_a_centre_takes_it_for_a_constant() -> None:
    net, batch = cases()[1]
    net = MLP(net.spec._replace(base=9), hidden=(6,), batch_norm=True, activation=Activation.tanh)
    for metric in Nearness:
        expect_slope(ProtoNet(metric, Normalise.l2, Centre.base), net, batch, step=1e-5)


def test_a_centre_needs_training_classes() -> None:
    with pytest.raises(UserError, match=r"algo.centre=base is the mean feature of all training classes, .*centre=none"):
        ProtoNet(centre=Centre.base).init(Conv4(images()[0]), torch.Generator())
