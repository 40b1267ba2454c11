"""Prototypical Networks against the paper's equations, in float64."""

import pytest
import torch
from problems import along, finite_difference, images, init, one_task, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm, Meta, task_loss
from metalearn_cli.algorithms.embedding import squared_distance
from metalearn_cli.algorithms.protonet import ProtoNet, prototypes
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Spec, Support


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
    update = algorithm.meta_gradient(net, meta, batch, 0)
    loss = torch.cat([definition(net, meta.params, task) for task in one_task(batch)]).mean()
    expected = dict(zip(meta.params, torch.autograd.grad(loss, list(meta.params.values())), strict=True))
    assert relative_error(update.gradient, expected) < 1e-10
    assert not any(name.startswith("head.") for name in meta.params)


@pytest.mark.row("D3")
def test_meta_gradient_equals_finite_differences() -> None:
    spec, batch = images()
    net, algorithm = MLP(spec, hidden=(6, 4), activation=Activation.tanh, batch_norm=True), ProtoNet()
    meta = init(algorithm, net)
    update = algorithm.meta_gradient(net, meta, batch, 0)

    def loss(params: Params) -> Tensor:
        return algorithm.meta_gradient(net, Meta(params, meta.buffers), batch, 0).loss.mean()

    slope, direction = finite_difference(loss, meta.params)
    assert along(update, direction) == pytest.approx(slope, rel=1e-6)


def test_it_is_a_linear_head() -> None:
    """Section 2.4 of the paper: weights 2 c_k and biases -||c_k||^2, up to a term that all classes share."""
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, 5, generator=rng, dtype=torch.float64)
    support_y = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    centres = prototypes(features[:, :5], Support(features[:, :5], support_y, torch.arange(2)), 3)
    query = features[:, 5:]
    linear = query @ (2 * centres).transpose(1, 2) - centres.square().sum(-1).unsqueeze(1)
    torch.testing.assert_close((-squared_distance(query, centres)).softmax(-1), linear.softmax(-1))


def test_batch_norm_modes_are_what_they_say() -> None:
    spec, batch = images()
    net, algorithm = Conv4(spec, filters=3), ProtoNet()
    meta = init(algorithm, net)
    with torch.no_grad():
        (predict,) = algorithm.adapt(net, meta, batch.support, 0)
        whole = {mode: predict(batch.query_x, mode) for mode in BatchNorm}
        alone = {mode: predict(batch.query_x[:, :1], mode) for mode in BatchNorm}
    for mode in (BatchNorm.inductive, BatchNorm.running, BatchNorm.one_query):
        torch.testing.assert_close(whole[mode][:, :1], alone[mode])
    assert not torch.allclose(whole[BatchNorm.transductive][:, :1], alone[BatchNorm.transductive])
    distinct = [whole[mode] for mode in BatchNorm]
    assert all(not torch.allclose(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def test_values_instead_of_classes_are_refused_in_a_sentence() -> None:
    spec = Spec((1,), 1, 1, "values")
    with pytest.raises(UserError, match="algo=maml"):
        ProtoNet().init(MLP(spec), torch.Generator())
