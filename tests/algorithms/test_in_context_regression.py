"""In-context regression and SNAIL: gradients, prefixes of the support set, padding, and what they refuse."""

from dataclasses import replace

import pytest
import torch
from problems import expect_slope, gaussian_points, images, init, points, points_task, with_padding
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.in_context_regression import InContext
from metalearn_cli.algorithms.snail import SNAIL
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Net
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch
from metalearn_cli.tasks.function_class import FunctionClass

IN_CONTEXT = InContext(width=4, layers=2, heads=2, points=12)
SNAIL_2 = SNAIL(width=2, layers=2)
ON_VALUES = [(IN_CONTEXT, Linear(points()[0]), points()[1]), (IN_CONTEXT, Linear(gaussian_points()[0]), points()[1])]
ON_VALUES += [(SNAIL_2, Linear(points()[0]), points()[1])]
ON_CLASSES = (SNAIL_2, MLP(images()[0], hidden=(6,), activation=Activation.tanh), images()[1])
EACH = pytest.mark.parametrize(("algorithm", "net", "batch"), [*ON_VALUES, ON_CLASSES])


def predicted(algorithm: Algorithm, net: Net, meta: Meta, batch: Batch, steps: int = 0) -> list[Tensor]:
    predictors = algorithm.adapt(net, meta, batch.support, steps)
    return [predict(batch.query_x, BatchNorm.running, batch.query_mask) for predict in predictors]


@EACH
def test_the_meta_gradient_is_the_slope_of_the_loss(algorithm: Algorithm, net: Net, batch: Batch) -> None:
    expect_slope(algorithm, net, batch)


@EACH
def test_padding_and_other_queries_change_nothing_but_the_order_does(
    algorithm: Algorithm, net: Net, batch: Batch
) -> None:
    meta = init(algorithm, net)
    (expected,) = predicted(algorithm, net, meta, batch)
    alone = batch._replace(query_x=batch.query_x[:, 1:2], query_y=batch.query_y[:, 1:2])
    torch.testing.assert_close(predicted(algorithm, net, meta, alone)[0], expected[:, 1:2], rtol=1e-9, atol=1e-10)
    other = batch._replace(support_x=batch.support_x.flip(1), support_y=batch.support_y.flip(1))
    assert (predicted(algorithm, net, meta, other)[0] - expected).abs().max() > 1e-6
    padded = with_padding(batch)
    if net.spec.kind == "classes":
        padded = padded._replace(query_y=padded.query_y.clamp(max=2))  # a label
    torch.testing.assert_close(predicted(algorithm, net, meta, padded)[0][:, :-1], expected, rtol=1e-9, atol=1e-10)
    updates = [algorithm.meta_gradient(net, meta, part, 0) for part in (batch, padded)]
    torch.testing.assert_close(updates[1].loss, updates[0].loss, rtol=1e-9, atol=1e-10)
    for name, value in updates[0].gradient.items():
        torch.testing.assert_close(updates[1].gradient[name], value, rtol=1e-7, atol=1e-9)


def test_the_loss_of_a_sequence_is_that_of_predictions_from_each_prefix() -> None:
    algorithm, net, batch = ON_VALUES[0]
    meta = init(algorithm, net)
    x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
    errors = []
    for i in range(x.shape[1]):
        prefix = batch._replace(support_x=x[:, :i], support_y=y[:, :i], query_x=x[:, i : i + 1])
        errors.append((predicted(algorithm, net, meta, prefix)[0] - y[:, i : i + 1]).square().mean((1, 2)))
    torch.testing.assert_close(algorithm.meta_gradient(net, meta, batch, 0).loss, torch.stack(errors).mean(0))


def test_steps_are_parts_of_the_support_set() -> None:
    algorithm, net, batch = ON_VALUES[0]
    meta = init(algorithm, net)
    for steps, sizes in ((0, [5]), (1, [0, 5]), (2, [0, 2, 5]), (5, [0, 1, 2, 3, 4, 5])):
        outs = predicted(algorithm, net, meta, batch, steps)
        assert len(outs) == len(sizes)
        for out, size in zip(outs, sizes, strict=True):
            part = batch._replace(support_x=batch.support_x[:, :size], support_y=batch.support_y[:, :size])
            torch.testing.assert_close(out, predicted(algorithm, net, meta, part)[0])
    for number, real in ((3, 3), (6, 5)):
        padded = with_padding(batch).support.first(number)
        assert padded.mask is not None
        assert padded.mask.sum(1).tolist() == [real] * 3


def test_it_learns_linear_functions_in_context() -> None:
    """Of one input. Without an example nothing is known but the slope's variance, which is 1."""
    task = points_task(FunctionClass, dimension=1, shot=4, query=4, train_query=1)
    algorithm = InContext(width=16, layers=2, heads=2, points=5, test_steps=4)
    learner = Learner(algorithm, Linear(task.spec), Optimizer(lr=0.003), torch.Generator().manual_seed(0))
    for step in range(400):
        learner.step(task.gather(task.draw(64, "train", generator(0, step)), torch.device("cpu")), step)
    batch = task.gather(task.draw(256, "test", generator(1)), torch.device("cpu"))
    errors = learner.evaluate(batch, [BatchNorm.running])[BatchNorm.running].metric.mean(0)
    assert errors[0].item() == pytest.approx(1, abs=0.2)
    assert errors[1:].max() < 0.7


def test_what_they_cannot_do_is_said() -> None:
    spec, batch = images()
    with pytest.raises(UserError, match="this algorithm predicts values, and this task has classes: take task="):
        init(IN_CONTEXT, Conv4(spec, filters=2))
    with pytest.raises(UserError, match=r"task\.train_way=4 must equal task\.way=3"):
        init(SNAIL_2, Conv4(spec._replace(train_outputs=4), filters=2))
    with pytest.raises(UserError, match=r"trained with 5 classes, the support has 3, and algo=snail reads labels of 5"):
        SNAIL_2.require_way(5, 3)
    with pytest.raises(UserError, match=r"algo\.width=4 must be a multiple of algo\.heads=3"):
        replace(IN_CONTEXT, heads=3)
    short, (_, net, batch) = replace(IN_CONTEXT, points=8), ON_VALUES[0]
    meta = init(short, net)
    with pytest.raises(UserError, match=r"algo\.points=8 is the longest sequence, and this task has 9 points"):
        short.meta_gradient(net, meta, batch, 0)
    predicted(short, net, meta, batch)  # five of the support set and each query by itself
    with pytest.raises(UserError, match=r"algo\.points=5 is the longest sequence, and this task has 6 points"):
        predicted(replace(short, points=5), net, init(replace(short, points=5), net), batch)
