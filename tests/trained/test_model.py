"""A model for another way than it was trained with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import TABLE
from problems import ALGORITHMS, BY_FAMILY, Module, images, init

from metalearn_cli.algorithms.base import Algorithm, BatchNorm
from metalearn_cli.algorithms.capabilities import network
from metalearn_cli.algorithms.fine_tune import Classifier, FineTune
from metalearn_cli.algorithms.maml import MAML, AdaptedPart
from metalearn_cli.algorithms.matching import Matching
from metalearn_cli.algorithms.meta_lstm import MetaLSTM
from metalearn_cli.algorithms.pretrain import Pretrain
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.errors import UserError
from metalearn_cli.nets.base import Call
from metalearn_cli.nets.conv4 import Conv4
from metalearn_cli.nets.linear import Linear
from metalearn_cli.nets.mlp import MLP
from metalearn_cli.nets.user_module import module_net
from metalearn_cli.system.typed_json import from_json, to_json
from metalearn_cli.tasks.base import TaskDistribution
from metalearn_cli.tasks.cub import CUB
from metalearn_cli.tasks.example_format import Examples, examples_of, require_plausible
from metalearn_cli.tasks.omniglot import Omniglot
from metalearn_cli.tasks.quadratics import Quadratics
from metalearn_cli.tasks.sinusoid import Sinusoid
from metalearn_cli.tasks.table import Table
from metalearn_cli.trained.learned import for_way
from metalearn_cli.trained.model import Model

SPEC, BATCH = images(tasks=1, way=3)
NET = Conv4(SPEC, filters=3)
HEADS = ("IMAML", "MAML", "MAMLPlusPlus", "MetaCurvature", "MetaSGD", "MetaLSTM", "Reptile")


@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=lambda a: type(a).__name__)
def test_what_an_algorithm_learns_is_known_without_memory_for_it(algorithm: Algorithm) -> None:
    """The network as `stored` looks at it, before it trusts the widths in a file."""
    for net in (NET, Conv4(SPEC, filters=3, head_std=0.01), MLP(SPEC, init_std=0.01), Linear(SPEC)):
        try:
            real = algorithm.init(net, torch.Generator())
        except UserError:  # a linear model has no head of its own
            continue
        with torch.device("meta"):
            result = algorithm.init(net, torch.Generator())
        for part, to in zip(result, real, strict=True):
            assert {name: value.shape for name, value in part.items()} == {name: to[name].shape for name in to}
            assert all(value.is_meta for value in part.values())


@pytest.mark.parametrize("algorithm", BY_FAMILY, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("way", [2, 3, 5])
def test_what_has_a_row_for_each_class_gets_their_mean_and_nothing_else_changes(algorithm: Algorithm, way: int) -> None:
    meta = init(algorithm, NET)
    net, other, note = for_way(algorithm, NET, meta, way)
    assert net.spec.outputs == net.spec.train_outputs == way
    changed = set()
    for part, new in zip(meta, other, strict=True):
        assert part.keys() == new.keys()
        for name, value in part.items():
            if new[name] is not value:
                changed.add(name)
                torch.testing.assert_close(new[name], value.mean(0).expand(way, *value.shape[1:]))
    is_head = type(algorithm).__name__ in HEADS and way != 3
    assert bool(changed) == is_head
    assert all("head." in name for name in changed)
    assert note == (f"trained with 3 classes and not {way}: each starts at the mean of the rows of the head" * is_head)


def test_learned_rates_and_slots_of_the_head_are_averaged_too() -> None:
    by_name = {type(algorithm).__name__: algorithm for algorithm in ALGORITHMS}
    result = {name: for_way(by_name[name], NET, init(by_name[name], NET), 5)[1] for name in ("MetaSGD", "Reptile")}
    assert result["MetaSGD"].params["rate:head.weight"].shape[0] == 5
    assert result["Reptile"].buffers["adam.second_moment.head.bias"].shape == (5,)


def test_a_run_of_tasks_whose_way_varied_keeps_the_rows_that_such_tasks_had() -> None:
    net = Conv4(SPEC._replace(padded=True), filters=3)
    meta = init(MAML(), net)
    _, fewer, note = for_way(MAML(), net, meta, 2)
    assert torch.equal(fewer.params["head.weight"], meta.params["head.weight"][:2])
    assert note == ""
    _, more, note = for_way(MAML(), net, meta, 4)
    torch.testing.assert_close(more.params["head.weight"][3], meta.params["head.weight"].mean(0))
    assert "trained with 3 classes and not 4" in note


def test_a_run_whose_shots_alone_varied_has_no_rows_for_fewer_classes() -> None:
    net = Conv4(SPEC._replace(padded=True, one_way=True), filters=3)
    meta = init(MAML(), net)
    _, fewer, note = for_way(MAML(), net, meta, 2)
    torch.testing.assert_close(fewer.params["head.weight"][1], meta.params["head.weight"].mean(0))
    assert "trained with 3 classes and not 2" in note


def test_a_head_that_is_never_adapted_cannot_have_another_way() -> None:
    boil = MAML(adapted=AdaptedPart.body)
    meta = init(boil, NET)
    assert for_way(boil, NET, meta, 3)[2] == ""
    with pytest.raises(UserError, match=r"algo\.adapted=body never changes the head: give 3 classes"):
        for_way(boil, NET, meta, 4)


def model(algorithm: Algorithm) -> Model:
    meta = init(algorithm, NET)
    meta = meta._replace(params={name: value.detach() for name, value in meta.params.items()})
    examples = Examples(SPEC, None, None)
    return Model(algorithm, NET, meta, examples, BatchNorm.inductive, torch.device("cpu"), torch.float64, [])


@pytest.mark.parametrize("algorithm", [ProtoNet(), Matching(fce=True, reads=2), MAML(inner_lr=0.1, test_steps=2)])
def test_predictions_are_those_of_the_algorithm_itself(algorithm: Algorithm) -> None:
    """The support's order is shuffled; where it matters (fce), it is not the classes' order that is learned."""
    result = model(algorithm).adapt(BATCH.support_x[0], BATCH.support_y[0]).outputs(BATCH.query_x[0])
    assert result.dtype == torch.float64
    if isinstance(algorithm, Matching):
        return
    meta = model(algorithm).meta
    with torch.no_grad():
        *_, predict = algorithm.adapt(NET, meta, BATCH.support, algorithm.test_steps)
        expected = predict(BATCH.query_x, BatchNorm.inductive)[0]
    torch.testing.assert_close(result, expected)


LEARNED = [
    algorithm for algorithm in ALGORITHMS if type(algorithm).__name__ not in ("LearnedOptimizer", "HandOptimizer")
]


@pytest.mark.parametrize("algorithm", LEARNED, ids=lambda a: type(a).__name__)
def test_the_network_that_was_learned_is_there_for_other_uses(algorithm: Algorithm) -> None:
    result, x = model(algorithm), BATCH.query_x[0]
    state = result.state_dict()
    assert state.keys() == result.meta.params.keys() | result.meta.buffers.keys()
    assert not any(state[name].data_ptr() == value.data_ptr() for name, value in result.meta.params.items())
    module, features = result.module(), result.embed(x)
    prefix = "learner." * isinstance(algorithm, MetaLSTM)
    for name, value in module.state_dict().items():
        place = prefix * ("norm.mean" not in name and "norm.var" not in name) + name
        assert torch.equal(value, state[place] if place in state else state[f"step:{name}"][0])
    stats = {name: result.meta.buffers[name] for name in NET.init_stats()}
    learned = network(algorithm, result.meta)
    params = {name: learned[name] for name in NET.shapes if name in learned}
    torch.testing.assert_close(features, NET.features(params, x[None], Call(stats=stats))[0][0])
    expected = features if type(algorithm).__name__ not in HEADS else NET(params, x[None], Call(stats=stats))[0][0]
    torch.testing.assert_close(module(x), expected)
    assert torch.equal(result.embed(x[:1]), features[:1])


def test_an_algorithm_that_learns_no_network_has_none_to_give() -> None:
    for algorithm in ALGORITHMS:
        if algorithm not in LEARNED:
            for call in (model(algorithm).module, lambda a=algorithm: model(a).embed(BATCH.query_x[0])):
                with pytest.raises(UserError, match=r"Optimizer starts each task with a network that it draws"):
                    call()


def test_the_head_of_all_training_classes_comes_along() -> None:
    """Those of a run of algo=pretrain; the cosine head of algo=fine_tune is none of the network's."""
    spec = SPEC._replace(base=7)
    ours, own = Conv4(spec, filters=3), module_net(Module, spec, {})
    cosine = FineTune(head=Classifier.cosine)
    for algorithm, net, outputs in (
        (Pretrain(), ours, 7),
        (FineTune(), ours, 7),
        (cosine, ours, 3),
        (Pretrain(), own, 7),
    ):
        meta, examples = algorithm.init(net, torch.Generator()), Examples(SPEC, None, None)
        result = Model(algorithm, net, meta, examples, BatchNorm.inductive, torch.device("cpu"), torch.float32, [])
        x = BATCH.query_x[0].float()
        out = result.module()(x)
        assert out.shape == (len(x), outputs)
        if net is ours and outputs == 7:
            head = meta.params["head.weight"].T
            torch.testing.assert_close(out, result.embed(x) @ head + meta.params["head.bias"])


def test_an_export_has_no_scores() -> None:
    for call in (model(ProtoNet()).episodes, model(ProtoNet()).inner_curve):
        with pytest.raises(
            UserError, match=r"^an export holds neither the data nor the scores of its run: load the ru"
        ):
            call()


def test_what_a_notebook_prints_is_a_line() -> None:
    result = model(ProtoNet())
    predictor = result.adapt(BATCH.support_x[0], BATCH.support_y[0])
    assert repr(result).startswith("<ProtoNet with Conv4 on examples of ")
    assert len(repr(predictor)) < 200


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([torch.tensor(number) for number in (0, 1, 0, 1)], [0, 1]),  # as they come from a Dataset
        ([torch.tensor([number]) for number in (0, 1, 0, 1)], [0, 1]),
        ([np.int64(1), 1.0, 2, 2], [1, 2]),
    ],
)
def test_labels_may_be_numbers_of_several_kinds(y: list[object], classes: list[object]) -> None:
    assert model(ProtoNet()).adapt(BATCH.support_x[0, :4], y).classes == classes


def test_many_queries_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = model(ProtoNet()).adapt(BATCH.support_x[0], BATCH.support_y[0])
    whole = predictor(BATCH.query_x[0])
    monkeypatch.setattr("metalearn_cli.trained.model.AT_ONCE", 2)
    torch.testing.assert_close(predictor(BATCH.query_x[0]), whole)
    together = replace(predictor.model, batch_norm=BatchNorm.transductive).adapt(BATCH.support_x[0], BATCH.support_y[0])
    assert not torch.allclose(together(BATCH.query_x[0])[:2], together(BATCH.query_x[0][:2]))


def test_pictures_and_pixels_of_another_range_are_refused() -> None:
    with pytest.raises(UserError, match="does not tell how a picture becomes an example"):
        model(ProtoNet()).read(["a.png"])
    with pytest.raises(UserError, match=r"x holds pixels from 0 to 255: give numbers in 0\.\.1, or uint8"):
        model(ProtoNet()).adapt(BATCH.support_x[0].round() * 255, BATCH.support_y[0])


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        ([0, "a", 1, 2], "y has labels of the types number and str: give all of one type"),
        ([True, 2, 1, 2], "y has labels of the types bool and number"),
        ([0, None, 1, 2], "y has None for example 2: give every example of the support a label"),
        ([0, 1.0, float("nan"), 2], "y has nan for example 3"),
        ([None] * 4, "y has None for example 1"),
        (None, "y is None, and a list with a label for each of 4 examples is expected"),
        (3, "y is 3, and a list with a label"),
        ("abcd", "y is 'abcd', and a list with a label"),
        (torch.tensor(1), "and a list with a label for each"),
        ([{}, {}, {}, {}], "y has labels that cannot be sorted"),
        ([1j, 2j, 1j, 2j], "y has labels that cannot be sorted"),
        ([], "y has 0 labels for 4 examples"),
        ([torch.tensor([number, 0]) for number in (0, 1, 0, 1)], "one for each is expected"),
    ],
)
def test_labels_that_are_none_or_of_several_types_are_refused(y: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        model(ProtoNet()).adapt(BATCH.support_x[0, :4], y)


@pytest.mark.parametrize("mode", BatchNorm)
@pytest.mark.parametrize("x", [[], (), torch.zeros(0, 1, 28, 28), np.zeros((0, 3)), 5.0, torch.tensor(1.0)])
def test_no_query_is_a_sentence(x: object, mode: BatchNorm) -> None:
    predict = replace(model(ProtoNet()), batch_norm=mode).adapt(BATCH.support_x[0], BATCH.support_y[0])
    for call in (predict, predict.unlike, predict.outputs):
        with pytest.raises(
            UserError, match=r"x is empty: give a list of one example at least|nothing is known of when"
        ):
            call(x)


def test_a_model_that_makes_no_numbers_predicts_nothing() -> None:
    """Of a training that diverged, or of a stranger."""
    whole = model(ProtoNet())
    meta = whole.meta._replace(params={name: value * torch.nan for name, value in whole.meta.params.items()})
    predict = replace(whole, meta=meta).adapt(BATCH.support_x[0], BATCH.support_y[0])
    with pytest.raises(UserError, match=r"^the model makes no numbers of 2 of 2 queries: what it has learned, or a"):
        predict(BATCH.query_x[0, :2])


ODD = (torch.zeros(1, 2).to_sparse(), torch.zeros(1, 2, dtype=torch.complex64))


@pytest.mark.parametrize("x", [None, {}, object(), "a.png", [None], [[1.0], [2.0, 3.0]], (n for n in range(3)), *ODD])
def test_a_query_of_another_kind_is_a_sentence(x: object) -> None:
    predict = model(ProtoNet()).adapt(BATCH.support_x[0], BATCH.support_y[0])
    with pytest.raises(UserError, match=r"x and y must be numbers|does not tell how a picture becomes an example"):
        predict(x)


@pytest.mark.parametrize(
    "task", [Omniglot(), CUB(), Sinusoid(), Quadratics(), Table(str(TABLE))], ids=lambda task: type(task).__name__
)
def test_what_a_run_keeps_of_its_task_comes_back(task: TaskDistribution) -> None:
    examples = examples_of(task)
    assert from_json(Examples, json.loads(json.dumps(to_json(examples))), Path()) == examples
    assert (examples.preparation is None) == (examples.columns is not None)
    if examples.columns is not None and isinstance(task, Table):
        assert examples.columns.targets == ("y",)
        assert examples.columns.x_scale is not None


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("features", ["x", "z"]),
        ("targets", []),
        ("labels", ["a"]),
        ("x_scale", {"mean": [0], "deviation": [0]}),
        ("x_scale", {"mean": [0, 1], "deviation": [1]}),
        ("y_scale", {"mean": ["0"], "deviation": [1]}),
        ("y_scale", {"mean": [float("nan")], "deviation": [1]}),
        ("x_range", {"low": [0]}),
        ("x_range", {"low": [0], "high": [True]}),
    ],
)
def test_odd_columns_are_refused(name: str, odd: object) -> None:
    content = to_json(examples_of(Sinusoid()))
    content["columns"][name] = odd
    with pytest.raises(UserError):
        require_plausible(from_json(Examples, content, Path()), Path())
