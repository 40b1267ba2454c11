"""Ridge regression, logistic regression and nearest neighbours on the features, in float64."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from problems import cases, expect_definition, expect_slope, expect_symmetry, images, init, predicted
from torch import Tensor

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.features import Normalise
from metalearn_cli.algorithms.knn import KNN
from metalearn_cli.algorithms.logistic import Logistic
from metalearn_cli.algorithms.matching import Kernel, Matching
from metalearn_cli.algorithms.metaoptnet import Head, MetaOptNet
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.algorithms.ridge import Ridge
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Params
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.tasks.augment import Augment, changed_copies
from metalearn_cli.tasks.base import Batch, Support

SPEC, BATCH = images(shot=3)
NET = Conv4(SPEC, filters=3)


predict = partial(predicted, net=NET, mode=BatchNorm.transductive)


@pytest.mark.parametrize(
    "algorithm",
    [
        *(Ridge(0.5), Ridge(normalise=Normalise.l2), Ridge(0.5, per_example=True, learn_penalty=True)),
        *(Logistic(0.5), Ridge(0.5, newton_steps=2), KNN(), KNN(2)),
        *(MetaOptNet(iterations=25, label_smoothing=0.1), MetaOptNet(Head.ridge, penalty=2.0)),
    ],
    ids=repr,
)
def test_the_meta_gradient_is_the_finite_difference(algorithm: Algorithm) -> None:
    expect_slope(algorithm, *cases()[1], step=1e-5)


def test_ridge_trains_through_its_solution() -> None:
    def definition(params: Params, batch: Batch) -> Tensor:
        """The loss of one task by the normal equations of equation 4."""
        shots = batch.support_y.shape[1]
        features = NET.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
        x = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        support, query = x[:shots], x[shots:]
        system = support.T @ support + 0.5 * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(system, support.T @ F.one_hot(batch.support_y[0], 3).double())
        return F.cross_entropy(params["ridge:scale"] * query @ weights, batch.query_y[0])

    algorithm = Ridge(penalty=0.5)
    meta = init(algorithm, NET)
    assert expect_definition(algorithm, NET, meta, BATCH, definition).gradient["ridge:scale"].abs() > 0
    assert algorithm.learned(meta) == {"scale": meta.params["ridge:scale"].item()}


def test_lambda_of_each_example_is_that_of_features_divided_by_their_root_number() -> None:
    """As R2-D2's code has it, which divides X and Y of the support, and not the query's."""
    algorithm = Ridge(penalty=0.5, per_example=True, learn_penalty=True)
    meta = init(algorithm, NET)
    penalty = meta.params["ridge:log_penalty"].exp()
    x, query = torch.rand(3, 9, 7).double(), torch.rand(3, 6, 7).double()
    ones = torch.cat([x, torch.ones(3, 9, 1)], 2) / 3
    inverse = torch.linalg.inv(ones @ ones.mT + penalty * torch.eye(9))
    w = ones.mT @ inverse @ (F.one_hot(BATCH.support_y, 3).double() / 3)
    expected = meta.params["ridge:scale"] * (query @ w[:, :7] + w[:, 7:])
    torch.testing.assert_close(algorithm.logits(meta.params, BATCH.support, 3, x, query), expected)
    assert algorithm.learned(meta) == {"scale": meta.params["ridge:scale"].item(), "penalty": penalty.item()}


def test_metaoptnets_ridge_is_twice_a_regression_without_ones() -> None:
    def definition(params: Params, batch: Batch) -> Tensor:
        """The loss of one task by the code's formulas."""
        features = NET.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
        support, query = features.split([9, 6])
        a = 2 * torch.linalg.solve(support @ support.T + 50 * torch.eye(9), F.one_hot(batch.support_y[0], 3).double())
        label = F.one_hot(batch.query_y[0], 3).double()
        smooth = label * 0.9 + (1 - label) * 0.1 / 2
        out = params["metaoptnet:scale"] * query @ support.T @ a
        return -(smooth * out.log_softmax(1)).sum(1).mean()

    algorithm = MetaOptNet(Head.ridge, label_smoothing=0.1)
    meta = init(algorithm, NET)
    assert expect_definition(algorithm, NET, meta, BATCH, definition).gradient["metaoptnet:scale"].abs() > 0
    assert algorithm.learned(meta) == {"scale": meta.params["metaoptnet:scale"].item()}


def test_the_support_vector_machine_stops_where_training_and_test_say() -> None:
    short, long = MetaOptNet(iterations=15, test_iterations=3), MetaOptNet(iterations=3, test_iterations=15)
    meta = init(short, NET)
    losses = [algorithm.meta_gradient(NET, meta, BATCH, 0).loss for algorithm in (short, long)]
    outs = [predict(algorithm, BATCH, meta) for algorithm in (long, short)]  # of the same lengths
    assert not torch.allclose(*outs, atol=1e-6)
    for loss, out in zip(losses, outs, strict=True):
        expected = F.cross_entropy(out.mT, BATCH.query_y, reduction="none").mean(1)
        torch.testing.assert_close(loss, expected)


def test_lr_d2_trains_through_newtons_steps_for_one_class_against_the_others() -> None:
    def definition(params: Params, batch: Batch) -> Tensor:
        features = NET.features(params, torch.cat([batch.support_x, batch.query_x], 1))[0][0]
        x, query = torch.cat([features, torch.ones_like(features[:, :1])], 1).split([9, 6])
        columns = []
        for label in range(3):
            w = torch.zeros(x.shape[1], dtype=x.dtype)
            for _ in range(2):
                p = torch.sigmoid(x @ w)
                slope = x.T @ (p - (batch.support_y[0] == label).double()) + 0.5 * w
                w = w - torch.linalg.solve(x.T @ torch.diag(p * (1 - p)) @ x + 0.5 * torch.eye(len(w)), slope)
            columns.append(query @ w)
        return F.cross_entropy(params["ridge:scale"] * torch.stack(columns, 1), batch.query_y[0])

    algorithm = Ridge(penalty=0.5, newton_steps=2)
    meta = init(algorithm, NET)
    assert expect_definition(algorithm, NET, meta, BATCH, definition).gradient["ridge:scale"].abs() > 0
    assert algorithm.learned(meta) == {"scale": meta.params["ridge:scale"].item()}


def test_a_large_penalty_leaves_ridge_the_directions_of_the_means() -> None:
    """Classes of one size: lambda W is the sum of each class's features, and of its ones."""
    algorithm = Ridge(penalty=1e9)
    meta = init(algorithm, NET)
    features, query = NET.features(meta.params, torch.cat([BATCH.support_x, BATCH.query_x], 1))[0].split([9, 6], 1)
    means = torch.stack([features[BATCH.support_y == k].view(3, 3, -1).mean(1) for k in range(3)], 1)
    expected = 3 * (query @ means.mT + 1) * meta.params["ridge:scale"]
    torch.testing.assert_close(1e9 * predict(algorithm, BATCH, meta), expected.detach(), rtol=1e-6, atol=1e-6)


def test_one_neighbour_of_one_shot_is_the_nearest_mean() -> None:
    _, batch = images(shot=1, query=5)
    votes, near = predict(KNN(), batch), predict(ProtoNet(), batch)
    assert torch.equal(votes.argmax(-1), near.argmax(-1))
    torch.testing.assert_close(votes.logsumexp(-1).exp(), torch.full(votes.shape[:2], 3.0).double())  # times 2 k + 1


def test_the_majority_of_neighbours_has_it_and_weight_decides_between_equals() -> None:
    support = Support(torch.empty(1, 4, 1), torch.tensor([[0, 1, 1, 2]]), torch.zeros(1, dtype=torch.int64))
    features, query = torch.tensor([[[0.0], [1.0], [1.1], [9.0]]]).double(), torch.tensor([[[0.1], [0.9]]]).double()
    for k, nearest in ((1, [0, 1]), (2, [0, 1]), (3, [1, 1]), (9, [1, 1])):
        out = KNN(k).votes(support, 3, features, query)
        assert out.argmax(-1).tolist() == [nearest], k
        counts = (out.exp() - KNN(k).soft_votes(support, 3, features, query).exp()) / 2
        torch.testing.assert_close(counts, counts.round())
        assert counts.sum(-1).round().tolist() == [[min(k, 4)] * 2]


def test_all_neighbours_with_soft_weights_are_matching_networks() -> None:
    soft, matching = KNN(kernel=Kernel.cosine, temperature=10.0), Matching()
    meta = init(soft, NET)
    updates = [algorithm.meta_gradient(NET, meta, BATCH, 0) for algorithm in (soft, matching)]
    torch.testing.assert_close(*(update.gradient for update in updates))


@pytest.mark.parametrize("algorithm", [Ridge(), Logistic(), Ridge(newton_steps=10), MetaOptNet(), KNN(3)], ids=repr)
def test_the_order_of_the_support_and_the_names_of_the_classes_do_not_matter(algorithm: Algorithm) -> None:
    expect_symmetry(partial(predict, algorithm), BATCH)


def test_copies_are_drawn_from_the_tasks_key_and_change_the_test_alone() -> None:
    copied, plain = Logistic(copies=4, augment=(Augment.crop, Augment.jitter)), Logistic()
    whole = changed_copies(BATCH.support, 4, copied.augment)
    assert whole.x.shape == (3, 36, 1, 16, 16)
    assert torch.equal(whole.y.view(3, 4, 9), BATCH.support_y[:, None].expand(3, 4, 9))
    assert len({image.numpy().tobytes() for image in whole.x.flatten(0, 1)}) == 3 * 36
    for number, task in enumerate(BATCH.chunks(1)):
        assert torch.equal(changed_copies(task.support, 4, copied.augment).x[0], whole.x[number])
    vectors = BATCH.support._replace(x=BATCH.support_x.flatten(2))
    for support in (BATCH.support, vectors):
        assert torch.equal(changed_copies(support, 1, ()).x, support.x)
    flipped = changed_copies(BATCH.support, 4, (Augment.flip,)).x
    stayed = (flipped == BATCH.support_x.repeat(1, 4, 1, 1, 1)).all((2, 3, 4))
    assert 0.2 < stayed.double().mean() < 0.8
    torch.testing.assert_close(
        predict(copied, BATCH), predict(plain, BATCH._replace(support_x=whole.x, support_y=whole.y))
    )
    meta = init(copied, NET)
    assert torch.equal(*(algorithm.meta_gradient(NET, meta, BATCH, 0).loss for algorithm in (copied, plain)))


def test_copies_of_what_is_no_image_are_refused() -> None:
    with pytest.raises(UserError, match=r"algo.copies=5 changes images, and this task has none: give algo.copies=0"):
        Logistic(copies=5).init(MLP(SPEC._replace(input_shape=(7,))), torch.Generator())
    with pytest.raises(UserError, match=r"algo.copies=5 are equal with algo.augment=\[\]: give e.g. algo.augment"):
        Logistic(copies=5, augment=()).init(NET, torch.Generator())
