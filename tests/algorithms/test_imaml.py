"""Implicit MAML: its meta-gradient where the inner problem is solved, and its system by a dense solver, in float64."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from problems import cases, expect_slope, init, points, relative_error
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.imaml import IMAML, Variant
from metalearn_cli.algorithms.inner_loop import from_vector, to_vector
from metalearn_cli.algorithms.losses import task_loss
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP, Activation
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = points()
NET = MLP(SPEC, hidden=(3,), activation=Activation.tanh)  # of 10 parameters
LINE = Linear(SPEC, bias=True)


def support_loss(task: Batch, theta: Tensor) -> Tensor:
    """L(theta [P], support) of one task."""
    out, _ = NET(from_vector(theta[None], NET.shapes), task.support_x)
    return task_loss(SPEC, out, task.support_y).sum()


def definition(algorithm: IMAML, params: Params, task: Batch) -> Params:
    """The meta-gradient of one task, by a dense Hessian."""
    is_code = algorithm.variant is Variant.code
    start = phi = to_vector({name: value.detach()[None] for name, value in params.items()})[0]
    for _ in range(algorithm.inner_steps):
        slope = jacobian(partial(support_loss, task), phi)
        phi = phi - algorithm.inner_lr * (slope + (0 if is_code else algorithm.strength * (phi - start)))
    if is_code:
        phi = phi - algorithm.inner_lr * algorithm.strength * (phi - start)
    curved = hessian(partial(support_loss, task), phi)
    at = phi[None].requires_grad_()
    loss = task_loss(SPEC, NET(from_vector(at, NET.shapes), task.query_x)[0], task.query_y).sum()
    (slope,) = torch.autograd.grad(loss, at)
    identity = torch.eye(10).double()
    system = 2 * identity + curved / 12 if is_code else identity + curved / algorithm.strength
    solution = torch.linalg.solve(system, slope[0])
    return {name: value[0] for name, value in from_vector(solution[None], NET.shapes).items()}


@pytest.mark.parametrize("variant", Variant)
def test_as_many_solver_steps_as_parameters_are_a_dense_solve(variant: Variant) -> None:
    algorithm = IMAML(variant, inner_lr=0.05, inner_steps=3, solver_steps=12)
    meta = init(algorithm, NET)
    own = [definition(algorithm, meta.params, task) for task in BATCH.chunks(1)]
    expected = {name: torch.stack([gradient[name] for gradient in own]).mean(0) for name in meta.params}
    assert relative_error(algorithm.meta_gradient(NET, meta, BATCH, 0).gradient, expected) < 1e-8


def test_where_the_inner_problem_is_solved_it_is_the_slope_of_the_query_loss() -> None:
    """Of a quadratic, and of a network; this is also what an unroll of all steps would give."""
    expect_slope(IMAML(inner_steps=150, strength=2.0, solver_steps=2), LINE, BATCH)
    expect_slope(IMAML(inner_steps=150, strength=2.0, solver_steps=12), NET, BATCH)


def test_a_strong_pull_leaves_the_start_and_its_own_gradient() -> None:
    algorithm = IMAML(inner_lr=1e-10, strength=1e9, solver_steps=3)
    meta = init(algorithm, LINE)
    loss = task_loss(SPEC, LINE(meta.params, BATCH.query_x)[0], BATCH.query_y)
    expected = dict(zip(meta.params, torch.autograd.grad(loss.mean(), list(meta.params.values())), strict=True))
    update = algorithm.meta_gradient(LINE, meta, BATCH, 0)
    assert relative_error(update.gradient, expected) < 1e-6
    torch.testing.assert_close(update.loss, loss.detach(), rtol=1e-6, atol=0)


def test_the_authors_program_pulls_back_in_training_alone() -> None:
    net, batch = cases()[1]
    code = IMAML(Variant.code, inner_steps=2, test_steps=2)
    meta = init(code, net)
    with torch.no_grad():
        *_, predict = code.adapt(net, meta, batch.support, 2)
    out = predict(batch.query_x, BatchNorm.transductive)
    tested = task_loss(net.spec, out, batch.query_y)
    pulled = code.meta_gradient(net, meta, batch, 0).loss
    assert not torch.allclose(tested, pulled)
    torch.testing.assert_close(replace(code, strength=1e-12).meta_gradient(net, meta, batch, 0).loss, tested)
