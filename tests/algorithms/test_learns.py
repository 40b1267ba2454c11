"""The algorithms that learn a start, or an embedding, get a small problem right in seconds; the others' tests hold
their own bounds.

Each bound is about halfway between what the algorithm reaches and what it has before training.
"""

import pytest
import torch

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import InnerOptimizer, Reptile
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.sinusoid import Sinusoid

CPU = torch.device("cpu")
SGD = InnerOptimizer.sgd


@pytest.mark.parametrize(
    ("algorithm", "optimizer", "bound"),
    [
        (MAML(inner_lr=0.01), Optimizer(lr=3e-3), 2.4),
        (MAML(inner_lr=0.05, first_order=True), Optimizer(lr=3e-3), 3.0),
        (MetaSGD(initial_lr=(0.03, 0.03)), Optimizer(lr=3e-3), 2.2),
        (Reptile(SGD, 0.02, inner_batch=None, inner_steps=8, test_steps=8), Optimizer(Method.sgd, lr=0.5), 2.7),
        (Pretrain(test_steps=1), Optimizer(lr=3e-3), 3.5),
    ],
)
def test_sinusoids(algorithm: Algorithm, optimizer: Optimizer, bound: float) -> None:
    """The error after adapting, of 200 test tasks: the best curve for all tasks has 3.0 on average."""
    task = Sinusoid()
    learner = Learner(algorithm, MLP(task.spec), optimizer, generator(0))
    test = task.gather(task.draw(200, "test", generator(0, "test", 0)), CPU)
    mode = BatchNorm.transductive
    before = learner.evaluate(test, [mode])[mode].loss[:, -1].mean()
    for step in range(250):
        learner.step(task.gather(task.draw(10, "train", generator(0, "train", step)), CPU), step)
    after = learner.evaluate(test, [mode])[mode].loss[:, -1].mean()
    assert before > 1.1 * bound
    assert after < bound


def test_protonet_learns_which_of_many_features_tell_classes_apart() -> None:
    """Classes differ in 2 of 20 features, and the others are noise of the same size: 5-way 1-shot."""

    def tasks(count: int, key: int) -> Batch:
        rng = generator("clusters", key)
        centres = torch.cat([3 * torch.randn(count, 5, 2, generator=rng), torch.zeros(count, 5, 18)], -1)
        noise = torch.cat([0.3 * torch.ones(2), 3 * torch.ones(18)])
        y = torch.arange(5).expand(count, 5)
        query_y = torch.arange(5).repeat(3).expand(count, 15)
        x = centres + noise * torch.randn(count, 5, 20, generator=rng)
        query_x = centres.repeat(1, 3, 1) + noise * torch.randn(count, 15, 20, generator=rng)
        return Batch(x, y, query_x, query_y, torch.arange(count))

    net = MLP(Spec((20,), 5, 5, "classes"), hidden=(32, 8))
    learner = Learner(ProtoNet(), net, Optimizer(lr=3e-3), generator(0))
    mode = BatchNorm.running
    before = learner.evaluate(tasks(200, -1), [mode])[mode].metric.mean()
    for step in range(200):
        learner.step(tasks(8, step), step)
    after = learner.evaluate(tasks(200, -1), [mode])[mode].metric.mean()
    assert before < 0.45
    assert after > 0.7
