"""Meta-Curvature: what it multiplies gradients by, and what it is with identities and with diagonals, in float64."""

from dataclasses import replace

import pytest
import torch
from problems import SMOOTH_CASES, cases, expect_slope, init, relative_error

from metalearn_cli.algorithms.base import Meta
from metalearn_cli.algorithms.inner_loop import scaled
from metalearn_cli.algorithms.maml import MAML
from metalearn_cli.algorithms.meta_curvature import CURVATURE, MetaCurvature
from metalearn_cli.algorithms.meta_sgd import RATE, MetaSGD
from metalearn_cli.nets.base import Net
from metalearn_cli.tasks.base import Batch

NET, BATCH = cases()[2]
ALGORITHM = MetaCurvature(inner_lr=0.1, inner_steps=2)


@SMOOTH_CASES
def test_meta_gradient_equals_finite_differences(net: Net, batch: Batch) -> None:
    """In the start, in the matrices and in the factors."""
    expect_slope(ALGORITHM, net, batch, step=1e-5)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2, 5)])
def test_matrices_along_each_dimension_are_their_kronecker_product(shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    sizes = [3, 4, 10][: len(shape[:3])]
    matrices = tuple(torch.randn(size, size, generator=rng, dtype=torch.float64) for size in sizes)
    gradient = torch.randn(2, *shape, generator=rng, dtype=torch.float64)
    product = matrices[0]
    for matrix in matrices[1:]:
        product = torch.kron(product, matrix)
    torch.testing.assert_close(scaled(matrices, gradient).flatten(1), gradient.flatten(1) @ product.T)


def with_curvature(diagonals: bool) -> tuple[Meta, dict[str, torch.Tensor]]:
    """Parameters with identities, or with random diagonals and factors; and the rates that these are."""
    rng, drawn = torch.Generator().manual_seed(1), ALGORITHM.init(NET, torch.Generator().manual_seed(0))
    meta, rates = init(MAML(), NET), {}
    params = dict(meta.params)
    for name, value in meta.params.items():
        rate = torch.full_like(value, 0.1)
        places = [place for place in drawn.params if place.startswith(CURVATURE) and place.endswith(f":{name}")]
        for number, place in enumerate(reversed(places), 1):
            size = len(drawn.params[place])
            diagonal = (
                0.5 + torch.rand(size, generator=rng, dtype=torch.float64) if diagonals else torch.ones(size).double()
            )
            is_factor = value.dim() == 1
            params[place] = (diagonal if is_factor else diagonal.diag()).requires_grad_()
            flat = rate.detach().flatten(2) if value.dim() > 2 else rate.detach()
            rate = (flat * diagonal.view(-1, *[1] * (number - 1))).view(value.shape)
        rates[RATE + name] = rate.detach().requires_grad_()
    return Meta(params, meta.buffers), rates


def test_with_identities_it_is_maml_and_with_diagonals_meta_sgd() -> None:
    for diagonals, other in ((False, MAML(inner_lr=0.1, inner_steps=2)), (True, MetaSGD(inner_steps=2))):
        meta, rates = with_curvature(diagonals)
        theta = {name: value for name, value in meta.params.items() if not name.startswith(CURVATURE)}
        plain = Meta(theta | rates if diagonals else theta, meta.buffers)
        expected = other.meta_gradient(NET, plain, BATCH, 0)  # type: ignore[attr-defined]
        update = ALGORITHM.meta_gradient(NET, meta, BATCH, 0)
        torch.testing.assert_close(update.loss, expected.loss)
        pairs = ({name: gradient[name] for name in theta} for gradient in (update.gradient, expected.gradient))
        assert relative_error(*pairs) < 1e-12


def test_the_classes_of_a_head_have_no_matrix_between_them() -> None:
    params = ALGORITHM.init(NET, torch.Generator()).params
    sizes = {name: list(value.shape) for name, value in params.items() if name.startswith(CURVATURE)}
    features = NET.shapes["head.weight"][1]
    assert sizes["curvature0:head.weight"] == [features, features]
    assert "curvature1:head.weight" not in sizes
    assert [sizes[f"curvature{place}:block2.conv.weight"] for place in range(3)] == [[3, 3], [3, 3], [9, 9]]
    assert sizes["curvature:block2.norm.weight"] == [3]


def test_steps_that_are_computed_again_are_the_same_bits() -> None:
    meta = init(ALGORITHM, NET)
    plain, again = (a.meta_gradient(NET, meta, BATCH, 0).gradient for a in (ALGORITHM, replace(ALGORITHM, remat=True)))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
