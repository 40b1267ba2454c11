"""DeepEMD against an exact linear program, in float64."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import expect_slope, expect_symmetry, images, init, predicted
from scipy.optimize import linprog
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.deep_emd import DeepEMD, transport
from metalearn_cli.errors import UserError
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3, halvings=3)  # maps of 2x2 pixels
SMOOTH = DeepEMD(blur=1.0, iterations=200)


def program(cost: Tensor, s: Tensor, d: Tensor) -> float:
    """The least cost [N, M] of a flow with these sums of rows [N] and columns [M]."""
    rows, columns = torch.eye(len(s)).repeat_interleave(len(d), 1), torch.eye(len(d)).repeat(1, len(s))
    solved = linprog(cost.flatten().numpy(), A_eq=torch.cat([rows, columns]).numpy(), b_eq=torch.cat([s, d]).numpy())
    return float(solved.fun)


def problem(rows: int = 4, columns: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    cost, s, d = (torch.rand(size, generator=rng).double() for size in ((3, rows, columns), (3, rows), (3, columns)))
    return cost, s / s.sum(1, keepdim=True), d / d.sum(1, keepdim=True)


predict = partial(predicted, net=NET, mode=BatchNorm.transductive)


def test_little_blur_is_the_linear_program() -> None:
    cost, s, d = problem()
    exact = torch.tensor([program(*case) for case in zip(cost, s, d, strict=True)]).double()
    gaps = [(transport(cost, s, d, blur, 2000) - exact) for blur in (0.1, 0.01, 0.002)]
    for blur, gap in zip((0.1, 0.01, 0.002), gaps, strict=True):
        assert (gap > -1e-5).all()
        assert (gap < blur * math.log(4)).all()  # the entropy of a flow is at most that of its rows
    assert gaps[2].max() < 0.003


def test_the_slope_of_the_minimum_is_the_finite_difference() -> None:
    cost, s, d = problem()

    def least(cost: Tensor, log_s: Tensor, log_d: Tensor) -> Tensor:
        return transport(cost, log_s.softmax(1), log_d.softmax(1), 0.2, 60).sum()

    inputs = tuple(x.requires_grad_() for x in (cost, s.log(), d.log()))
    assert torch.autograd.gradcheck(least, inputs, fast_mode=True)


def test_the_meta_gradient_is_the_finite_difference() -> None:
    expect_slope(SMOOTH, NET, BATCH, step=1e-6)


def test_logits_are_those_of_the_linear_program_for_each_pair() -> None:
    meta = init(SMOOTH, NET)
    maps, query = NET.maps(meta.params, torch.cat([BATCH.support_x, BATCH.query_x], 1))[0].detach()[0].split([6, 6])
    out = predict(DeepEMD(blur=0.02, iterations=3000), BATCH.task(0), meta)[0]
    for k in range(3):
        v = maps[BATCH.support_y[0] == k].mean(0).flatten(1).T
        for place, image in enumerate(query):
            u = image.flatten(1).T
            s, d = (u @ v.mean(0)).relu() + 1e-3, (v @ u.mean(0)).relu() + 1e-3
            a, b = u - u.mean(1, keepdim=True), v - v.mean(1, keepdim=True)
            cost = 1 - F.cosine_similarity(a[:, None], b[None], dim=2)
            expected = 1 - program(cost, s / s.sum(), d / d.sum())
            assert -0.02 * math.log(4) < out[place, k].item() / 12.5 - expected < 1e-3


def test_a_single_place_is_compared_by_its_angle() -> None:
    """There is one flow, whatever the blur."""
    net = Conv4(SPEC, filters=3)
    meta = init(DeepEMD(), net)
    maps, query = net.features(meta.params, torch.cat([BATCH.support_x, BATCH.query_x], 1))[0].detach().split([6, 6], 1)
    means = torch.stack([maps[BATCH.support_y == k].view(3, 2, 3).mean(1) for k in range(3)], 1)
    means, query = (F.normalize(x - x.mean(2, keepdim=True), dim=2) for x in (means, query))
    torch.testing.assert_close(predict(DeepEMD(iterations=1), BATCH, meta, net=net), 12.5 * query @ means.mT)


def test_places_that_are_zero_have_a_slope_that_is_no_larger_than_others() -> None:
    zero = torch.zeros(1, 1, 3, 2, 2).double().requires_grad_()
    out = SMOOTH.compared(torch.rand(1, 2, 3, 2, 2).double(), zero)
    (slope,) = torch.autograd.grad(out.sum(), zero)
    torch.testing.assert_close(out, torch.zeros_like(out))  # at a right angle to whatever it is compared with
    assert 0 < slope.abs().max() < 1e4


@pytest.mark.parametrize("algorithm", [SMOOTH, DeepEMD(refine_steps=2)], ids=repr)
def test_the_order_of_shots_and_the_names_of_classes_do_not_matter(algorithm: DeepEMD) -> None:
    expect_symmetry(partial(predict, algorithm), BATCH)


def test_refining_fits_the_support_set_and_trains_through_the_query_alone() -> None:
    on_itself = BATCH._replace(query_x=BATCH.support_x, query_y=BATCH.support_y)
    meta = init(SMOOTH, NET)
    losses = [
        F.cross_entropy(
            predict(DeepEMD(refine_steps=steps, refine_lr=0.002), on_itself, meta).flatten(0, 1),
            BATCH.support_y.flatten(),
        )
        for steps in (0, 2, 4)
    ]
    assert losses == sorted(losses, reverse=True)
    algorithm = DeepEMD(refine_steps=1)
    maps = torch.rand(1, 12, 3, 2, 2).double().requires_grad_()
    task = BATCH.task(0)
    algorithm.logits(SPEC, task.support, 3, maps[:, :6], maps[:, 6:]).sum().backward()
    assert maps.grad is not None
    assert not maps.grad[:, :6].any()
    assert maps.grad[:, 6:].any()


def test_a_network_without_images_is_refused() -> None:
    with pytest.raises(UserError, match=r"algo=deep_emd needs images of features, and this model has none: take model"):
        init(DeepEMD(), MLP(SPEC))
