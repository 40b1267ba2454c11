"""Soft k-means with unlabelled examples, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, images, init, predicted
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.soft_kmeans import RADIUS, SoftKMeans, Variant
from metalearn_cli.config.job import load_job
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3)
ALL = [SoftKMeans(variant, 2, radius=1.5, hidden=3) for variant in Variant]


predict = partial(predicted, net=NET, mode=BatchNorm.running)


def shares(algorithm: SoftKMeans, params: Params, z: Tensor, means: Tensor, limits: Tensor) -> Tensor:
    """What each unlabelled example [U, F] counts for each of the means [3, F], by the paper's equations."""
    distance = torch.cdist(z, means).square()
    if algorithm.variant is Variant.kmeans:
        return (-distance).softmax(1)
    if algorithm.variant is Variant.distractor_cluster:
        radius = params[RADIUS].exp()
        weight = torch.cat([(-distance).exp(), (-z.square().sum(1, keepdim=True) / radius**2).exp() / radius], 1)
        return weight[:, :3] / weight.sum(1, keepdim=True)
    beta, gamma = limits.exp().unbind(1)
    return (-distance).softmax(1) / (1 + (gamma * (distance / distance.mean(0) - beta)).exp())


@pytest.mark.parametrize("algorithm", ALL, ids=repr)
def test_the_meta_gradient_is_that_of_the_papers_equations(algorithm: SoftKMeans) -> None:
    def definition(params: Params, batch: Batch) -> Tensor:
        assert batch.unlabelled_x is not None
        x = torch.cat([batch.support_x, batch.unlabelled_x, batch.query_x], 1)
        support, z, query = NET.features(params, x)[0][0].split([6, 4, 6])
        y = F.one_hot(batch.support_y[0], 3).double()
        means, limits = y.T @ support / 2, torch.zeros(3, 2)
        if algorithm.variant is Variant.masked:
            distance = torch.cdist(z, means).square()
            relative = (distance / distance.mean(0)).detach()
            centred = relative - relative.mean(0)
            variance = centred.square().mean(0)
            moments = [centred.pow(power).mean(0) / variance ** (power / 2) for power in (3, 4)]
            rows = [relative.min(0).values, relative.max(0).values, variance, moments[0], moments[1] - 3]
            weights = [params[f"soft_kmeans:{layer}.{part}"] for layer in range(2) for part in ("weight", "bias")]
            limits = F.linear(F.linear(torch.stack(rows, 1), *weights[:2]).tanh(), *weights[2:])
        for _ in range(2):
            share = shares(algorithm, params, z, means, limits)
            means = (y.T @ support + share.T @ z) / (2 + share.sum(0)[:, None])
        return F.cross_entropy(-torch.cdist(query, means).square(), batch.query_y[0])

    update = expect_definition(algorithm, NET, init(algorithm, NET), BATCH, definition)
    own = [gradient for name, gradient in update.gradient.items() if name.startswith("soft_kmeans")]
    assert all(gradient.abs().max() > 0 for gradient in own)
    assert len(own) == {Variant.kmeans: 0, Variant.distractor_cluster: 1, Variant.masked: 4}[algorithm.variant]


@pytest.mark.parametrize("algorithm", ALL[:2], ids=repr)
def test_the_meta_gradient_is_the_finite_difference(algorithm: SoftKMeans) -> None:
    expect_slope(algorithm, *cases()[1], step=1e-5)


@pytest.mark.parametrize("algorithm", ALL, ids=repr)
def test_the_names_of_classes_and_the_order_of_the_unlabelled_do_not_matter(algorithm: SoftKMeans) -> None:
    assert BATCH.unlabelled_x is not None
    expected, names = predict(algorithm, BATCH), torch.tensor([2, 0, 1])
    shuffled = BATCH._replace(support_y=names[BATCH.support_y], unlabelled_x=BATCH.unlabelled_x.flip(1))
    torch.testing.assert_close(predict(algorithm, shuffled)[..., names], expected, rtol=1e-9, atol=1e-9)
    other = BATCH._replace(unlabelled_x=BATCH.unlabelled_x.flip(0))
    assert not torch.allclose(predict(algorithm, other), expected)  # they have a part in it
    assert torch.equal(
        predict(algorithm, BATCH._replace(query_x=BATCH.query_x[:, :2])), expected[:, :2]
    )  # queries do not


def test_without_a_step_it_is_protonet() -> None:
    torch.testing.assert_close(predict(SoftKMeans(steps=0), BATCH), predict(ProtoNet(), BATCH), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("variant", "far_counts"), [(Variant.kmeans, 1.0), (Variant.distractor_cluster, 0.0)])
def test_a_cluster_takes_what_is_far_from_all_classes(variant: Variant, far_counts: float) -> None:
    algorithm, means = SoftKMeans(variant), torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
    x, params = torch.tensor([[[9.0, 0.5], [-40.0, -40.0]]]), {RADIUS: torch.tensor(100.0).log()}
    found = algorithm.shares(params, None, x, means).sum(-1)[0]
    torch.testing.assert_close(found, torch.tensor([1.0, far_counts]), rtol=0, atol=0.02)
    assert algorithm.learned(init(algorithm, NET)).keys() == ({"radius"} if far_counts == 0 else set())


def test_tasks_without_unlabelled_examples_are_refused() -> None:
    with pytest.raises(UserError, match="refines class means by unlabelled examples, and here are none: give unlabell"):
        predict(SoftKMeans(), BATCH._replace(unlabelled_x=None))
    with pytest.raises(UserError, match=r"algo=soft_kmeans learns from unlabelled examples too.* task.unlabelled=5"):
        load_job(["algo=soft_kmeans", "task.query=5", "task.unlabelled=5", "task.train_unlabelled=0"])
