"""Prototypical Networks against the paper's equations, in float64."""

from functools import partial

import pytest
import torch
from problems import cases, expect_definition, expect_slope, images, init
from torch import Tensor

from metalearn_cli.algorithms.base import task_loss
from metalearn_cli.algorithms.embedding import squared_distance
from metalearn_cli.algorithms.protonet import ProtoNet, prototypes
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
