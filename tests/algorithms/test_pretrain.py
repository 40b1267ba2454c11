"""The baseline of joint training, in float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import expect_slope, images, init, points, relative_error

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.capabilities import batch_norm_at_test, steps_at_test
from metalearn_cli.algorithms.features import BASE_MEAN, Centre, Normalise
from metalearn_cli.algorithms.losses import mean_gradient, task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch, Spec


@pytest.mark.row("D3")
def test_the_gradient_is_that_of_one_regression_on_all_points() -> None:
    spec, batch = points(tasks=4)
    net = MLP(spec, hidden=(6,), activation=Activation.tanh)
    meta = init(Pretrain(), net)
    x = torch.cat([batch.support_x, batch.query_x], 1).view(1, -1, 1)
    y = torch.cat([batch.support_y, batch.query_y], 1).view(1, -1, 1)
    expected = mean_gradient(task_loss(spec, net(meta.params, x)[0], y), meta.params)
    assert relative_error(Pretrain().meta_gradient(net, meta, batch, 0).gradient, expected) < 1e-12


def test_its_fine_tuning_is_mamls_adaptation() -> None:
    spec, batch = points()
    net = MLP(spec, hidden=(6,))
    meta = init(Pretrain(), net)
    with torch.no_grad():
        tuned, adapted = (
            [predict(batch.query_x, BatchNorm.transductive) for predict in algorithm.adapt(net, meta, batch.support, 3)]
            for algorithm in (Pretrain(inner_lr=0.05), MAML(inner_lr=0.05))
        )
    assert len(tuned) == 4
    assert all(torch.equal(a, b) for a, b in zip(tuned, adapted, strict=True))


def image_classes(spec: Spec, batch: Batch, base: int) -> tuple[Spec, Batch]:
    """The images of a batch as pictures of `base` training classes, without support sets."""
    labels = torch.arange(batch.query_y.numel()).view(batch.query_y.shape) % base
    return spec._replace(base=base), batch._replace(
        support_x=batch.support_x[:, :0], support_y=batch.support_y[:, :0], query_y=labels
    )


def test_classes_are_told_apart_by_one_head_for_all_of_them() -> None:
    spec, batch = image_classes(*images(), base=7)
    net, algorithm = Conv4(spec, filters=3), Pretrain(label_smoothing=0.1)
    meta = init(algorithm, net)
    assert meta.params["head.weight"].shape == (7, net.feature_count)
    update = algorithm.meta_gradient(net, meta, batch, 0)
    for task in range(3):  # each batch of images is normalised by itself
        features, _ = net.features(meta.params, batch.query_x[task : task + 1])
        logits = F.linear(features[0], meta.params["head.weight"], meta.params["head.bias"])
        expected = F.cross_entropy(logits, batch.query_y[task], label_smoothing=0.1)
        torch.testing.assert_close(update.loss[task], expected.detach())
    assert update.gradient["head.weight"].abs().min() > 0
    assert set(update.buffers) == set(net.init_stats())


def test_the_gradient_of_classes_is_the_finite_difference() -> None:
    spec, batch = image_classes(*images(), base=7)
    net = MLP(spec, hidden=(6,), batch_norm=True, activation=Activation.tanh)
    expect_slope(Pretrain(label_smoothing=0.2), net, batch)


@pytest.mark.parametrize("normalise", list(Normalise))
def test_classes_are_tested_as_protonet_does(normalise: Normalise) -> None:
    spec, batch = images()
    net = Conv4(spec._replace(base=7), filters=3)
    meta = init(Pretrain(), net)
    outs = []
    for algorithm in (Pretrain(normalise=normalise), ProtoNet(normalise=normalise)):
        assert steps_at_test(algorithm, net.spec) == 0
        assert batch_norm_at_test(algorithm, net.spec) is BatchNorm.running
        with torch.no_grad():
            (predict,) = algorithm.adapt(net, meta, batch.support, 0)
            outs.append(predict(batch.query_x, BatchNorm.running))
    assert torch.equal(*outs)


def test_the_centre_follows_the_mean_feature_under_the_running_statistics() -> None:
    spec, batch = image_classes(*images(), base=7)
    net, algorithm = Conv4(spec, filters=3), Pretrain(centre=Centre.base)
    meta = init(algorithm, net)
    meta = meta._replace(buffers=meta.buffers | {BASE_MEAN: torch.ones(3, dtype=torch.float64)})
    update, plain = (which.meta_gradient(net, meta, batch, 0) for which in (algorithm, Pretrain()))
    features, _ = net.features(meta.params, batch.query_x, Call(stats=meta.buffers))
    torch.testing.assert_close(update.buffers.pop(BASE_MEAN), 0.9 + 0.1 * features.detach().mean((0, 1)))
    assert all(torch.equal(value, plain.gradient[name]) for name, value in update.gradient.items())
    assert all(torch.equal(value, plain.buffers[name]) for name, value in update.buffers.items())


def test_what_makes_no_sense_with_classes_is_refused() -> None:
    spec, _ = images()
    with pytest.raises(UserError, match="learns all training classes at once"):
        Pretrain().init(Conv4(spec, filters=3), torch.Generator())
    with pytest.raises(UserError, match=r"algo\.test_steps=3 is for values"):
        Pretrain(test_steps=3).init(Conv4(spec._replace(base=7), filters=3), torch.Generator())
