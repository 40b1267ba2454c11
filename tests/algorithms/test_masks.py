"""Tasks of different sizes in one batch: padding changes nothing, held against each task alone, in float64."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from problems import DOUBLE, ON_MAPS, init, relative_error
from torch import Tensor, nn

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.cavia import CAVIA
from metalearn_cli.algorithms.deep_emd import DeepEMD
from metalearn_cli.algorithms.feat import FEAT
from metalearn_cli.algorithms.features import Normalise
from metalearn_cli.algorithms.fine_tune import Classifier, FineTune, HeadStart, Tuned
from metalearn_cli.algorithms.hand_optimizer import HandOptimizer
from metalearn_cli.algorithms.imaml import IMAML
from metalearn_cli.algorithms.knn import KNN
from metalearn_cli.algorithms.laplacian_shot import LaplacianShot
from metalearn_cli.algorithms.learned_optimizer import LearnedOptimizer
from metalearn_cli.algorithms.leo import LEO
from metalearn_cli.algorithms.logistic import Logistic
from metalearn_cli.algorithms.losses import task_loss, task_scores, without_absent_classes
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.maml_plus_plus import MAMLPlusPlus
from metalearn_cli.algorithms.matching import Kernel, Matching, Vote
from metalearn_cli.algorithms.meta_curvature import MetaCurvature
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.metaoptnet import MetaOptNet
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.proto_maml import ProtoMAML
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.reptile import InnerOptimizer, Reptile
from metalearn_cli.algorithms.ridge import Ridge
from metalearn_cli.algorithms.tim import TIM, Solver
from metalearn_cli.algorithms.tpn import TPN
from metalearn_cli.errors import UserError
from metalearn_cli.learning.learner import Learner
from metalearn_cli.nets.base import Call, Net, Params
from metalearn_cli.nets.conv4 import Conv4, Downsample
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.optimizer import Optimizer
from metalearn_cli.tasks.base import Batch, Spec
from metalearn_cli.tasks.likelihood import Categorical, SquaredError

SIZES = ((4, 6, 3), (3, 8, 2), (2, 5, 4))  # way, support, query of each task
MOST_WAY, MOST_SUPPORT, MOST_QUERY = 4, 9, 6

HEADS = [  # one output for each class
    MAML(inner_lr=0.1, inner_steps=2, test_steps=2),
    MAML(inner_lr=0.1, first_order=True, test_steps=2),
    MAML(inner_lr=0.1, inner_steps=2, remat=True),
    IMAML(inner_steps=2, test_steps=2, strength=10.0),
    MAMLPlusPlus(inner_steps=2, test_steps=2),
    MetaCurvature(inner_steps=2, test_steps=2),
    MetaSGD(inner_steps=2, test_steps=2),
    MetaLSTM(inner_steps=2, test_steps=2, gradient_divided_twice=True),
    Reptile(inner_steps=2, inner_batch=None, test_batch=None, test_steps=2),
    Reptile(inner_steps=2, inner_batch=None, test_batch=None, inner_optimizer=InnerOptimizer.sgd),
]
COMPARING = [
    ProtoNet(),
    ProtoMAML(inner_lr=0.1, inner_steps=2, test_steps=2),
    FEAT(temperature=2.0, balance=0.5),
    LEO(latents=4, latent_steps=2, tuning_steps=1),
    Ridge(learn_penalty=True),
    Ridge(0.3, newton_steps=2, per_example=True),
    MetaOptNet(label_smoothing=0.1),
    Logistic(normalise=Normalise.none),
    KNN(k=3, temperature=0.1),
    Matching(test_steps=2, fine_tune_lr=0.1, learn_temperature=True),
    Matching(kernel=Kernel.euclidean, temperature=1.0),
    Matching(kernel=Kernel.dot, temperature=0.1, vote=Vote.sum),
    TPN(neighbours=3, hidden=2),
]
TUNED = [
    LaplacianShot(normalise=Normalise.none),  # in three numbers, unit vectors would tie
    TIM(iterations=3),
    TIM(Solver.adm, 3),
    FineTune(passes=3, batch_size=None),
    FineTune(Classifier.cosine, adapted=Tuned.all, start=HeadStart.means, passes=3, batch_size=None),
]
OPTIMIZERS = [
    LearnedOptimizer((4,), batch_size=None, unroll=2, horizon=4, test_steps=3, scale=0.1),
    HandOptimizer(rates=(0.01, 0.1), batch_size=None, horizon=3, test_steps=3),
]


class Norms(nn.Module):
    """A user's module with both kinds of batch norm. Without biases before them: their slopes are zero but for
    rounding, of which Adam would make whole steps."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.hidden, self.flat = nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(torch.tanh(self.flat(self.hidden(x))))


def mlp(spec: Spec) -> Net:
    return MLP(spec, hidden=(6, 5), batch_norm=True)


MAKES = {
    "conv": lambda spec: Conv4(spec, filters=3),
    "strided": lambda spec: Conv4(spec, filters=3, downsample=Downsample.stride, gamma=False),
    "mlp": mlp,
    "users": lambda spec: module_net(Norms, spec, {}),
}
NETS = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


def spec_of(way: int) -> Spec:
    return Spec((1, 16, 16), way, way, Categorical(), padded=True)


def padded(ways: bool = True) -> Batch:
    """Three tasks of random pixels; what pads them is large, and would show in any sum."""
    rng = torch.Generator().manual_seed(0)
    part: dict[str, list[Tensor]] = defaultdict(list)
    for task, (way, support, query) in enumerate(SIZES):
        way = way if ways else MOST_WAY
        part["key"].append(torch.tensor(task))
        part["way"].append(torch.tensor(way))
        for name, count, most in (("support", support, MOST_SUPPORT), ("query", query, MOST_QUERY)):
            x = 100 * torch.rand(most, 1, 16, 16, generator=rng, dtype=torch.float64)
            x[:count] = torch.rand(count, 1, 16, 16, generator=rng, dtype=torch.float64)
            y = torch.zeros(most, dtype=torch.int64)
            y[:count] = torch.rand(count, generator=rng).argsort() % way
            part[f"{name}_x"].append(x)
            part[f"{name}_y"].append(y)
            part[f"{name}_mask"].append(torch.arange(most) < count)
    return Batch(**{name: torch.stack(values) for name, values in part.items()})


def alone(batch: Batch, number: int) -> Batch:
    """A task without padding, whose network has as many outputs as it has classes."""
    return batch.task(number)._replace(way=None)


def with_outputs(params: Params, way: int) -> Params:
    """The parameters of a head with `way` outputs."""
    return {n: value[:way] if "head." in n and value.shape[:1] == (MOST_WAY,) else value for n, value in params.items()}


def widened(gradient: Params, like: Params) -> Params:
    """Zero for the outputs that a task has not."""
    wide = {name: torch.zeros_like(value) for name, value in like.items()}
    for name, value in gradient.items():
        wide[name][tuple(slice(0, size) for size in value.shape)] = value
    return wide


def check_steps(algorithm: Algorithm, make: Any, batch: Batch, ways: list[int]) -> None:
    """Loss, meta-gradient and running statistics of a batch are those of its tasks alone."""
    net = make(spec_of(MOST_WAY))
    meta = init(algorithm, net)
    together = algorithm.meta_gradient(net, meta, batch, 0)
    losses, gradients, buffers = [], [], []
    for number, way in enumerate(ways):
        own_meta = Meta(*(with_outputs(part, way) for part in meta))
        leaves = {name: value.detach().requires_grad_() for name, value in own_meta.params.items()}
        update = algorithm.meta_gradient(make(spec_of(way)), Meta(leaves, own_meta.buffers), alone(batch, number), 0)
        losses.append(update.loss)
        gradients.append(widened(update.gradient, meta.params))
        buffers.append({name: value for name, value in update.buffers.items() if "norm" in name or "flat" in name})
    torch.testing.assert_close(together.loss, torch.cat(losses), rtol=1e-10, atol=1e-12)
    mean = {name: torch.stack([g[name] for g in gradients]).mean(0) for name in meta.params}
    assert relative_error(together.gradient, mean) < 1e-9
    assert buffers[0] or not net.init_stats()
    for name in buffers[0]:
        expected = torch.stack([buffer[name] for buffer in buffers]).mean(0)
        torch.testing.assert_close(together.buffers[name], expected, rtol=1e-10, atol=1e-12)


@NETS
@pytest.mark.parametrize("algorithm", HEADS + COMPARING, ids=str)
def test_a_step_on_padded_tasks_is_that_on_each_alone(algorithm: Algorithm, make: Any) -> None:
    check_steps(algorithm, make, padded(), [way for way, _, _ in SIZES])


def test_a_context_is_set_by_the_real_examples() -> None:
    check_steps(CAVIA(), lambda spec: Conv4(spec, filters=3, context=2), padded(), [way for way, _, _ in SIZES])


@pytest.mark.parametrize("algorithm", OPTIMIZERS, ids=str)
def test_optimizees_may_have_supports_of_different_sizes(algorithm: Algorithm) -> None:
    """All of one way: theta's start is drawn by the number of a weight, which a narrower head would change."""
    check_steps(algorithm, mlp, padded(ways=False)._replace(way=None), [MOST_WAY] * len(SIZES))


@NETS
@pytest.mark.parametrize("algorithm", HEADS + COMPARING + TUNED, ids=str)
def test_a_test_of_padded_tasks_is_that_of_each_alone(algorithm: Algorithm, make: Any) -> None:
    batch, modes = padded(), list(BatchNorm)
    rng = torch.Generator().manual_seed(0)
    learner = Learner(algorithm, make(spec_of(MOST_WAY)), Optimizer(), rng, DOUBLE)
    moved = {name: value + 0.1 for name, value in learner.state_dict().items() if not name.startswith("optimizer.")}
    learner.load_state_dict(learner.state_dict() | moved)
    together = learner.evaluate(batch, modes)
    for number, (way, _, _) in enumerate(SIZES):
        single = Learner(algorithm, make(spec_of(way)), Optimizer(), rng, DOUBLE)
        single.load_state_dict(with_outputs(learner.state_dict(), way))
        expected = single.evaluate(alone(batch, number), modes)
        for mode in modes:
            for part in ("loss", "metric"):
                value = getattr(together[mode], part)[number : number + 1]
                torch.testing.assert_close(value, getattr(expected[mode], part), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("algorithm", [*ON_MAPS, DeepEMD(blur=0.2, iterations=20, refine_steps=1)], ids=str)
def test_padded_tasks_of_images_of_features(algorithm: Algorithm) -> None:
    check_steps(algorithm, MAKES["conv"], padded(), [way for way, _, _ in SIZES])
    test_a_test_of_padded_tasks_is_that_of_each_alone(algorithm, MAKES["conv"])


def test_values_of_tasks_of_different_sizes() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 5, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    spec = Spec((2,), 2, 2, SquaredError(), padded=True)
    batch = Batch(x, y, x.flip(1), y.flip(1), torch.arange(2), mask, mask.flip(1))
    for algorithm in (Pretrain(), *HEADS, *OPTIMIZERS):
        net = MLP(spec, hidden=(4,))
        meta = init(algorithm, net)
        together = algorithm.meta_gradient(net, meta, batch, 0)
        single = [algorithm.meta_gradient(net, meta, batch.task(number), 0) for number in range(2)]
        torch.testing.assert_close(together.loss, torch.cat([update.loss for update in single]), rtol=1e-12, atol=0)
        mean = {name: torch.stack([update.gradient[name] for update in single]).mean(0) for name in meta.params}
        assert relative_error(together.gradient, mean) < 1e-12


def test_loss_and_accuracy_see_real_examples_and_classes_only() -> None:
    spec, out = spec_of(3), torch.tensor([[[0.0, 1.0, 9.0], [5.0, 0.0, 0.0]]])
    y, mask, way = torch.tensor([[1, 1]]), torch.tensor([[True, False]]), torch.tensor([2])
    assert task_scores(spec, out, y, mask, way)["accuracy"].tolist() == [1.0]
    assert task_scores(spec, out, y, mask)["accuracy"].tolist() == [0.0]
    assert task_scores(spec, out, y, None, way)["accuracy"].tolist() == [0.5]
    expected = torch.nn.functional.cross_entropy(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    torch.testing.assert_close(task_loss(spec, out, y, mask, way), expected[None])
    assert torch.equal(without_absent_classes(out, way)[..., :2], out[..., :2])


def test_a_task_without_its_padding_and_a_batch_in_chunks() -> None:
    batch = padded()
    for number, (way, support, query) in enumerate(SIZES):
        task = batch.task(number)
        assert task.support_mask is None
        assert task.query_mask is None
        assert (task.support_y.shape, task.query_x.shape[:2]) == ((1, support), (1, query))
        assert task.way is not None
        assert task.way.tolist() == [way]
    chunks = batch.chunks(2)
    assert [len(chunk.key) for chunk in chunks] == [2, 1]
    for name, whole in batch.tensors().items():
        assert torch.equal(torch.cat([chunk.tensors()[name] for chunk in chunks]), whole)
    single = batch.to(torch.float32)
    assert (single.support_x.dtype, single.support_mask) == (torch.float32, batch.support_mask)


def test_a_module_that_mixes_examples_cannot_be_masked() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(16), nn.Linear(256, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(x.reshape(-1, 16)).view(len(x), -1))

    net, batch = module_net(Mixing, spec_of(4), {}), padded()
    with pytest.raises(UserError, match=r"norm gets 144 rows for 9 examples: where tasks vary in size, one each"):
        net(
            {name: value.double() for name, value in net.init(torch.Generator()).items()},
            batch.support_x,
            Call(mask=batch.support_mask),
        )


def test_attention_is_shared_by_the_real_examples_of_the_real_classes() -> None:
    """The loss would not tell: what all classes share leaves it as it is."""
    algorithm, batch = Matching(), padded()
    net = Conv4(spec_of(MOST_WAY), filters=3)
    with torch.no_grad():
        (predict,) = algorithm.adapt(net, init(algorithm, net), batch.support, 0)
        p = predict(batch.query_x, BatchNorm.inductive).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    for number, (way, _, _) in enumerate(SIZES):
        assert (p[number, :, way:] == 0).all()
