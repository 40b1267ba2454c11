"""Proto-MAML against the paper's equations and against ProtoNet, in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import Module, cases, expect_definition, expect_slope, images, init, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import AdaptedPart
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = images(way=3)
PLAIN = MLP(SPEC, hidden=(6,), activation=Activation.tanh)


def definition(algorithm: ProtoMAML, net: Net, params: Params, task: Batch) -> Tensor:
    """The query loss of one task by the paper's equations."""
    features = net.features(params, task.support_x)[0][0]
    means = torch.stack([features[task.support_y[0] == k].mean(0) for k in range(net.spec.train_outputs)])
    body = {name: value.clone() for name, value in params.items()}  # whose slopes do not run through the means
    phi = body | {"head.weight": 2 * means, "head.bias": -means.square().sum(1)}

    def out(x: Tensor, stats: Params | None) -> Tensor:
        return F.linear(net.features(phi, x, Call(stats=stats))[0], phi["head.weight"], phi["head.bias"])

    for _ in range(algorithm.inner_steps):
        loss = task_loss(net.spec, out(task.support_x, None), task.support_y).sum()
        names = [name for name in phi if "norm" not in name]
        slopes = torch.autograd.grad(loss, [phi[name] for name in names], create_graph=True)
        slopes = tuple(slope.detach() for slope in slopes) if algorithm.first_order else slopes
        phi = phi | {n: phi[n] - algorithm.inner_lr * slope for n, slope in zip(names, slopes, strict=True)}
    stats = net.features(phi, task.support_x)[1]
    return task_loss(net.spec, out(task.query_x, stats), task.query_y)


def test_meta_gradient_equals_finite_differences() -> None:
    expect_slope(ProtoMAML(inner_lr=0.1, inner_steps=2), *cases()[1], step=1e-5)


@pytest.mark.parametrize("first_order", [False, True])
def test_meta_gradient_equals_the_definition_task_by_task_in_another_way_than_the_tests(first_order: bool) -> None:
    algorithm = ProtoMAML(inner_lr=0.1, inner_steps=2, first_order=first_order)
    net, batch = MLP(SPEC._replace(outputs=5), hidden=(6,), batch_norm=True), BATCH
    expect_definition(algorithm, net, init(algorithm, net), batch, partial(definition, algorithm, net))


def test_without_a_step_it_is_protonet() -> None:
    algorithm = ProtoMAML(inner_steps=0)
    meta = init(algorithm, PLAIN)
    update, expected = (a.meta_gradient(PLAIN, meta, BATCH, 0) for a in (algorithm, ProtoNet()))
    torch.testing.assert_close(update.loss, expected.loss)
    assert relative_error(update.gradient, expected.gradient) < 1e-12
    net, batch = cases()[2]  # with batch norm
    with torch.no_grad():
        firsts = [next(iter(a.adapt(net, init(a, net), batch.support, 0))) for a in (algorithm, ProtoNet())]
        outs = [first(batch.query_x, BatchNorm.inductive).softmax(-1) for first in firsts]
    torch.testing.assert_close(*outs)


def test_permuting_the_labels_permutes_the_outputs_and_the_head_of_a_module_is_left_out() -> None:
    algorithm, new = ProtoMAML(inner_lr=0.1, inner_steps=2, adapted=AdaptedPart.all), torch.tensor([2, 0, 1])
    for net in (PLAIN, module_net(Module, SPEC, {})):
        outs = []
        meta = init(algorithm, net)
        assert not any(name.startswith("head.") for name in meta.params)
        for labels in (BATCH.support_y, new[BATCH.support_y]):
            with torch.no_grad():
                *_, predict = algorithm.adapt(net, meta, BATCH.support._replace(y=labels), 2)
                outs.append(predict(BATCH.query_x, BatchNorm.inductive))
        torch.testing.assert_close(outs[1][..., new], outs[0])
        still, *_ = replace(algorithm, inner_lr=0.0).adapt(net, meta, BATCH.support, 0)
        assert not torch.allclose(outs[0], still(BATCH.query_x, BatchNorm.inductive))
