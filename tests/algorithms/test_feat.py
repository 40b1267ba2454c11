"""FEAT against a loop over tasks and sets, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, expect_symmetry, images, init, predicted
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.feat import FEAT, OF_WEIGHTS
from metalearn_cli.algorithms.losses import call_on
from metalearn_cli.nets.base import Call, Params, Pass
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.noise import dropped
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3)
CLASSES = range(3)
Factors = tuple[Tensor, Tensor]  # of attention weights [N, N], and of what is added [N, F]


def drops(rows: int, call: Call) -> Factors:
    """What training multiplies by in a set of so many rows: by 1 where nothing is dropped."""
    sizes = ((OF_WEIGHTS, -1, rows), (0.5, -2, 3))
    of_weights, of_added = (
        dropped(torch.ones(1, rows, size, dtype=torch.float64), share, call, layer)[0] for share, layer, size in sizes
    )
    return of_weights, of_added


def attend(params: Params, rows: Tensor, factors: Factors) -> Tensor:
    """The set function of the paper on one set [N, F], by torch's own attention."""
    query, key, value = (rows @ params[f"feat:{name}.weight"].T for name in ("query", "key", "value"))
    weights = F.scaled_dot_product_attention(query[None], key[None], torch.eye(len(rows)).double()[None])[0]
    added = F.linear((weights * factors[0]) @ value, params["feat:fc.weight"], params["feat:fc.bias"])
    rows = rows + added * factors[1]
    return F.layer_norm(rows, rows.shape[1:], params["feat:norm.weight"], params["feat:norm.bias"])


def features_of(params: Params, task: Batch) -> tuple[Tensor, Tensor]:
    """Of the support and of the query of one task, [S, F] and [Q, F]."""
    support, query = NET.features(params, torch.cat([task.support_x, task.query_x], 1))[0][0].split([6, 6])
    return support, query


def logits(params: Params, task: Batch, temperature: float) -> Tensor:
    support, query = features_of(params, task)
    means = torch.stack([support[task.support_y[0] == k].mean(0) for k in CLASSES])
    centres = attend(params, means, drops(3, call_on(task, Pass.both, None)))
    return -torch.stack([(query - centre).square().sum(1) for centre in centres], 1) / temperature


predict = partial(predicted, net=NET, mode=BatchNorm.transductive)


@pytest.mark.parametrize("progress", [None, torch.zeros(3)], ids=["plain", "dropping"])
def test_the_meta_gradient_is_that_of_the_definition(progress: Tensor | None) -> None:
    """In training, the two kinds of sets do not drop the same."""
    batch = BATCH._replace(progress=progress)
    algorithm = FEAT(temperature=2.0, contrast_temperature=3.0, balance=0.7)

    def definition(params: Params, task: Batch) -> Tensor:
        rows = torch.cat(features_of(params, task))
        y = torch.cat([task.support_y, task.query_y], 1)[0]
        of_weights, of_added = drops(12, call_on(task, Pass.query, None))
        sets = [(y == k).nonzero()[:, 0] for k in CLASSES]
        centres = [attend(params, rows[own], (of_weights[own][:, own], of_added[own])).mean(0) for own in sets]
        contrast = -torch.stack([(rows - centre).square().sum(1) for centre in centres], 1) / 3
        return F.cross_entropy(logits(params, task, 2.0), task.query_y[0]) + 0.7 * F.cross_entropy(contrast, y)

    meta = init(algorithm, NET)
    expect_definition(algorithm, NET, meta, batch, definition)
    out = torch.stack([logits(meta.params, task, 2.0) for task in BATCH.chunks(1)]).detach()
    torch.testing.assert_close(predict(algorithm, BATCH, meta), out)


def test_the_meta_gradient_is_the_finite_difference_with_what_training_drops_too() -> None:
    net, batch = cases()[1]
    for progress in (None, torch.zeros(3)):
        expect_slope(FEAT(temperature=4.0), net, batch._replace(progress=progress))


def test_without_what_attention_adds_the_prototypes_are_normalised() -> None:
    """It is LayerNorm(c), and so no ProtoNet."""
    algorithm = FEAT(temperature=1.0)
    meta = init(algorithm, NET)
    zeros = {name: torch.zeros_like(meta.params[name]) for name in ("feat:fc.weight", "feat:fc.bias")}
    meta = meta._replace(params=meta.params | zeros)
    for number, task in enumerate(BATCH.chunks(1)):
        support, query = features_of(meta.params, task)
        means = torch.stack([support[task.support_y[0] == k].mean(0) for k in CLASSES])
        weight, bias = meta.params["feat:norm.weight"], meta.params["feat:norm.bias"]
        centred = means - means.mean(1, keepdim=True)
        centres = centred / (means.var(1, keepdim=True, correction=0) + 1e-5).sqrt() * weight + bias
        expected = -torch.cdist(query, centres).square().detach()
        torch.testing.assert_close(predict(algorithm, BATCH, meta)[number], expected)


def test_the_order_of_shots_and_the_names_of_classes_do_not_matter() -> None:
    expect_symmetry(partial(predict, FEAT(temperature=1.0)), BATCH)


def test_training_alone_drops_and_tells_its_two_sets_apart() -> None:
    algorithm, plain = FEAT(temperature=1.0), FEAT(temperature=1.0, dropout=0.0)
    meta = init(algorithm, NET)
    assert torch.equal(predict(algorithm, BATCH, meta), predict(plain, BATCH, meta))
    training = BATCH._replace(progress=torch.zeros(3))
    losses = [a.meta_gradient(NET, meta, batch, 0).loss for a in (algorithm, plain) for batch in (BATCH, training)]
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[1], losses[3])
    assert not torch.equal(losses[2], losses[3])  # of the attention weights a tenth is dropped in any case
