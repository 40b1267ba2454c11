"""Heads that predict all queries of a task together, in float64: LaplacianShot, TIM and label propagation."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, images, init, predicted
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm, Meta
from metalearn_cli.algorithms.features import Normalise
from metalearn_cli.algorithms.laplacian_shot import LaplacianShot, nearest, rectified
from metalearn_cli.algorithms.protonet import ProtoNet, prototypes
from metalearn_cli.algorithms.tim import TIM, Solver
from metalearn_cli.algorithms.tpn import TPN
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.tasks.base import Batch, Support

SPEC, BATCH = images(query=4)
NET = Conv4(SPEC, filters=3)
ADAM = TIM(iterations=5, lr=0.01)
HEADS = [LaplacianShot(), ADAM, TIM(Solver.adm, 5), TPN(neighbours=4)]


predict = partial(predicted, net=NET, mode=BatchNorm.running)


def clusters(counts: list[int], spread: float = 0.35) -> tuple[Support, Tensor, Tensor]:
    """20 tasks of one shot with so many queries of each class: support, query features [20, Q, 8], labels [20, Q]."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.eye(8, dtype=torch.float64)[: len(counts)]
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = torch.arange(len(counts))
    x, query = (
        centres[label] + spread * torch.randn(20, len(label), 8, generator=rng, dtype=torch.float64)
        for label in (labels, y)
    )
    return Support(x, labels.expand(20, -1), torch.arange(20)), query, y.expand(20, -1)


def accuracy(algorithm: LaplacianShot | TIM | TPN, counts: list[int]) -> float:
    support, query, y = clusters(counts)
    if isinstance(algorithm, TPN):
        out = algorithm.spread(tpn_parameters(), support, len(counts), support.x, query, None)[:, len(counts) :]
    else:
        x, query = algorithm.protonet.prepared(Meta({}, {}), support.x, query)
        out = algorithm.joint_logits(support._replace(x=x), len(counts), query, None)
    return (out.argmax(-1) == y).double().mean().item()


def tpn_parameters() -> Params:
    """A network g that scales every example alike, by 0.2."""
    zero = {f"tpn:{layer}.weight": torch.zeros(1, size).double() for layer, size in enumerate((8, 1))}
    bias = torch.tensor([0.2]).double().expm1().log()
    return zero | {"tpn:0.bias": torch.zeros(1).double(), "tpn:1.bias": bias}


@pytest.mark.parametrize("algorithm", HEADS, ids=repr)
def test_the_names_of_classes_and_the_order_of_examples_do_not_matter(algorithm: Algorithm) -> None:
    expected, order, names = predict(algorithm, BATCH), torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([2, 0, 1])
    queries = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = BATCH._replace(
        support_x=BATCH.support_x[:, order],
        support_y=names[BATCH.support_y[:, order]],
        query_x=BATCH.query_x[:, queries],
    )
    torch.testing.assert_close(predict(algorithm, shuffled)[..., names], expected[:, queries], rtol=1e-8, atol=1e-9)
    fewer = predict(algorithm, BATCH._replace(query_x=BATCH.query_x[:, :6]))
    assert not torch.allclose(fewer, expected[:, :6], rtol=1e-6)  # the others had a part in it


@pytest.mark.parametrize(
    ("still", "temperature"),
    [(LaplacianShot(0.0, rectify=False), 1.0), (LaplacianShot(iterations=0, rectify=False), 1.0)]
    + [(TIM(solver, 0), 2 / 15) for solver in Solver],
    ids=repr,
)
def test_without_the_queries_it_is_the_nearest_mean(still: Algorithm, temperature: float) -> None:
    protonet = ProtoNet(normalise=Normalise.l2, temperature=temperature)
    torch.testing.assert_close(predict(still, BATCH).log_softmax(-1), predict(protonet, BATCH).log_softmax(-1))
    meta = init(protonet, NET)
    update, expected = (algorithm.meta_gradient(NET, meta, BATCH, 0) for algorithm in (still, protonet))
    assert torch.equal(update.loss, expected.loss)
    assert all(torch.equal(update.gradient[name], value) for name, value in expected.gradient.items())


def test_laplacian_shot_is_its_update_written_as_a_loop() -> None:
    support, query, _ = clusters([4, 5, 3])
    algorithm = LaplacianShot(0.8, 2, 3, rectify=False, normalise=Normalise.none)
    out = algorithm.joint_logits(support, 3, query, None)
    for task in range(2):
        x, means = query[task], support.x[task]
        distance = torch.tensor([[(q - mean).square().sum() for mean in means] for q in x])
        y = (-distance).softmax(-1)
        for _ in range(3):
            pulled = []
            for q in range(12):
                others = sorted((p for p in range(12) if p != q), key=lambda p: (x[q] - x[p]).square().sum().item())
                pulled.append(-distance[q] + 0.8 * (y[others[0]] + y[others[1]]))
            y = torch.stack(pulled).softmax(-1)
        torch.testing.assert_close(out[task].softmax(-1), y)


def test_a_rectified_prototype_is_the_weighted_mean_of_what_is_nearest_to_it() -> None:
    support, query, _ = clusters([3, 2])
    found = rectified(support.x, support, support.x, query, None)
    for task in range(2):
        x = torch.cat([support.x[task], query[task]])
        cosine = F.cosine_similarity(x[:, None], support.x[task][None], dim=2)
        weight, nearest_to = (10 * cosine).softmax(1), cosine.argmax(1)
        for label in range(2):
            mine = nearest_to == label
            torch.testing.assert_close(found[task, label], (weight[mine, label, None] * x[mine]).mean(0))


def test_neighbours_are_others_and_real() -> None:
    x = torch.tensor([[[0.0], [1.0], [3.0], [3.0], [0.5]]])
    mask = torch.tensor([[True, True, True, True, False]])
    near = nearest(x, 1, mask)[0].int().tolist()
    assert near[:4] == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert nearest(x, 9, mask)[0, 0].tolist() == [False, True, True, True, False]  # fewer than nine are there


def test_tims_slope_is_that_of_its_equation() -> None:
    """One gradient by hand: dp_k/dz_j = p_k (1[k = j] - p_j), dz_k/dw_k = tau (x - w_k)."""
    support, query, _ = clusters([4, 2, 3])
    algorithm, weight = TIM(sureness=0.3, balance=0.7), support.x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(algorithm.loss(weight, support, query, None).sum(), [weight])
    w = weight.detach()

    def by_logits(x: Tensor, wanted: Tensor) -> Tensor:
        """The slope in W [T, way, F] where the loss has this slope [T, B, way] in the logits of x [T, B, F]."""
        return 15 * (wanted.mT @ x - wanted.sum(1).unsqueeze(-1) * w)

    p, sure = ((-7.5 * torch.cdist(x, w).square()).softmax(-1) for x in (query, support.x))
    log_p, mean = p.log(), p.mean(1, keepdim=True)
    entropy = -p * (log_p - (p * log_p).sum(-1, keepdim=True)) / 9
    of_mean = -p * (mean.log() - (p * mean.log()).sum(-1, keepdim=True)) / 9
    expected = by_logits(query, 0.3 * entropy - 0.7 * of_mean)
    expected = expected + by_logits(support.x, 0.1 * (sure - F.one_hot(support.y, 3)) / 3)
    torch.testing.assert_close(slope, expected)


def test_tims_first_step_of_adam_is_one_rate_down_the_slope() -> None:
    support, query, _ = clusters([4, 2, 3])
    algorithm = TIM(iterations=1, lr=0.01, normalise=Normalise.none)
    start = prototypes(support.x, support, 3).requires_grad_()
    (slope,) = torch.autograd.grad(algorithm.loss(start, support, query, None).sum(), [start])
    expected = algorithm.logits(start - 0.01 * slope / (slope.abs() + 1e-8), query, None)
    out = algorithm.joint_logits(support, 3, query, None)
    torch.testing.assert_close(out, expected.detach())


def test_tims_closed_forms_are_those_of_the_paper_and_lower_its_loss() -> None:
    support, query, _ = clusters([4, 2, 3])
    algorithm = TIM(Solver.adm, sureness=0.3, balance=0.7)
    x, z, w, y = support.x[0], query[0], support.x[0], torch.eye(3, dtype=torch.float64)
    ps, pq = ((-7.5 * torch.cdist(part, w).square()).softmax(-1) for part in (x, z))
    q = pq**1.3 / (pq**1.3).sum(0) ** (0.7 / 1.7)
    q = q / q.sum(1, keepdim=True)
    rows = []
    for k in range(3):
        total = sum(0.1 / 1.3 * (y[i, k] * x[i] + ps[i, k] * (w[k] - x[i])) for i in range(3))
        total = total + sum(3 / 9 * (q[i, k] * z[i] + pq[i, k] * (w[k] - z[i])) for i in range(9))
        rows.append(total / (0.1 / 1.3 * y[:, k].sum() + 3 / 9 * q[:, k].sum()))
    torch.testing.assert_close(algorithm.alternated(support.x, support, query, None)[0], torch.stack(rows))
    weight, losses = support.x, []
    for _ in range(4):
        losses.append(algorithm.loss(weight, support, query, None).mean().item())
        weight = algorithm.alternated(weight, support, query, None)
    assert losses[-1] < losses[0]


def test_tpn_trains_through_the_spread_labels_of_support_and_query() -> None:
    algorithm = TPN(alpha=0.9, neighbours=4, hidden=3)

    def definition(params: Params, batch: Batch) -> Tensor:
        """The loss of one task, with the fixed point F = alpha S F + Y by iteration."""
        z = NET.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
        hidden = F.linear(z, params["tpn:0.weight"], params["tpn:0.bias"]).relu()
        scaled = z / F.softplus(F.linear(hidden, params["tpn:1.weight"], params["tpn:1.bias"]))
        weight = (-(scaled[:, None] - scaled[None]).square().mean(-1) / 2).exp()
        kept = torch.zeros_like(weight).scatter(1, weight.topk(4).indices, 1)
        weight = weight * ((kept + kept.T) > 0)
        degree = weight.sum(1)
        closeness = weight / (degree[:, None] * degree[None]).sqrt()
        labels = torch.cat([F.one_hot(batch.support_y[0], 3), torch.zeros(12, 3)]).double()
        spread = labels
        for _ in range(300):
            spread = 0.9 * closeness @ spread + labels
        return F.cross_entropy(spread, torch.cat([batch.support_y[0], batch.query_y[0]]))

    expect_definition(algorithm, NET, init(algorithm, NET), BATCH, definition)


def test_tpns_meta_gradient_is_the_finite_difference() -> None:
    expect_slope(TPN(neighbours=3, hidden=3), *cases()[1], step=1e-5)


def test_without_neighbours_labels_only_the_support_has_one() -> None:
    support, query, _ = clusters([2, 2])
    spread = TPN(alpha=0.0).spread(tpn_parameters(), support, 2, support.x, query, None)
    assert torch.equal(spread[:, :2], torch.eye(2, dtype=torch.float64).expand(20, 2, 2))
    assert spread[:, 2:].abs().max() == 0


def test_what_heads_assume_of_the_balance_of_the_queries() -> None:
    """TIM takes classes for equally frequent, but for `balance=0`, and LaplacianShot, but for `rectify=false`: by that
    they gain where classes are equal, and lose where they are not. TPN prefers what is frequent."""
    even, odd = [8, 8, 8], [22, 1, 1]
    means_even, means_odd = accuracy(TIM(iterations=0), even), accuracy(TIM(iterations=0), odd)
    assuming, free = (
        (TIM(Solver.adm, 20), LaplacianShot()),
        (TIM(Solver.adm, 20, balance=0), LaplacianShot(rectify=False)),
    )
    for head in assuming:
        assert accuracy(head, even) > means_even + 0.02
        assert accuracy(head, odd) < means_odd - 0.2
    for head in free:
        assert accuracy(head, odd) > means_odd + 0.02
    assert accuracy(TPN(neighbours=5), odd) > accuracy(TPN(neighbours=5), even) + 0.04
