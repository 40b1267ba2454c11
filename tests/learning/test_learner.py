import pytest
import torch
from problems import ALGORITHMS, DOUBLE, ON_MAPS, image_learner, images, points, snapshot
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.optimizer import Method, Optimizer, Schedule


@pytest.mark.parametrize("algorithm", ALGORITHMS + ON_MAPS)
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_change_nothing(algorithm: Algorithm, chunk: int) -> None:
    """Five tasks, so that chunks of 2 and 3 leave a smaller last one."""
    whole, cut = image_learner(algorithm, Optimizer()), image_learner(algorithm, Optimizer(), chunk)
    for step in range(3):
        batch = images(tasks=5, seed=step)[1]
        torch.testing.assert_close(whole.step(batch, step), cut.step(batch, step), rtol=1e-12, atol=1e-12)
    expected, actual = whole.state_dict(), cut.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-8, atol=1e-10)
    batch = images(tasks=5, seed=9)[1]
    modes = [BatchNorm.transductive, BatchNorm.running]
    for mode in modes:
        a, b = whole.evaluate(batch, modes)[mode], cut.evaluate(batch, modes)[mode]
        torch.testing.assert_close(a.loss, b.loss, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(a.metric, b.metric)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "optimizer",
    [
        Optimizer(),
        Optimizer(Method.adamw, weight_decay=0.1, clip_norm=0.01),
        Optimizer(Method.sgd, lr=0.1),
        Optimizer(Method.sgd, lr=0.1, momentum=0.9, schedule=Schedule.linear, schedule_steps=6, clip_value=1e-3),
    ],
)
def test_a_state_that_was_loaded_goes_on_with_the_same_bits(algorithm: Algorithm, optimizer: Optimizer) -> None:
    straight, first, second = (image_learner(algorithm, optimizer, seed=seed) for seed in (0, 0, 1))
    for step in range(6):
        straight.step(images(seed=step)[1], step)
    for step in range(3):
        first.step(images(seed=step)[1], step)
    second.load_state_dict(snapshot(first))
    for step in range(3, 6):
        second.step(images(seed=step)[1], step)
    assert straight.state_dict().keys() == second.state_dict().keys()
    for name, value in straight.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_one_step_is_torchs_own_optimizer_on_the_meta_gradient() -> None:
    spec, batch = points()
    net = MLP(spec)
    trained = Learner(MAML(), net, Optimizer(lr=0.01), torch.Generator().manual_seed(0), DOUBLE)
    before = {name: value.detach().clone().requires_grad_() for name, value in trained.meta.params.items()}
    gradient = MAML().meta_gradient(net, trained.meta._replace(params=before), batch, 0).gradient
    for name, value in before.items():
        value.grad = gradient[name]
    torch.optim.Adam(before.values(), lr=0.01, fused=True).step()
    trained.step(batch, 0)
    assert all(torch.equal(before[name], value) for name, value in trained.meta.params.items())


def moved(optimizer: Optimizer, step: int) -> Tensor:
    """How far one meta-iteration moves the parameters, as one vector."""
    spec, batch = points()
    trained = Learner(MAML(), MLP(spec), optimizer, torch.Generator().manual_seed(0), DOUBLE)
    before = snapshot(trained)
    trained.step(batch, step)
    after = trained.state_dict()
    return torch.cat([(after[name] - before[name]).flatten() for name in before])


def test_the_step_is_clipped_and_follows_its_schedule() -> None:
    free = moved(Optimizer(Method.sgd, lr=0.1), 0)
    assert free.norm() > 0.01
    torch.testing.assert_close(moved(Optimizer(Method.sgd, lr=0.1, clip_norm=1e-3), 0), free * 1e-4 / free.norm())
    by_value = moved(Optimizer(Method.sgd, lr=0.1, clip_value=1e-3), 0)
    torch.testing.assert_close(by_value, free.clamp(-1e-4, 1e-4))
    linear = Optimizer(Method.sgd, lr=0.1, schedule=Schedule.linear, schedule_steps=10)
    torch.testing.assert_close(moved(linear, 5), free / 2)
    assert not moved(linear, 10).any()


@pytest.mark.parametrize("algorithm", ALGORITHMS + ON_MAPS)
@pytest.mark.row("D4")
def test_query_labels_never_change_a_prediction(algorithm: Algorithm) -> None:
    trained = image_learner(algorithm, Optimizer())
    _, batch = images()
    shifted = batch._replace(query_y=(batch.query_y + 1) % 3)
    out = trained.adapt(batch.support)(batch.query_x, BatchNorm.transductive)
    assert torch.equal(out, trained.adapt(shifted.support)(shifted.query_x, BatchNorm.transductive))
    hits = [trained.evaluate(b, [BatchNorm.transductive])[BatchNorm.transductive].metric for b in (batch, shifted)]
    right = out.argmax(-1)
    for b, hit in zip((batch, shifted), hits, strict=True):
        torch.testing.assert_close(hit[:, -1], (right == b.query_y).double().mean(1))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.row("D7")
def test_random_labels_give_chance(algorithm: Algorithm) -> None:
    trained = image_learner(algorithm, Optimizer())
    _, batch = images(tasks=400, query=5)
    rng = torch.Generator().manual_seed(5)
    labels = torch.randint(3, batch.query_y.shape, generator=rng)
    hits = trained.evaluate(batch._replace(query_y=labels), [BatchNorm.inductive])[BatchNorm.inductive].metric[:, -1]
    assert abs(hits.mean() - 1 / 3) < 3 * hits.std() / len(hits) ** 0.5


def test_a_state_of_another_model_is_refused_and_changes_nothing() -> None:
    trained = image_learner(MAML(), Optimizer())
    before = snapshot(trained)
    other = Learner(MAML(), Conv4(images()[0], filters=4), Optimizer(), torch.Generator(), DOUBLE)
    missing = {name: value for name, value in before.items() if name != "params.head.bias"}
    for state in (other.state_dict(), missing):
        with pytest.raises(UserError, match="another model"):
            trained.load_state_dict(state)
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in before.items())
