"""The algorithms that learn a start, or an embedding, get a small problem right in seconds; the others' tests hold
their own bounds.

Each bound is about halfway between what the algorithm reaches and what it has before training.
"""

import pytest
import torch
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.matching import Matching, Vote
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import InnerOptimizer, Reptile
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer
from metalearn_cli.seeding import generator
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical
from metalearn_cli.tasks.quadratics import Quadratics
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


def test_an_optimizer_learns_quadratics() -> None:
    """Twenty steps from an f of about 3 come below 1 after 60 meta-batches; untrained they do not."""
    task, mode = Quadratics(dimension=3), BatchNorm.transductive
    algorithm = LearnedOptimizer(horizon=20, test_steps=20)
    trained = Learner(algorithm, Linear(task.spec), Optimizer(lr=5e-3), generator(0, "init"))
    batch = task.gather(task.draw(128, "test", generator(0, "test")), CPU)
    before = trained.evaluate(batch, [mode])[mode].metric.mean(0)
    for step in range(60):
        trained.step(task.gather(task.draw(16, "train", generator(0, "train", step)), CPU), step)
    after = trained.evaluate(batch, [mode])[mode].metric.mean(0)
    assert 2.5 < after[0] == before[0] < 3.5
    assert before[-1] > 2.5
    assert after[-1] < 1


def clusters(tasks: int, seed: int) -> Batch:
    """Five classes, one shot: four coordinates tell the class, and twelve louder ones are noise."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(tasks, 5, 4, generator=rng)

    def part(count: int) -> tuple[Tensor, Tensor]:
        y = torch.rand(tasks, 5 * count, generator=rng).argsort(1) % 5
        signal = centres.gather(1, y.unsqueeze(-1).expand(-1, -1, 4))
        signal = signal + 0.1 * torch.randn(signal.shape, generator=rng)
        return torch.cat([signal, 2 * torch.randn(tasks, 5 * count, 12, generator=rng)], 2), y

    return Batch(*part(1), *part(3), torch.arange(tasks))


@pytest.mark.parametrize("algorithm", [ProtoNet(), Matching(), Matching(fce=True), Matching(vote=Vote.sum)], ids=str)
def test_embeddings_learn_what_tells_classes_apart(algorithm: Algorithm) -> None:
    """It rises from hardly above chance (20%) to 85% on tasks that it has not seen, in 200 steps."""
    net = MLP(Spec((16,), 5, 5, Categorical()), hidden=(32, 32))
    learner = Learner(algorithm, net, Optimizer(lr=0.01), torch.Generator().manual_seed(0))
    test, mode = clusters(200, seed=-1), BatchNorm.running
    before = learner.evaluate(test, [mode])[mode].metric.mean()
    for step in range(200):
        learner.step(clusters(8, step), step)
    assert before < 0.5
    assert learner.evaluate(test, [mode])[mode].metric.mean() > 0.85
