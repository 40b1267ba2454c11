"""The baseline of joint training, in float64."""

import pytest
import torch
from problems import init, points, relative_error

from metalearn_cli.algorithms.base import BatchNorm, mean_gradient, task_loss
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.nets.mlp import MLP, Activation


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
