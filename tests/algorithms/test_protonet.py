"""Prototypical Networks against the paper's equations, in float64."""

from functools import partial

import pytest
import torch
from problems import cases, expect_definition, expect_slope, images, init
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, task_loss
from metalearn_cli.algorithms.embedding import Normalise, squared_distance
from metalearn_cli.algorithms.protonet import Metric, ProtoNet, prototypes
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
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
    for algorithm in (ProtoNet(normalise=Normalise.l2), ProtoNet(metric=Metric.cosine)):
        with torch.no_grad():
            outs.append(next(algorithm.adapt(net, meta, batch.support, 0))(batch.query_x, BatchNorm.transductive))
    unit, cosines = outs
    torch.testing.assert_close(unit, 2 * cosines / 3 - 2)  # ||a - b||^2 = 2 - 2 cos(a, b)
    assert algorithm.learned(meta) == {"scale": 3.0}


def test_the_scale_of_cosines_is_learned() -> None:
    algorithm, (net, batch) = ProtoNet(metric=Metric.cosine), cases()[1]
    expect_slope(algorithm, net, batch)
    assert algorithm.meta_gradient(net, init(algorithm, net), batch, 0).gradient["scale"].abs() > 0
