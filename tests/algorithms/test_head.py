"""head=mean: every class starts alike, in training and at prediction."""

from dataclasses import replace

import pytest
import torch
from problems import expect_slope, images, init, points, relative_error
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.inner_loop import Head
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.meta_sgd import MetaSGD
from metalearn_cli.algorithms.reptile import InnerOptimizer, Reptile
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Net, with_outputs
from metalearn_cli.nets.bfloat16 import Reduced
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.tasks.base import Spec
from metalearn_cli.tasks.likelihood import Categorical

SPEC, BATCH = images(way=4)
NET = MLP(SPEC, hidden=(6,), batch_norm=True, activation=Activation.tanh)
MEAN = [
    MAML(inner_lr=0.5, inner_steps=3, test_steps=3, head=Head.mean),
    MAML(inner_lr=0.5, inner_steps=2, test_steps=2, head=Head.mean, first_order=True, adapted=AdaptedPart.head),
    MetaSGD(inner_steps=2, test_steps=2, head=Head.mean),
    Reptile(inner_lr=0.1, inner_steps=3, test_steps=3, head=Head.mean),
    Reptile(inner_lr=0.1, inner_optimizer=InnerOptimizer.sgd, test_steps=3, head=Head.mean),
]


@pytest.mark.parametrize("algorithm", [MEAN[0], MEAN[2], MAML(inner_lr=0.5, inner_steps=2, head=Head.mean, remat=True)])
def test_the_meta_gradient_equals_finite_differences(algorithm: Algorithm) -> None:
    expect_slope(algorithm, NET, BATCH)


def test_it_is_maml_from_a_head_of_equal_rows() -> None:
    """Each row gets the mean of the gradients that MAML has for the rows of that head."""
    algorithm = MEAN[0]
    meta = init(algorithm, NET)
    rows = {"head.weight", "head.bias"}
    equal = {n: v.detach().mean(0).expand_as(v) if n in rows else v.detach() for n, v in meta.params.items()}
    plain = replace(algorithm, head=Head.learned)  # type: ignore[type-var]
    start = Meta({name: value.clone().requires_grad_() for name, value in equal.items()}, meta.buffers)
    expected = plain.meta_gradient(NET, start, BATCH, 0)
    update = algorithm.meta_gradient(NET, meta, BATCH, 0)
    shared = {n: v.mean(0).expand_as(v) if n in rows else v for n, v in expected.gradient.items()}
    assert relative_error(update.gradient, shared) < 1e-12
    torch.testing.assert_close(update.loss, expected.loss)


def predictions(algorithm: Algorithm, meta: Meta, support_y: Tensor) -> Tensor:
    support = BATCH.support._replace(y=support_y)
    with torch.no_grad():
        *_, predict = algorithm.adapt(NET, meta, support, algorithm.test_steps)
        return predict(BATCH.query_x, BatchNorm.inductive)


@pytest.mark.parametrize("algorithm", MEAN, ids=lambda a: type(a).__name__)
def test_permuting_the_labels_permutes_the_predictions(algorithm: Algorithm) -> None:
    new = torch.tensor([2, 0, 3, 1])  # the label that each label becomes
    meta = init(algorithm, NET)
    meta = meta._replace(buffers={n: v + torch.rand_like(v) if "adam" in n else v for n, v in meta.buffers.items()})
    before, after = predictions(algorithm, meta, BATCH.support_y), predictions(algorithm, meta, new[BATCH.support_y])
    torch.testing.assert_close(after[..., new], before, rtol=1e-12, atol=1e-12)
    learned = replace(algorithm, head=Head.learned)  # type: ignore[type-var]
    before, after = predictions(learned, meta, BATCH.support_y), predictions(learned, meta, new[BATCH.support_y])
    assert not torch.allclose(after[..., new], before, atol=1e-3)


def test_reptile_moves_the_mean_of_the_rows_as_it_moves_all_else() -> None:
    algorithm = Reptile(inner_optimizer=InnerOptimizer.sgd, inner_lr=0.1, inner_steps=3, head=Head.mean)
    meta = init(algorithm, NET)
    gradient = algorithm.meta_gradient(NET, meta, BATCH, 0).gradient
    *_, end = algorithm.inner_loop(NET, meta, BATCH.support, 3, 10)
    mean = {name: value.mean(0) for name, value in meta.params.items() if name.startswith("head.")}
    for name, value in mean.items():
        torch.testing.assert_close(gradient[name].mean(0), value - end.params[name].mean((0, 1)))


def test_the_rows_are_found_by_their_number_whatever_their_name() -> None:
    class Named(torch.nn.Module):
        def __init__(self, spec: Spec) -> None:
            super().__init__()
            self.body = torch.nn.Linear(4, 4)  # as large as the way
            self.last = torch.nn.Linear(4, spec.outputs, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.body(x)))  # type: ignore[no-any-return]

    class Odd(Named):
        def __init__(self, spec: Spec) -> None:
            super().__init__(spec)
            self.body, self.last = torch.nn.Linear(4, spec.outputs), torch.nn.Linear(spec.outputs, spec.outputs)

    spec = Spec((4,), 4, 4, Categorical())
    assert module_net(Named, spec, {}).class_rows == {"last.weight"}
    assert NET.class_rows == Reduced(SPEC, NET).class_rows == {"head.weight", "head.bias"}
    with pytest.raises(UserError, match=r"last\.weight of this model does not have a row for each class"):
        _ = module_net(Odd, spec, {}).class_rows


def test_a_network_for_another_way_differs_in_its_rows_only() -> None:
    other = with_outputs(Conv4(SPEC, filters=3), 7)
    assert other.spec.outputs == other.spec.train_outputs == 7
    shapes = Conv4(SPEC, filters=3).shapes
    assert {name for name in shapes if other.shapes[name] != shapes[name]} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("make", [MAML, MetaSGD, Reptile])
def test_values_have_no_classes_to_start_alike(make: type[MAML]) -> None:
    with pytest.raises(UserError, match=r"algo\.head=mean is for classes"):
        make(head=Head.mean).init(MLP(points()[0]), torch.Generator())


def test_a_model_without_rows_is_refused() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x)  # type: ignore[no-any-return]

    net: Net = module_net(Fixed, Spec((4,), 4, 4, Categorical()), {})
    with pytest.raises(UserError, match="needs a last layer with a row for each class"):
        MAML(head=Head.mean).init(net, torch.Generator())


def test_the_losses_are_those_of_the_adapted_rows() -> None:
    """After no step all classes are equally likely."""
    algorithm = MEAN[0]
    meta = init(algorithm, NET)
    with torch.no_grad():
        first = next(iter(algorithm.adapt(NET, meta, BATCH.support, 1)))(BATCH.query_x, BatchNorm.inductive)
    torch.testing.assert_close(task_loss(SPEC, first, BATCH.query_y), torch.full((3,), 4.0).double().log())
