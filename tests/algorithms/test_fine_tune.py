"""Baseline and Baseline++, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import expect_slope, images, init, predicted
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.fine_tune import Classifier, FineTune, HeadStart, Tuned
from metalearn_cli.algorithms.inner_loop import Descent, gradient_step, minibatch
from metalearn_cli.algorithms.protonet import Nearness, ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation

SPEC, BATCH = images(shot=3)
NET = Conv4(SPEC, filters=3)
PLAIN = {"batch_size": None, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0}


predict = partial(predicted, net=NET, mode=BatchNorm.running)


@pytest.mark.parametrize("head", list(Classifier))
def test_it_trains_on_all_classes_by_the_head_that_it_tunes(head: Classifier) -> None:
    labels = torch.arange(18).view(3, 6) % 7
    net = MLP(SPEC._replace(base=7), hidden=(6,), batch_norm=True, activation=Activation.tanh)
    expect_slope(FineTune(head), net, BATCH._replace(query_y=labels))
    with pytest.raises(UserError, match=r"algo=fine_tune trains on all training classes at once.*init=outputs/RUN"):
        FineTune(head).meta_gradient(NET, init(FineTune(head), NET), BATCH, 0)


def test_a_cosine_head_is_the_code_of_the_authors() -> None:
    algorithm = FineTune(Classifier.cosine)
    meta = init(algorithm, Conv4(SPEC._replace(base=7), filters=3))
    layer = weight_norm(nn.Linear(3, 7, bias=False).double(), dim=0)
    values = {"original0": meta.params["head.length"][:, None], "original1": meta.params["head.weight"]}
    features = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    named = {f"parametrizations.weight.{name}": value for name, value in values.items()}
    expected = 2 * torch.func.functional_call(layer, named, F.normalize(features, dim=-1))
    torch.testing.assert_close(algorithm.logits(meta.params, features), expected)


@pytest.mark.parametrize(
    ("head", "metric"), [(Classifier.linear, Nearness.euclid), (Classifier.cosine, Nearness.cosine)]
)
@pytest.mark.parametrize("adapted", list(Tuned))
def test_without_a_pass_from_the_means_it_is_protonet(head: Classifier, metric: Nearness, adapted: Tuned) -> None:
    nearest = ProtoNet(metric)
    meta = init(nearest, NET)
    scale = meta.params["scale"].item() if metric is Nearness.cosine else 1.0
    untouched = FineTune(head, scale=scale, passes=0, start=HeadStart.means, adapted=adapted)
    outs = [predict(algorithm, BATCH, meta).softmax(-1) for algorithm in (untouched, nearest)]
    torch.testing.assert_close(*outs)


def test_whole_batches_of_plain_steps_on_all_weights_are_mamls_inner_loop() -> None:
    net = MLP(SPEC, hidden=(6,))
    algorithm = FineTune(adapted=Tuned.all, passes=3, lr=0.05, **PLAIN)  # type: ignore[arg-type]
    meta = init(algorithm, net)
    features, _ = net.features(meta.params, BATCH.support_x)
    heads = algorithm.start_of_head(SPEC, BATCH.support, features)
    start = {name: value.expand(3, *value.shape) for name, value in meta.params.items()} | heads
    with torch.no_grad():
        at = Descent(start, dict.fromkeys(start, 0.05))
        for _ in range(3):
            at = gradient_step(net, BATCH.support, False, at)
        expected, _ = net(at.phi, BATCH.query_x)
    torch.testing.assert_close(predict(algorithm, BATCH, net=net), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", list(Classifier))
def test_the_probe_is_torchs_sgd_on_the_frozen_features(head: Classifier) -> None:
    algorithm = FineTune(head, passes=2)
    meta = init(algorithm, NET)
    stats = Call(stats=meta.buffers)
    features, query = (NET.features(meta.params, x, stats)[0].detach() for x in (BATCH.support_x, BATCH.query_x))
    task = BATCH.support._replace(x=features)
    start = algorithm.start_of_head(SPEC, task, features)
    expected = []
    for number in range(3):
        weights = {name: value[number].detach().clone().requires_grad_() for name, value in start.items()}
        sgd = torch.optim.SGD(weights.values(), 0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3)
        for step in range(5):  # two passes through 9 images, 4 at a time
            part = minibatch(task, 4, step)
            F.cross_entropy(algorithm.logits(weights, part.x[number]), part.y[number]).backward()
            sgd.step()
            sgd.zero_grad()
        expected.append(algorithm.logits(weights, query[number]).detach())
    torch.testing.assert_close(predict(algorithm, BATCH), torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adapted", list(Tuned))
def test_tasks_do_not_mix_and_training_knows_nothing_of_the_test(adapted: Tuned) -> None:
    algorithm = FineTune(adapted=adapted, passes=2)
    alone = [predict(algorithm, task) for task in BATCH.chunks(1)]
    torch.testing.assert_close(torch.cat(alone), predict(algorithm, BATCH), rtol=1e-10, atol=1e-12)
    whole = FineTune(adapted=adapted, passes=2, batch_size=None)
    order = torch.randperm(9)
    shuffled = BATCH._replace(support_x=BATCH.support_x[:, order], support_y=BATCH.support_y[:, order])
    torch.testing.assert_close(predict(whole, shuffled), predict(whole, BATCH), rtol=1e-9, atol=1e-11)
