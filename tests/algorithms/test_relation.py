"""Relation Networks against torch's own layers, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import expect_definition, expect_slope, expect_symmetry, images, init, points, predicted
from torch import Tensor

from metalearn_cli.algorithms.base import BatchNorm
from metalearn_cli.algorithms.relation import Loss, Relation
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.base import Batch

SPEC, BATCH = images()
NET = Conv4(SPEC, filters=3, halvings=2)  # maps of 4x4 pixels, so that both blocks of g pool


def scores(params: Params, batch: Batch) -> Tensor:
    """g of one task [Q, way] in torch's own layers, with the batch's statistics."""
    maps, query = NET.maps(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0].split([6, 6])
    sums = [maps[batch.support_y[0] == k].sum(0) for k in range(3)]
    x = torch.stack([torch.cat([part, one]) for one in query for part in sums])
    for block in ("relation:block1", "relation:block2"):
        x = F.conv2d(x, params[f"{block}.conv.weight"], padding=1)
        x = F.batch_norm(x, None, None, params[f"{block}.norm.weight"], params[f"{block}.norm.bias"], training=True)
        x = F.max_pool2d(F.relu(x), 2)
    x = F.relu(F.linear(x.flatten(1), params["relation:hidden.weight"], params["relation:hidden.bias"]))
    return F.linear(x, params["relation:output.weight"], params["relation:output.bias"]).view(6, 3)


predict = partial(predicted, net=NET)


@pytest.mark.parametrize("loss", Loss)
def test_the_meta_gradient_is_that_of_the_definition(loss: Loss) -> None:
    def definition(params: Params, batch: Batch) -> Tensor:
        out = scores(params, batch)
        if loss is Loss.softmax:
            return F.cross_entropy(out, batch.query_y[0])
        return F.mse_loss(out.sigmoid(), F.one_hot(batch.query_y[0], 3).double())

    algorithm = Relation(loss)
    meta = init(algorithm, NET)
    expect_definition(algorithm, NET, meta, BATCH, definition)
    expect_slope(algorithm, NET, BATCH, step=1e-6)


def test_probabilities_are_shares_of_the_relation_scores() -> None:
    algorithm = Relation()
    meta = init(algorithm, NET)
    out = predict(algorithm, BATCH.task(1), meta, mode=BatchNorm.one_query)
    assert out.shape == (1, 6, 3)
    sigmoids = predict(Relation(Loss.softmax), BATCH, meta, mode=BatchNorm.running).sigmoid()
    expected = sigmoids / sigmoids.sum(-1, keepdim=True)
    torch.testing.assert_close(predict(algorithm, BATCH, meta, mode=BatchNorm.running).softmax(-1), expected)


def test_the_order_of_shots_and_the_names_of_classes_do_not_matter() -> None:
    for mode in BatchNorm:
        expect_symmetry(partial(predict, Relation(), mode=mode), BATCH)


def test_every_norm_has_the_statistics_of_the_mode() -> None:
    algorithm = Relation()
    meta = init(algorithm, NET)
    own = {name: value for name, value in meta.buffers.items() if name.startswith("relation:")}
    for part in (own, NET.init_stats()):
        moved = meta._replace(buffers=meta.buffers | {name: 0.5 + meta.buffers[name] for name in part})
        for mode in BatchNorm:
            same = torch.equal(*(predict(algorithm, BATCH, which, mode=mode) for which in (meta, moved)))
            assert same is (mode is not BatchNorm.running), mode
    update = algorithm.meta_gradient(NET, meta, BATCH, 0)
    assert update.buffers.keys() == meta.buffers.keys()
    assert not any(torch.equal(update.buffers[name], value) for name, value in own.items())


def test_a_single_pixel_is_compared_without_pooling() -> None:
    net = Conv4(SPEC, filters=3)
    meta = init(Relation(), net)
    assert meta.params["relation:hidden.weight"].shape == (8, 3)
    assert Relation().meta_gradient(net, meta, BATCH, 0).loss.isfinite().all()


def test_vectors_and_values_are_refused() -> None:
    vectors = MLP(SPEC._replace(input_shape=(7,)))
    with pytest.raises(UserError, match=r"algo=relation compares images of features, and this task's .* are vectors"):
        init(Relation(), vectors)
    with pytest.raises(UserError, match=r"algo=relation needs images of features, and this model has none: take model"):
        init(Relation(), MLP(SPEC))
    with pytest.raises(UserError, match=r"algo=relation compares classes, and this task has values"):
        init(Relation(), MLP(points()[0]))
